"""RESULTS.md: the summary follows the sections, and a bench replaces only its own."""

from __future__ import annotations

from pathlib import Path

from bench.report import Figure, Section, write


def section(name: str, reached: bool | None) -> Section:
    return Section(
        name, "a title", (), ("a note",), (Figure(f"{name} figure", "≥ 3 %", "4 %", "7", reached),)
    )


def test_summary_has_a_line_per_target_of_every_section(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    write(section("one", True), "command one", path)
    write(section("two", False), "command two", path)
    summary = path.read_text().split("\n## ")[1]
    assert summary.startswith("Summary")
    assert "|one|one figure|≥ 3 %|4 %|7|reached|" in summary
    assert "|two|two figure|≥ 3 %|4 %|7|**missed**|" in summary


def test_writing_again_replaces_only_the_own_section(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    write(section("one", True), "command one", path)
    write(section("two", False), "command two", path)
    write(section("two", None), "command three", path)
    text = path.read_text()
    assert text.count("\n## ") == 3
    assert "command one" in text
    assert "command two" not in text
    assert "missed" not in text


def test_missed_targets_are_failures_and_unjudged_ones_are_not() -> None:
    assert section("one", False).failed == ("one figure: 4 %, wanted ≥ 3 %",)
    assert section("one", True).failed == ()
    assert section("one", None).failed == ()
