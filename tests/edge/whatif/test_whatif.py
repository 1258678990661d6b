"""``hometwin whatif`` on a small recording: the table of the contract, a whole page, and clear refusals."""

from __future__ import annotations

import csv
import itertools
import os
import re
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from core.errors import InputError
from edge.replay.outputs import iso
from edge.whatif.command import HEADER, whatif
from tests.core.people import live

ROOT = Path(__file__).resolve().parents[3]
WINDOW = ("2023-11-15T12:00", "2023-11-15T20:00")  # of the first day
COLUMNS = [
    "time", "factual_mean", "factual_p05", "factual_p95", "cf_mean", "cf_p05", "cf_p95",
    "effect_mean", "effect_p05", "effect_p95",
]  # fmt: skip


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recording") / "person.csv"
    lines = (f"{iso(s.time_us)[:-1]},{s.kind},{s.value:.4f}" for s in live(1.0, sensitivity=1.1).samples)
    path.write_text("\n".join(("time,kind,value", *lines)) + "\n")
    return path


@pytest.fixture(scope="module")
def out(recording: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run of the real command."""
    folder = tmp_path_factory.mktemp("out") / "answer"
    done = command(recording, folder, "--do", "bolus_u*=0.5", "--do", "carbs_g@2023-11-15T12:45*=0.8")
    assert done.returncode == 0, done.stderr
    assert "counterfactual: mean effect" in done.stdout
    assert "CAUTION: Only" in done.stdout  # half a day of readings is little to know a person by
    assert "NOT TRUSTWORTHY" in done.stdout
    return folder


def command(recording: Path, folder: Path, *changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, str(ROOT / "hometwin.py"), "whatif", str(recording)),
            *("--from", WINDOW[0], "--to", WINDOW[1], *changes, "--draws", "80", "--out", str(folder)),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=110,
    )


def test_the_table_has_exactly_the_columns_of_the_contract(out: Path) -> None:
    with (out / "counterfactual.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == COLUMNS == HEADER.split(",")
    assert len(rows) == 1 + 8 * 12 + 1
    assert rows[1][0] == "2023-11-15T12:00:00Z"
    assert rows[-1][0] == "2023-11-15T20:00:00Z"
    steps = {
        datetime.fromisoformat(b[0]) - datetime.fromisoformat(a[0]) for a, b in itertools.pairwise(rows[1:])
    }
    assert [s.total_seconds() for s in steps] == [300.0]
    for row in rows[1:]:
        numbers = [float(cell) for cell in row[1:]]
        for mean, low, high in (numbers[k : k + 3] for k in (0, 3, 6)):
            assert low - 0.01 <= mean <= high + 0.01
        assert numbers[3] - numbers[0] == pytest.approx(numbers[6], abs=0.02)  # effect = changed − factual
    assert float(rows[1][7]) == 0.0
    assert float(rows[-1][7]) != 0.0


def test_one_reading_where_the_record_begins_is_answered_aloud(tmp_path: Path) -> None:
    path = tmp_path / "one.csv"
    path.write_text(
        "time,kind,value\n2023-11-14T06:00:00,cgm_mgdl,120\n2023-11-15T13:00:00,bolus_u,5\n", encoding="utf-8"
    )
    said = whatif(path, None, *WINDOW, ["bolus_u*=0.7"], tmp_path / "out", 80, 0)
    assert any("NOT TRUSTWORTHY" in line for line in said)


def test_shares_have_intervals_and_notes_reach_the_reader(out: Path, recording: Path, tmp_path: Path) -> None:
    page = (out / "report.html").read_text()
    assert page.count("difference, 90 %:") == 3
    assert "no patient file: local times are taken as UTC" in page
    said = whatif(recording, None, *WINDOW, ["bolus_u>>600"], tmp_path / "out", 80, 0)
    text = "\n".join(said)
    assert "no patient file: local times are taken as UTC" in text
    assert "points)" in text
    assert "moved past the end of the window, and so left out" in text


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(out: Path) -> None:
    assert sorted(p.name for p in out.iterdir()) == ["counterfactual.csv", "report.html"]
    page = (out / "report.html").read_text()
    assert page.endswith("</html>\n")
    assert "http" not in page.replace("http-equiv", "")
    assert "bolus_u*=0.5" in page
    assert "Outside the domain" in page
    assert "nan" not in page.lower().split("<body>")[1]
    assert page.count("<table") == page.count('<div class="scroll"><table')  # else a phone shows half of it


@pytest.mark.system
def test_a_phone_shows_every_column(out: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    assert chromium is not None, "chromium is missing (mend: apt install chromium, or run make test)"
    beyond = "e => [...e.querySelectorAll('*')].filter(x => x.getBoundingClientRect().right > innerWidth + 0.5).length"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        try:
            for width in (320, 390):
                page = browser.new_page(viewport={"width": width, "height": 844})
                page.goto((out / "report.html").as_uri())
                assert page.evaluate("document.documentElement.scrollWidth") == width
                split = page.locator("section", has_text="uncertainty comes from")
                assert split.locator("td:last-child").first.inner_text().endswith("%")
                assert split.evaluate(beyond) == 0
        finally:
            browser.close()


def test_words_of_nearby_doses_do_not_lie_on_each_other(out: Path) -> None:
    page = (out / "report.html").read_text()
    words = [
        (float(y), float(x), text)
        for x, y, text in re.findall(r'<text[^>]*x="([\d.]+)" y="([\d.]+)"[^>]*>([\d.]+ [gU])</text>', page)
    ]
    assert words
    for (y0, x0, text), (y1, x1, _) in itertools.pairwise(sorted(words)):
        assert y0 != y1 or x1 - x0 >= 5 * len(text)


def test_fingersticks_are_drawn_and_the_key_names_all(out: Path, recording: Path, tmp_path: Path) -> None:
    assert "fingerstick " not in (out / "report.html").read_text()
    pricked = tmp_path / "pricked.csv"
    pricked.write_text(recording.read_text() + "2023-11-15T13:00:00,smbg_mgdl,131\n")
    whatif(pricked, None, *WINDOW, ["bolus_u*=0.7"], tmp_path / "out", 80, 0)
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<title>fingerstick 131 mg/dL</title>") == 2  # on a wide page and on a narrow one
    assert "food as logged" in page


def test_a_file_of_the_same_name_is_refused_in_one_line_and_kept(recording: Path, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<h1>my own</h1>")
    done = command(recording, tmp_path, "--do", "bolus_u*=0.5")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "holds a report.html that this command did not write (move report.html away" in done.stderr
    assert (tmp_path / "report.html").read_text() == "<h1>my own</h1>"
    assert len(list(tmp_path.iterdir())) == 1


def test_the_wrong_word_is_one_line_and_exit_code_2(recording: Path, tmp_path: Path) -> None:
    done = command(recording, tmp_path / "new", "--do", "bolus*=0.5")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "unknown target" in done.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("start", "end", "change"),
    [
        ("noon", WINDOW[1], "bolus_u*=0.5"),
        (WINDOW[1], WINDOW[0], "bolus_u*=0.5"),
        ("2020-01-01T00:00", "2020-01-01T12:00", "bolus_u*=0.5"),
        (*WINDOW, "carbs_g@2023-11-15T13:30*=2"),
    ],
)
def test_what_cannot_be_asked_leaves_the_folder_alone(
    recording: Path, tmp_path: Path, start: str, end: str, change: str
) -> None:
    kept = tmp_path / "counterfactual.csv"
    kept.write_text("an older answer\n")
    with pytest.raises(InputError):
        whatif(recording, None, start, end, [change], tmp_path, 80, 0)
    assert kept.read_text() == "an older answer\n"
