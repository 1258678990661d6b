"""``hometwin effect`` on lived records: an answer, a page, and refusals that say what would help."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.drawing.style import page_begins
from core.errors import InputError
from edge.effect.command import effect
from tests.edge.effect.lives import write

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recording") / "person<8>.csv"
    write(path, 8, 40)
    return path


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "hometwin.py"), "effect", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=110,
    )


def test_one_persons_record_is_answered_and_the_twin_stands_beside_it(
    recording: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = command(str(recording), "--never-ill", "--draws", "40", "--out", str(out))
    assert done.returncode == 0, done.stderr
    for words in (
        "is identified by adjusting for hour, insulin on board, meal, activity, glucose now",
        "doubly robust, those who corrected: -",
        "the twin, g-computation: the dose alone: -",
        "they agree",
        "E-value",
        "illness never varied",
        "days of one person",
    ):
        assert words in done.stdout, words
    with (out / "effect.csv").open() as file:
        found = {r["who"]: r for r in csv.DictReader(file)}
    main = found["doubly robust, those who corrected"]
    assert float(main["low"]) < float(main["effect"]) < float(main["high"]) < 0
    # In this record whoever is high is so before a dose, too: looked at all moments, insulin seems to do next to nothing.
    assert float(found["adjusted for nothing, all moments"]["effect"]) > 0.5 * float(main["effect"])
    page = (out / "report.html").read_text()
    assert "person&lt;8&gt;.csv" in page
    assert "<8>" not in page
    assert page.count("<svg") == 3  # the plot in two widths, and the graph
    assert "src=" not in page
    again = effect([recording], [], out, never_ill=True, with_twin=False)  # its own answer it replaces
    assert again
    assert "the twin" not in (out / "effect.csv").read_text()


def test_what_the_record_lacks_is_named_with_what_would_help(recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = command(str(recording), "--out", str(out))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "illness would have to be measured" in done.stderr
    assert "--never-ill" in done.stderr
    assert not out.exists()
    bare = tmp_path / "bare.csv"
    write(bare, 8, 3, heart=False)
    with pytest.raises(InputError, match=r"activity .*--never-active") as refused:
        effect([bare], [], out, above_mgdl=150.0, never_ill=True)
    assert refused.value.exit_code == 2


def test_illness_may_be_told(recording: Path, tmp_path: Path) -> None:
    said = effect(
        [recording], [], tmp_path / "out", ill=["2026-03-04T00:00..2026-03-09T00:00"], with_twin=False
    )
    assert any("adjusting for hour, illness" in line for line in said)
    assert not any("twin" in line for line in said)


def test_a_record_that_overlaps_another_is_one_person_twice(recording: Path, tmp_path: Path) -> None:
    lines = recording.read_text().splitlines(keepends=True)
    part = tmp_path / "part.csv"
    part.write_text("".join(lines[: len(lines) // 2]), encoding="utf-8")
    with pytest.raises(InputError, match=r"part\.csv: holds the same readings"):
        effect([recording, part], [], tmp_path / "out", never_ill=True, with_twin=False)


def test_heart_rates_on_record_are_not_thrown_away(recording: Path, tmp_path: Path) -> None:
    said = [
        effect([recording], [], tmp_path / "out", never_ill=True, never_active=never, with_twin=False)
        for never in (False, True)
    ]
    assert said[0] == said[1]
    assert any("(2026-03-02 to 2026-04-" in line for line in said[0])  # how old the evidence is
    assert any("local times are taken as UTC" in line for line in said[0])


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({"above_mgdl": 20.0}, "--above"),
        (
            {"above_mgdl": 390.0, "never_ill": True, "never_active": True},
            "refused: no comparison: 0 corrections",
        ),
        ({"after_min": 7.0}, "--after"),
        ({"ill": ["2026-03-04"]}, "--ill: must read TIME..TIME"),
        ({"ill": ["2026-03-04..2026-03-03"]}, "--ill: must end"),
        ({"ill": ["yesterday..today"]}, "--ill"),
        ({"ill": ["2062-03-04..2062-03-05"]}, "--ill: .* lies outside the record"),
        ({"ill": ["2026-03-04..2026-03-05"], "never_ill": True}, "contradicts"),
        ({"draws": 1}, "--draws"),
        ({"patient_files": [Path("a"), Path("b")]}, "--patient"),
        ({"events": [Path("absent.csv")]}, r"absent\.csv"),
    ],
)
def test_what_cannot_be_meant_is_one_clear_error(
    recording: Path, tmp_path: Path, how: dict[str, object], match: str
) -> None:
    with pytest.raises(InputError, match=match):
        effect(**({"events": [recording], "patient_files": [], "out": tmp_path / "out"} | how))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_page_of_another_command_is_kept_and_refused_before_anything_is_asked(
    recording: Path, tmp_path: Path
) -> None:
    for name, theirs in (("report.html", page_begins("whatif")), ("effect.csv", "what,I,noted\n")):
        out = tmp_path / name
        out.mkdir()
        (out / name).write_text(theirs)
        with pytest.raises(InputError, match=f"holds a {name} that this command did not write"):
            effect([recording], [], out)  # which would be refused for want of illness
        assert [p.name for p in out.iterdir()] == [name]
        assert (out / name).read_text() == theirs


def test_a_recording_given_twice_is_not_two_people(recording: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.csv"
    copy.write_bytes(recording.read_bytes())
    with pytest.raises(InputError, match=r"copy\.csv: holds the same readings as another"):
        effect([recording, copy], [], tmp_path / "out", never_ill=True)


def test_an_error_is_one_line_whatever_the_name_holds(recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "two\nlines\x1b[31m"
    out.mkdir()
    (out / "report.html").write_text("mine")
    done = command(str(recording), "--never-ill", "--out", str(out))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "\x1b" not in done.stderr
    assert "--out two lines [31m: holds a report.html" in done.stderr


CLARITY = (
    "Index,Timestamp (YYYY-MM-DDThh:mm:ss),Event Type,Event Subtype,Patient Info,Device Info,Source Device ID,"
    "Glucose Value (mg/dL),Insulin Value (u),Carb Value (grams)\n"
    "1,,FirstName,,{first},,,,,\n2,,LastName,,Atall,,,,,\n"
    "3,2026-0{month}-01T08:00:00,EGV,,,,G6,110,,\n4,2026-0{month}-01T08:05:00,EGV,,,,G6,112,,\n"
)


def test_two_exports_of_one_name_that_do_not_overlap_are_one_person(tmp_path: Path) -> None:
    files = [tmp_path / f"{k}.csv" for k in range(3)]
    files[0].write_text(CLARITY.format(first="Nobody", month=1))
    files[1].write_text(CLARITY.format(first="  nobody ", month=3))
    with pytest.raises(
        InputError, match=r"1\.csv: carries the name, user or device number of another"
    ) as told:
        effect(files[:2], [], tmp_path / "out", never_ill=True, never_active=True)
    assert "Atall" not in str(told.value)
    files[2].write_text(CLARITY.format(first="Somebody", month=3))
    with pytest.raises(InputError, match="refused"):  # too little to answer, and no word of one person
        effect([files[0], files[2]], [], tmp_path / "out", never_ill=True, never_active=True)


def test_recordings_that_name_nobody_are_said_to_be_taken_as_different_people(
    recording: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.csv"
    lines = recording.read_text().splitlines(keepends=True)
    other.write_text("".join(line.replace("2026-", "2025-") if k else line for k, line in enumerate(lines)))
    said = "\n".join(effect([recording, other], [], tmp_path / "out", never_ill=True, with_twin=False))
    assert (
        "each taken as a person of its own, for nothing in it says whose it is: person<8>.csv, other.csv"
        in said
    )


def test_an_empty_out_is_refused_by_every_command(recording: Path, tmp_path: Path) -> None:
    for name, *arguments in (
        ("effect", str(recording), "--never-ill"),
        ("replay", str(recording)),
        ("trial", str(recording)),
        ("whatif", str(recording), "--from", "2026-03-03", "--to", "2026-03-04", "--do", "s*=1"),
    ):
        done = subprocess.run(
            [sys.executable, str(ROOT / "hometwin.py"), name, *arguments, "--out", ""],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=110,
        )
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert "--out: names no folder" in done.stderr
    assert not any(tmp_path.iterdir())
