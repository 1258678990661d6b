"""Estimators and answers against examples whose truth is known: by hand, from print, and by simulation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from core.causal import estimate as est
from core.causal.effect import (
    compare_with_twin,
    discrete_distribution,
    e_value,
    e_value_of_difference,
    estimate_effect,
)
from core.causal.graph import Graph
from core.causal.identify import identify
from core.causal.regress import t95
from core.causal.scm import LinearScm
from core.causal.twin_graph import EDGES, INSULIN, LATER, NODES, PLACES, twin_graph, twin_svg
from core.errors import InputError, RefusedError

DOCS = Path(__file__).parents[3] / "docs"
CONFOUNDED = Graph(("Z", "A", "Y"), (("Z", "A"), ("Z", "Y"), ("A", "Y")))
FRONT = Graph(("U", "A", "M", "Y"), (("U", "A"), ("U", "Y"), ("A", "M"), ("M", "Y")), frozenset({"U"}))


def self_test(n: int, seed: int) -> dict[str, np.ndarray]:
    """MODELS G: illness Z makes people inject (A), and raises glucose (Y) by 60; insulin lowers it by 20."""
    rng = np.random.default_rng(seed)
    z = (rng.random(n) < 0.5).astype(float)
    a = (rng.random(n) < 0.2 + 0.6 * z).astype(float)
    return {"Z": z, "A": a, "Y": 150 + 60 * z - 20 * a + 15 * rng.standard_normal(n)}


def kidney_stones() -> dict[str, np.ndarray]:
    """Charig 1986: open surgery (A=1) 81/87 small, 192/263 large; percutaneous 234/270 small, 55/80 large."""
    cells = ((1, 0, 81, 87), (1, 1, 192, 263), (0, 0, 234, 270), (0, 1, 55, 80))
    rows = [(a, z, float(k < good)) for a, z, good, n in cells for k in range(n)]
    a, z, y = (np.array(c, dtype=float) for c in zip(*rows, strict=True))
    return {"A": a, "Z": z, "Y": y}


def test_confounding_turns_the_sign_and_adjustment_turns_it_back() -> None:
    r = self_test(40_000, 1)
    assert est.naive(r["Y"], r["A"]).effect == pytest.approx(16.0, abs=1.0)
    for found in (
        est.standardise(r["Y"], r["A"], r["Z"]),
        est.g_computation(r["Y"], r["A"], r["Z"]),
        est.ipw(r["Y"], r["A"], r["Z"]),
        est.doubly_robust(r["Y"], r["A"], r["Z"]),
        est.doubly_robust(r["Y"], r["A"], r["Z"], target="treated"),
        estimate_effect(CONFOUNDED, r, "A", "Y").estimate,
    ):
        assert found.covers(-20.0), found
        assert found.high < -19.0, found


def test_kidney_stones_by_hand() -> None:
    r = kidney_stones()
    assert -est.naive(r["Y"], r["A"]).effect == pytest.approx(0.0457, abs=5e-5)
    adjusted = est.standardise(r["Y"], r["A"], r["Z"])
    assert adjusted.effect == pytest.approx(0.0537, abs=5e-5)
    # The same through the estimand: P(Y=1 | do(A)) = .8325 and .7789.
    found = identify(CONFOUNDED, "A", "Y")
    assert found.estimand is not None
    table = discrete_distribution(found.estimand, r, ("Z", "A", "Y"))
    assert table[0, :, 1] == pytest.approx([0.7789, 0.8325], abs=5e-5)


def test_front_door_by_hand() -> None:
    """P(M=1 | A) = .1, .8; E[Y | m, a] = .2 + .4m + .3a; P(A=1) = .4: effect .7 · .4 = .28, naive .28 + .3."""
    rows = []
    for a, n in ((0, 600), (1, 400)):
        for m, share in ((1, (0.1, 0.8)[a]), (0, 1 - (0.1, 0.8)[a])):
            count = round(n * share)
            good = round(count * (0.2 + 0.4 * m + 0.3 * a))
            rows += [(a, m, float(k < good)) for k in range(count)]
    a, m, y = (np.array(c, dtype=float) for c in zip(*rows, strict=True))
    found = est.front_door(y, a, m)
    assert found.effect == pytest.approx(0.28, abs=1e-12)
    assert est.naive(y, a).effect == pytest.approx(0.58, abs=1e-12)
    named = identify(FRONT, "A", "Y")
    assert named.estimand is not None
    table = discrete_distribution(named.estimand, {"A": a, "M": m, "Y": y}, ("A", "M", "Y"))
    assert float(table[1, 0, 1] - table[0, 0, 1]) == pytest.approx(0.28, abs=1e-12)


def test_counterfactual_of_the_self_test() -> None:
    model = LinearScm(CONFOUNDED, {("Z", "A"): 0.6, ("Z", "Y"): 60.0, ("A", "Y"): -20.0}, {"Y": 150.0})
    seen = {"Z": 1.0, "A": 0.0, "Y": 200.0}
    assert float(model.counterfactual(seen, {"A": 1.0})["Y"]) == pytest.approx(180.0)
    assert float(model.counterfactual(seen, {})["Y"]) == pytest.approx(200.0)
    assert model.total_effect("A", "Y") == -20.0
    with pytest.raises(InputError, match="not seen: Z"):
        model.counterfactual({"A": 0.0, "Y": 200.0}, {"A": 1.0})


@pytest.mark.parametrize("name", ["g_computation", "ipw", "doubly_robust", "front_door"])
def test_intervals_cover_as_often_as_they_say(name: str) -> None:
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng([11, seed])
        if name == "front_door":
            u = rng.standard_normal(500)
            a = (rng.random(500) < 1 / (1 + np.exp(-u))).astype(float)
            m = (rng.random(500) < 0.2 + 0.5 * a).astype(float)
            found = est.front_door(10 * m + 5 * u + rng.standard_normal(500), a, m)
            covered += found.covers(5.0)
            continue
        x = rng.standard_normal((400, 2))
        a = (rng.random(400) < 1 / (1 + np.exp(-0.6 * x[:, 0] + 0.4 * x[:, 1]))).astype(float)
        y = 3 * a + 2 * x[:, 0] + x[:, 1] + a * x[:, 0] + rng.standard_normal(400)
        covered += getattr(est, name)(y, a, x).covers(3.0)
    assert 0.90 <= covered / 200 <= 0.99, covered


def test_either_model_may_be_wrong_but_not_both() -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal(40_000)
    a = (rng.random(x.size) < 1 / (1 + np.exp(-x))).astype(float)
    curved = -5 * a + np.exp(x) + rng.standard_normal(x.size)  # outcome model wrong, chances right
    assert est.doubly_robust(curved, a, x).covers(-5.0)
    steep = (rng.random(x.size) < 0.1 + 0.8 * (x > 0.5)).astype(float)  # chances wrong, outcome right
    assert est.doubly_robust(-5 * steep + 3 * x + rng.standard_normal(x.size), steep, x).covers(-5.0)
    assert not est.g_computation(curved, a, np.sign(x)).covers(-5.0)


def test_rows_of_one_person_do_not_count_as_many_people() -> None:
    rng = np.random.default_rng(2)
    person = np.repeat(np.arange(50), 40)
    a = np.repeat(rng.random(50) < 0.5, 40).astype(float)
    y = np.repeat(10 * rng.standard_normal(50), 40) + rng.standard_normal(2000)
    alone, grouped = est.naive(y, a), est.naive(y, a, person)
    assert grouped.groups == 50
    assert grouped.standard_error > 4 * alone.standard_error


def test_no_comparison_no_answer() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal(500)
    decided = (x > 0).astype(float)
    for call in (est.ipw, est.doubly_robust):
        with pytest.raises(RefusedError, match="no overlap"):
            call(x, decided, x)
    with pytest.raises(RefusedError, match="1 of 2 strata"):
        est.standardise(x, decided, np.where(x > 1, 1, 0))
    with pytest.raises(RefusedError, match="same treatment"):
        est.ipw(x, np.ones(500), x)
    with pytest.raises(RefusedError, match="exact function"):
        est.g_computation(rng.standard_normal(500), x, 2 * x)
    rare = (rng.random(500) < 1 / (1 + np.exp(-4 * x + 5))).astype(float)
    with pytest.raises(RefusedError, match="too little overlap"):
        est.ipw(x, rare, x)


def test_refuses_before_it_computes_and_counts_what_it_left_out() -> None:
    r = self_test(2000, 4)
    with pytest.raises(RefusedError, match="Z would have to be measured"):
        estimate_effect(CONFOUNDED.hiding("Z"), r, "A", "Y")
    with pytest.raises(InputError, match="no column Z"):
        estimate_effect(CONFOUNDED, {"A": r["A"], "Y": r["Y"]}, "A", "Y")
    r["Z"][:100] = math.nan
    answer = estimate_effect(CONFOUNDED, r, "A", "Y")
    assert answer.left_out == 100
    assert answer.estimate.n == 1900
    with pytest.raises(RefusedError, match="illness would have to be measured"):
        estimate_effect(twin_graph(), {}, INSULIN, LATER)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"Z": np.zeros(99)}, "equal length: Y 100, A 100, Z 99"),
        ({"Y": np.zeros(101)}, "equal length"),
        ({"A": np.zeros((100, 2))}, "one number a row"),
        ({"Y": np.float64(3.0)}, "one number a row"),
        ({"Z": np.zeros((100, 2, 2))}, "one or several"),
        ({"Z": ["ill"] * 100}, "numbers alone"),
        ({"Z": [[1.0], [1.0, 2.0]] * 50}, "numbers alone"),
    ],
)
def test_columns_that_do_not_fit_together_are_one_typed_error(change: dict[str, object], match: str) -> None:
    with pytest.raises(InputError, match=match):
        estimate_effect(CONFOUNDED, self_test(100, 1) | change, "A", "Y")


def test_groups_of_another_length_are_one_typed_error() -> None:
    r = self_test(100, 1)
    for groups in (np.arange(99), np.zeros((100, 2))):
        with pytest.raises(InputError, match="groups"):
            estimate_effect(CONFOUNDED, r, "A", "Y", groups=groups)
        with pytest.raises(InputError, match="groups"):
            est.naive(r["Y"], r["A"], groups)


def test_with_few_groups_the_interval_is_students() -> None:
    for freedom, exact in ((9, 2.2622), (14, 2.1448), (29, 2.0452), (10_000, 1.9602)):
        assert t95(freedom) == pytest.approx(exact, abs=5e-4)
    r = self_test(200, 2)
    found = est.naive(r["Y"], r["A"], np.arange(200) // 20)
    assert found.high - found.effect == pytest.approx(2.2622 * found.standard_error, rel=1e-3)


def test_a_covariate_may_take_several_columns_and_the_target_may_be_the_treated() -> None:
    rng = np.random.default_rng(8)
    turn = rng.uniform(0, 2 * math.pi, 20_000)
    hour = np.column_stack([np.sin(turn), np.cos(turn)])
    a = (rng.random(turn.size) < 1 / (1 + np.exp(-hour[:, 0]))).astype(float)
    # The effect is −10 on average, and −10 − 5·E[sin | treated] among the treated.
    y = -10 * a - 5 * a * hour[:, 0] + 30 * hour[:, 0] + rng.standard_normal(turn.size)
    records = {"Z": hour, "A": a, "Y": y}
    among = -10 - 5 * float(hour[a == 1, 0].mean())
    assert estimate_effect(CONFOUNDED, records, "A", "Y").estimate.covers(-10.0)
    treated = estimate_effect(CONFOUNDED, records, "A", "Y", target="treated").estimate
    assert treated.covers(among)
    assert not treated.covers(-10.0)
    with pytest.raises(InputError, match="doubly robust"):
        estimate_effect(CONFOUNDED, records, "A", "Y", "ipw", target="treated")


def test_e_values_of_the_paper() -> None:
    """VanderWeele & Ding 2017: RR 3.9 (1.8 to 8.7) gives 7.26 and 3.0; Table 2: RR .80 gives 1.81."""
    assert e_value(3.9) == pytest.approx(7.26, abs=0.005)
    assert e_value(1.8) == pytest.approx(3.0, abs=1e-12)
    assert e_value(0.8) == pytest.approx(1.81, abs=0.005)
    crossing = e_value_of_difference(-2.0, -5.0, 1.0, 40.0)
    assert crossing.interval == 1.0
    assert crossing.point > 1.0


def test_twin_and_records_are_compared_in_standard_errors() -> None:
    records = est.Estimate("x", -20.0, -24.0, -16.0, 2.0, 100, 10)
    agreed = compare_with_twin(records, lambda a, b: (-18.0 * (b - a), 1.5), (0.0, 1.0))
    assert agreed.z == pytest.approx(2.0 / 2.5)
    assert agreed.agree
    wrong = compare_with_twin(records, lambda a, b: (-5.0, 1.5), (0.0, 1.0))
    assert not wrong.agree
    assert "disagree" in wrong.words()


def test_the_graph_of_the_twin_needs_the_sheets_adjustment_set() -> None:
    found = identify(twin_graph(illness_recorded=True), INSULIN, LATER)
    assert set(found.adjustment) == set(NODES) - {INSULIN, LATER}
    assert identify(twin_graph(), INSULIN, LATER).confounders == ("illness",)


def test_picture_in_the_docs_is_in_step_with_the_data() -> None:
    assert (DOCS / "causal.svg").read_text(encoding="utf-8") == twin_svg(), (
        "run python -m core.causal.twin_graph > docs/causal.svg"
    )
    assert set(PLACES) == set(NODES)
    for (cause, effect), why in EDGES.items():
        assert f"{cause} → {effect}: {why}" in twin_svg().replace("&#x27;", "'")
