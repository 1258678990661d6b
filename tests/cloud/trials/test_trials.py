"""Trials: plans are checked, results depend on the plan alone, a killed run goes on, the report says what it must."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from scipy import stats

from cloud.trials import advised
from cloud.trials.analyse import analyse
from cloud.trials.command import _locked, read_prior, trial
from cloud.trials.plan import OUTCOME_NAMES, Arm, Plan, PopulationPlan, Size, read_plan, reference_words
from cloud.trials.provenance import gather, result_digest
from cloud.trials.report import advised_words, domain_words, nobody_words, report_html
from cloud.trials.run import CHUNK, PART, Outcome, Store, run_trial, sample_size
from cloud.trials.simulate import Job, Row, arms_of, measure, run_job
from core import closed_loop as loop
from core.advice_types import Advice, Policy
from core.errors import ConfigError, EnvironmentMissing, InputError
from core.twin import Twin
from core.units import US_PER_DAY

ROOT = Path(__file__).parents[3]
ARMS = (Arm("usual care"), Arm("basal × 0.8", basal_factor=0.8))
PLAN = """
name = "Less basal"
days = 2
seed = 3
[size]
people = {people}
[[arms]]
name = "usual care"
[[arms]]
name = "basal × 0.8"
basal_factor = 0.8
"""


def plan(**changes: object) -> Plan:
    base: dict[str, object] = {"name": "t", "arms": ARMS, "size": Size(people=8), "days": 2, "seed": 3}
    return Plan(**(base | changes))  # type: ignore[arg-type]


def made(p: Plan, folder: Path, **how: object) -> list[Row]:
    return run_trial(p, None, gather(p, b"", None), folder, **how).rows  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("name = 'x'", "arms"),
        (PLAN.format(people=8) + "colour = 1", "colour"),
        (PLAN.format(people=1), "size.people"),
        (PLAN.format(people=8).replace("0.8\n", "-1\n"), "basal_factor"),
        (PLAN.format(people=8).replace("usual care", "basal × 0.8"), "same name"),
        (PLAN.format(people=8).replace("days = 2", "days = 0"), "days"),
        (PLAN.format(people=8).replace("seed = 3", "primary = 'luck'"), "primary"),
        (PLAN.format(people="8\nhalf_width = 1"), "exactly one"),
        (PLAN.format(people=8) + "doses = 'dice'", "dice"),
        (PLAN.format(people=8) + "doses = 'advice'\nadvice_draws = 10", "advice_draws"),
        (PLAN.format(people=8) + "doses = 'advice'\nmax_bolus_u = 0", "max_bolus_u"),
        ("\x00", "trial.toml"),
        ("a=" + "[" * 100_000, "trial.toml"),
        (PLAN.format(people=8).replace("people = 8", "half_width = 1e-200"), "1e-06 or more"),
        (
            PLAN.format(people="3").replace("seed = 3", "seed = 3\ndesign = 'parallel'"),
            "two people for each arm",
        ),
    ],
)
def test_a_wrong_plan_says_what_is_wrong(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "trial.toml").write_text(text)
    with pytest.raises(ConfigError, match=match):
        read_plan(tmp_path / "trial.toml")


def test_the_plan_in_the_docs_is_a_plan(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "trials.md").read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]
    (tmp_path / "trial.toml").write_text(text, encoding="utf-8")
    shown, _ = read_plan(tmp_path / "trial.toml")
    assert shown.arms[1].basal_factor == 0.9
    assert shown.size.people == 1000


def test_numbers_do_not_depend_on_how_people_are_cut_into_jobs() -> None:
    p = plan()
    whole = run_job(Job(p, None, 0, 5))
    parts = [row for first in (3, 0) for row in run_job(Job(p, None, first, {3: 2, 0: 3}[first]))]
    assert result_digest(whole) == result_digest(parts)
    assert result_digest(whole) != result_digest(run_job(Job(plan(seed=4), None, 0, 5)))


def test_arms_change_what_they_say_and_nothing_else() -> None:
    rows = run_job(Job(plan(arms=(*ARMS, Arm("the same again"))), None, 0, 6))
    by = {(r.person, r.arm): dict(zip(OUTCOME_NAMES, r.values, strict=True)) for r in rows}
    for person in range(6):
        assert by[person, 2] == by[person, 0]  # the same life to the bit
        usual, less = by[person, 0]["basal_u_per_day"], by[person, 1]["basal_u_per_day"]
        assert less == pytest.approx(0.8 * usual)
    assert np.mean([by[k, 1]["mean_mgdl"] - by[k, 0]["mean_mgdl"] for k in range(6)]) > 2.0


def test_the_adviser_is_an_arm(tmp_path: Path) -> None:
    advice = Arm("the twin's advice", doses="advice", advice_draws=299)
    strict = Arm("advice, else nothing", doses="advice", advice_draws=299, when_refused="nothing")
    p = plan(arms=(ARMS[0], advice, strict), days=1, size=Size(people=2))
    rows = made(p, tmp_path)
    by = {(r.person, r.arm): r for r in rows}
    bolus = OUTCOME_NAMES.index("bolus_u_per_day")
    usual = run_job(Job(plan(days=1, size=Size(people=2)), None, 0, 2))
    for person in range(2):
        # Whoever else lives beside it, the calculator's arm is what it always was.
        assert by[person, 0].values == next(r.values for r in usual if (r.person, r.arm) == (person, 0))
        assert (by[person, 0].asked, by[person, 0].refused) == (0, 0)
        assert by[person, 1].asked >= by[person, 1].refused >= 0
        assert by[person, 1].asked >= 3  # meals
        assert by[person, 2].values[bolus] < by[person, 0].values[bolus]
    assert {r.values for r in rows if r.arm == 1} != {r.values for r in rows if r.arm == 0}
    assert sum(r.refused for r in rows) > 0
    # Again, half of it taken up from disk: the same bits.
    (tmp_path / "chunks" / "0000000-001.json").unlink()
    again = run_trial(p, None, gather(p, b"", None), tmp_path)
    assert again.resumed == 1
    assert result_digest(rows) == result_digest(again.rows)
    assert [(r.asked, r.refused) for r in again.rows] == [(r.asked, r.refused) for r in rows]
    words = advised_words(p, rows)
    assert len(words) == 2
    assert "no dose stood in" in words[1]


def test_the_adviser_knows_what_a_hub_would_and_nothing_later(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, float, int, set[str]]] = []

    def advise(twin: Twin, t: int, carbs_g: float, policy: Policy, question: str) -> Advice:
        entries = twin.record.entries
        assert entries[-1].time_us == t
        assert {e.kind for e in entries if e.time_us == t} == {"cgm_mgdl"}
        grams = [e for e in entries if e.kind == "carbs_g"]
        seen.append((t, carbs_g, len(grams), {e.kind for e in entries}))
        assert question == ("meal" if carbs_g > 0 else "correction")
        return Advice(2.0, 0.0, 0.0, 300.0, 299, None, (), ())

    monkeypatch.setattr(Twin, "advise", advise)
    p = plan(arms=(ARMS[0], Arm("advice", doses="advice", advice_draws=299)), days=1)
    rows = run_job(Job(p, None, 0, 1))
    assert len(seen) == rows[1].asked
    assert rows[1].refused == 0
    assert seen[-1][3] == {"cgm_mgdl", "carbs_g", "bolus_u", "basal_uph"}
    asked_g = [g for _, g, _, _ in seen if g > 0]
    # Every meal that was said is on record afterwards, and sugar against lows beside it.
    assert seen[-1][2] >= len(asked_g) - 1
    doses = rows[1].values[OUTCOME_NAMES.index("bolus_u_per_day")]
    measured = [t for t, *_ in seen if t >= advised.START_US + US_PER_DAY]
    assert doses == pytest.approx(2.0 * len(measured))


def test_parallel_arms_are_balanced_in_every_block() -> None:
    p = plan(design="parallel", arms=(*ARMS, Arm("c")))
    drawn = [arms_of(p, k) for k in range(300)]
    assert all(len(d) == 1 for d in drawn)
    for block in range(100):
        assert sorted(d[0] for d in drawn[3 * block : 3 * block + 3]) == [0, 1, 2]
    assert len({tuple(d[0] for d in drawn[3 * b : 3 * b + 3]) for b in range(100)}) == 6


def test_measures_by_hand() -> None:
    out = np.zeros((2 * 288, loop.N_OUT))
    out[:, loop.O_CGM] = out[:, loop.O_PLASMA] = 100.0
    out[288:, loop.O_BASAL] = 1.0
    out[300:303, loop.O_PLASMA] = out[300:303, loop.O_CGM] = 50.0  # one low of 15 min
    out[310:312, loop.O_PLASMA] = 50.0  # too short
    out[400, loop.O_BOLUS], out[401, loop.O_RESCUE] = 6.0, 15.0
    got = dict(zip(OUTCOME_NAMES, measure(out, 1), strict=True))
    assert got["below_54_pct"] == pytest.approx(100 * 3 / 288)
    assert got["below_70_pct"] == pytest.approx(100 * 3 / 288)
    assert got["in_range_pct"] == pytest.approx(100 * 285 / 288)
    assert got["lows_per_week"] == pytest.approx(7.0)
    assert (got["bolus_u_per_day"], got["basal_u_per_day"]) == (6.0, pytest.approx(24.0))
    assert got["rescues_per_week"] == 7.0
    assert got["lowest_mgdl"] == 50.0
    # Kovatchev: f(100) = 1.509·(ln 100^1.084 − 5.381) = −.2195, f(50) = −1.503: risks .482 and 22.58
    assert got["lbgi"] == pytest.approx((285 * 0.4817 + 3 * 22.58) / 288, rel=2e-3)


def test_differences_are_the_textbook_tests() -> None:
    rows = run_job(Job(plan(), None, 0, 12))
    at = OUTCOME_NAMES.index("mean_mgdl")
    a, b = (np.array([r.values[at] for r in rows if r.arm == arm]) for arm in (0, 1))
    got = analyse(plan(), rows).differences["mean_mgdl"][0]
    paired = stats.ttest_rel(b, a).confidence_interval()
    assert (got.low, got.high) == pytest.approx((paired.low, paired.high))
    p = plan(design="parallel")
    got = analyse(p, rows).differences["mean_mgdl"][0]
    welch = stats.ttest_ind(b, a, equal_var=False).confidence_interval()
    assert (got.low, got.high) == pytest.approx((welch.low, welch.high))
    share = analyse(p, rows).safety["CV above 36 %"][0]
    exact = stats.binomtest(share.count, share.people).proportion_ci()
    assert (share.low, share.high) == pytest.approx((exact.low, exact.high))


def test_number_of_people_follows_precision_and_power() -> None:
    rng = np.random.default_rng(1)
    at = OUTCOME_NAMES.index("in_range_pct")
    rows = []
    for person in range(400):
        base, gap = 80 + 5 * rng.standard_normal(), 1 + 2 * rng.standard_normal()
        for arm, value in ((0, base), (1, base + gap)):
            values = [0.0] * len(OUTCOME_NAMES)
            values[at] = value
            rows.append(Row(person, arm, tuple(values), (0.0,) * 4))
    sd = np.std([rows[2 * k + 1].values[at] - rows[2 * k].values[at] for k in range(400)], ddof=1)
    n, words = sample_size(plan(size=Size(half_width=0.25)), rows)
    assert n == math.ceil((1.959964 * sd / 0.25) ** 2)
    assert "± 0.25" in words
    n, words = sample_size(plan(size=Size(detect=0.5, power=0.8)), rows)
    assert n == math.ceil(((1.959964 + 0.841621) * sd / 0.5) ** 2)
    n, words = sample_size(plan(size=Size(half_width=0.01, most=1000)), rows)
    assert n == 1000
    assert "would be needed" in words


def test_precision_is_reached_and_the_pilot_stays_in(tmp_path: Path) -> None:
    p = plan(size=Size(half_width=2.5, pilot=20, most=60), primary="mean_mgdl", days=1)
    rows = made(p, tmp_path)
    people = len({r.person for r in rows})
    got = analyse(p, rows).differences["mean_mgdl"][0]
    assert people == 60 or (got.high - got.low) / 2 < 2.5 * 1.5
    assert result_digest(rows[:40]) == result_digest(run_job(Job(p, None, 0, 20)))


def test_a_damaged_or_foreign_chunk_is_made_again(tmp_path: Path) -> None:
    p = plan(size=Size(people=CHUNK + 3), days=1)
    rows = made(p, tmp_path)
    first, second = sorted((tmp_path / "chunks").iterdir())
    first.write_bytes(first.read_bytes()[:100])
    second.write_bytes(second.read_bytes().replace(b'"key":"', b'"key":"x'))
    assert result_digest(made(p, tmp_path)) == result_digest(rows)
    assert Store(tmp_path, gather(p, b"", None).key).load(0, CHUNK) is not None


def test_dask_gives_the_same_bits(tmp_path: Path) -> None:
    from distributed import LocalCluster

    p = plan(size=Size(people=2 * CHUNK + 1), days=1)
    alone = made(p, tmp_path / "a")
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None, silence_logs=50
    ) as cluster:
        spread = made(p, tmp_path / "b", scheduler=cluster.scheduler_address)
    assert result_digest(spread) == result_digest(alone)


def test_no_scheduler_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud.trials.run.SCHEDULER_TIMEOUT", "300ms")
    with pytest.raises(EnvironmentMissing, match="no Dask scheduler"):
        made(plan(), tmp_path, scheduler="tcp://127.0.0.1:9")
    with pytest.raises(InputError, match="must name host and port"):
        made(plan(), tmp_path, scheduler="nonsense")


def test_an_arm_beyond_the_model_is_not_answered_with_confidence(tmp_path: Path) -> None:
    arms = (Arm("usual care"), Arm("none", basal_factor=0.0), Arm("fast", meal_size_factor=0.0))
    p = plan(arms=arms, size=Size(people=2), days=1)
    said = domain_words(p, analyse(p, made(p, tmp_path)))
    assert [words.split(": ")[:2] for words in said] == [
        ["NOT TRUSTWORTHY", "none"],
        ["NOT TRUSTWORTHY", "fast"],
    ]
    mild = plan(size=Size(people=2), days=1)
    assert not domain_words(mild, analyse(mild, made(mild, tmp_path / "mild")))


def test_killed_run_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    source = tmp_path / "trial.toml"
    source.write_text(PLAN.format(people=5 * CHUNK))
    command = [sys.executable, str(ROOT / "hometwin.py"), "trial", str(source), "--workers", "1", "--out"]
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    out = tmp_path / "killed"
    process = subprocess.Popen([*command, str(out)], env=environment, cwd=tmp_path)
    deadline = time.monotonic() + 100
    while len(list((out / "chunks").glob("0*.json"))) < 2 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "report.html").exists()
    kept = {p: p.stat().st_mtime_ns for p in (out / "chunks").glob("0*.json")}
    said = trial(source, out, workers=1)
    assert any("taken up" in line for line in said)
    assert all(p.stat().st_mtime_ns == at for p, at in kept.items())
    trial(source, tmp_path / "whole", workers=1)
    for name in ("results.csv", "summary.json", "report.html", "trial.toml"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_full_disk_is_one_line_and_the_run_goes_on_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "trial.toml", tmp_path / "full"
    source.write_text(PLAN.format(people=2 * CHUNK))
    trial(source, tmp_path / "whole", workers=1)
    real = os.fsync

    def fills(at: int) -> None:
        """The disk takes ``at`` files, and of the next one only a part."""
        left = [at]

        def fsync(file: int) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(file)

        monkeypatch.setattr("os.fsync", fsync)

    for at, name in enumerate(("key", "0000000-020.json", "0000020-020.json", "results.csv")):
        fills(min(at, 1))  # what was written before is not written again
        with pytest.raises(
            InputError, match=rf"{name}: cannot be written: No space left.*goes on from here"
        ) as refused:
            trial(source, out, workers=1)
        assert refused.value.exit_code == 2
        assert not [p for p in out.rglob("*") if p.name.startswith(PART)]
        assert not (out / "report.html").exists()
    monkeypatch.undo()
    assert any("2 chunks were there" in line for line in trial(source, out, workers=1))
    for name in ("results.csv", "summary.json", "report.html", "trial.toml"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_real_limit_ends_the_command_with_code_2(tmp_path: Path) -> None:
    """No file may grow past 1 kB: as a full disk, but without one."""
    source, out = tmp_path / "trial.toml", tmp_path / "out"
    source.write_text(PLAN.format(people=2 * CHUNK))
    limited = (
        "import resource, sys; from edge.process import with_one_line_errors; from cloud.trials.command import trial;"
        "from pathlib import Path; trial(Path(sys.argv[1]), Path(sys.argv[3]), workers=1);"  # kernels are cached now
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "with_one_line_errors(lambda: trial(Path(sys.argv[1]), Path(sys.argv[2]), workers=1))"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", limited, str(source), str(out), str(tmp_path / "before")],
        capture_output=True,
        text=True,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        timeout=110,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "0000000-020.json: cannot be written: File too large (see to room and rights" in done.stderr
    assert [p.name for p in (out / "chunks").iterdir()] == []


def test_what_a_killed_run_left_half_written_is_cleared_and_does_not_stop_the_next(tmp_path: Path) -> None:
    source, out = tmp_path / "trial.toml", tmp_path / "out"
    source.write_text(PLAN.format(people=2))
    out.mkdir()
    (out / f"{PART}abcd_123").write_bytes(b"key, half")  # killed before the folder was even claimed
    trial(source, out, workers=1)
    (out / "chunks" / f"{PART}0000zzzz").write_bytes(b"half a chunk")
    trial(source, out, workers=1)
    assert not [p for p in out.rglob("*") if p.name.startswith(PART)]


def test_two_runs_do_not_share_a_folder_at_a_time(tmp_path: Path) -> None:
    source, out = tmp_path / "trial.toml", tmp_path / "out"
    source.write_text(PLAN.format(people=2))
    with _locked(out), pytest.raises(InputError, match="another run is at work there"):
        trial(source, out, workers=1)
    assert list(out.iterdir()) == []
    trial(source, out, workers=1)


def test_report_and_table_hold_what_was_measured(tmp_path: Path) -> None:
    source = tmp_path / "trial.toml"
    source.write_text(PLAN.format(people=12).replace("Less basal", "Less <basal>"))
    lines = trial(source, tmp_path / "out", workers=1)
    summary = json.loads((tmp_path / "out" / "summary.json").read_bytes())
    page = (tmp_path / "out" / "report.html").read_text()
    rows = list(csv.DictReader((tmp_path / "out" / "results.csv").open()))
    assert len(rows) == 24
    mean = np.mean([float(r["in_range_pct"]) for r in rows if r["arm"] == "usual care"])
    assert summary["analysis"]["figures"]["in_range_pct"][0]["mean"] == pytest.approx(mean)
    assert f"{mean:.1f} <small>% in range" in page
    for needed in (
        "Less &lt;basal&gt;",
        "Simulation is not clinical evidence",
        summary["result_sha256"],
        summary["provenance"]["code_sha256"],
        "plasma glucose below 54 at any time",
        "basal_factor 0.8",
        "numpy ",
    ):
        assert needed in page, needed
    assert "<basal>" not in page
    assert "http" not in page
    assert any(summary["result_sha256"][:16] in line for line in lines)


def test_a_file_without_an_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="zero: larger than 8 MiB"):
        read_plan(Path("/dev/zero"))
    with pytest.raises(ConfigError, match=r"population\.file: larger than"):
        read_prior(PopulationPlan("prior", "/dev/zero"), tmp_path)
    (tmp_path / "deep.json").write_text("[" * 200_000)
    with pytest.raises(ConfigError, match="is not a population prior"):
        read_prior(PopulationPlan("prior", "deep.json"), tmp_path)


def test_a_folder_is_never_shared_by_two_trials(tmp_path: Path) -> None:
    source = tmp_path / "trial.toml"
    source.write_text(PLAN.format(people=2))
    trial(source, tmp_path / "out", workers=1)
    source.write_text(PLAN.format(people=3))
    with pytest.raises(InputError, match="another plan"):
        trial(source, tmp_path / "out", workers=1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="not empty"):
        trial(source, tmp_path / "other", workers=1)
    assert (tmp_path / "other" / "letter.txt").read_text() == "dear"


@pytest.mark.parametrize("damage", ["absent", "text", "size", "indefinite"])
def test_a_prior_that_is_none_is_refused(tmp_path: Path, damage: str) -> None:
    good = {
        "version": 1, "model": "glucose/1", "names": ["ln_s", "ln_tg"], "mean": [0.0, 0.0],
        "covariance": [0.1, 0.0, 0.1], "stratum": "s", "provenance": "p", "expires_us": 0,
    }  # fmt: skip
    path = tmp_path / "prior.json"
    if damage == "text":
        path.write_text("{")
    if damage == "size":
        path.write_bytes(msgspec.json.encode(good | {"covariance": [0.1]}))
    if damage == "indefinite":
        path.write_bytes(msgspec.json.encode(good | {"covariance": [0.1, 0.5, 0.1]}))
    with pytest.raises(ConfigError, match=r"population\.file"):
        read_prior(PopulationPlan("prior", "prior.json"), tmp_path)
    path.write_bytes(msgspec.json.encode(good))
    prior = read_prior(PopulationPlan("prior", "prior.json"), tmp_path)
    assert prior is not None
    assert run_job(Job(plan(days=1), prior, 0, 1))


def test_people_of_the_cloud_are_drawn_from_what_its_hubs_know(tmp_path: Path) -> None:
    from tests.cloud import filled

    db = filled.open_database(tmp_path)
    with db.write() as session:
        for k in range(6):
            filled.fill(session, f"hub-{k}", f"Person {k}")
    db.close()
    (tmp_path / "database.key").write_bytes(filled.KEY)
    (tmp_path / "database.key").chmod(0o600)
    (tmp_path / "cloud.toml").write_text('[mqtt]\nhost = "127.0.0.1"\n')
    prior = read_prior(PopulationPlan("cloud", "cloud.toml"), tmp_path)
    assert prior is not None
    assert "6 other hubs" in prior.provenance
    source = tmp_path / "trial.toml"
    source.write_text(PLAN.format(people=2) + '[population]\nkind = "cloud"\nfile = "cloud.toml"\n')
    trial(source, tmp_path / "out", workers=1)
    # The same people again, from the prior that was kept beside the result, without the cloud.
    source.write_text(PLAN.format(people=2) + '[population]\nkind = "prior"\nfile = "out/prior.json"\n')
    trial(source, tmp_path / "again", workers=1)
    assert (tmp_path / "again" / "results.csv").read_bytes() == (
        tmp_path / "out" / "results.csv"
    ).read_bytes()


def test_what_nobody_had_is_no_zero_with_a_zero_interval(tmp_path: Path) -> None:
    """Two arms without a low: the page says that nobody had any, and how many might."""
    p = plan(size=Size(people=30))
    at = OUTCOME_NAMES.index("below_54_pct")
    rows = [Row(n, arm, _values(n, {at: 0.0}), (70.0, 30.0, 8.0, 1.0)) for n in range(30) for arm in (0, 1)]
    found = analyse(p, rows)
    (gap,) = found.differences["below_54_pct"]
    # Hanley and Lippman-Hand, JAMA 1983;249:1743: about 3/n; exactly 1 - .05^(1/30) = 9.5 %.
    assert nobody_words(p, found, "below_54_pct", gap) == (
        "nobody had any in either arm (of 30; 95 %: under 9.5 % of people have any)"
    )
    same = {at: 0.0, OUTCOME_NAMES.index("basal_u_per_day"): 7.0}
    rows = [r if r.arm == 0 else Row(r.person, 1, _values(r.person, same), r.baseline) for r in rows]
    rows = [Row(r.person, r.arm, _values(r.person, same), r.baseline) for r in rows]
    found = analyse(p, rows)
    assert nobody_words(p, found, "basal_u_per_day", found.differences["basal_u_per_day"][0]).startswith(
        "the same in both arms"
    )
    page = report_html(p, Outcome(rows, 30, "30 people", 0), found, gather(p, b"", None), "0" * 64)
    assert "nobody (95 %: under 9.5 % of people)" in page
    assert "(+0.0 to +0.0)" not in page
    assert "(+0.00 to +0.00)" not in page


def _values(person: int, fixed: dict[int, float]) -> tuple[float, ...]:
    return tuple(fixed.get(k, 10.0 + person + 0.1 * k) for k in range(len(OUTCOME_NAMES)))


def test_tiles_have_intervals_of_the_mean(tmp_path: Path) -> None:
    rows = [Row(n, arm, _values(n, {}), (70.0, 30.0, 8.0, 1.0)) for n in range(8) for arm in (0, 1)]
    found = analyse(plan(), rows)
    figure = found.figures["in_range_pct"][0]
    values = 10.0 + np.arange(8)
    low, high = stats.t.interval(0.95, 7, values.mean(), stats.sem(values))
    assert (figure.low, figure.high) == pytest.approx((low, high))
    page = report_html(plan(), Outcome(rows, 8, "8 people", 0), found, gather(plan(), b"", None), "0" * 64)
    assert f"95 %: {low:.1f} to {high:.1f}" in page


def test_the_arm_that_the_plan_names_is_the_reference(tmp_path: Path) -> None:
    source = tmp_path / "trial.toml"
    text = PLAN.format(people=4)
    source.write_text(text)
    first = read_plan(source)[0]
    assert [arm.name for arm in first.arms] == ["usual care", "basal × 0.8"]
    assert reference_words(first) == "reference: usual care (the arm named first)"
    source.write_text(text.replace("seed = 3", "seed = 3\nreference = 'basal × 0.8'"))
    named = read_plan(source)[0]
    assert [arm.name for arm in named.arms] == ["basal × 0.8", "usual care"]
    lines = trial(source, tmp_path / "out", workers=1)
    assert "reference: basal × 0.8 (as the plan says)" in lines
    assert any(line.startswith("usual care against basal × 0.8: ") for line in lines)
    source.write_text(text.replace("seed = 3", "seed = 3\nreference = 'usual car'"))
    with pytest.raises(ConfigError, match="names none of the arms"):
        read_plan(source)
