"""What a bench says: tables for the terminal, and its own section of RESULTS.md."""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table as RichTable

RESULTS: Final = Path(__file__).parent / "RESULTS.md"
_HEAD: Final = """# Measured

Each section is written by its own run of `python -m bench NAME`, the summary from their targets; nothing here
is typed by hand. Ratios matter, not absolute times: the machine may have been busy.
`core` in a section's first line is a digest of the core's sources: figures with different ones are of different twins.
"""
_TARGETS: Final = "**Targets**"
_COLUMNS: Final = ("figure", "target", "ours", "best peer", "reached")


@dataclass(frozen=True)
class Table:
    """Cells are text. The row labelled ``ours`` or beginning with "twin" is what the peers stand beside."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Figure:
    """One line of the summary. ``reached`` None: measured, but nothing was demanded or it cannot be judged."""

    name: str
    target: str
    ours: str
    peer: str = "–"
    reached: bool | None = None

    def cells(self) -> tuple[str, ...]:
        """As a row under _COLUMNS."""
        verdict = "–" if self.reached is None else "reached" if self.reached else "**missed**"
        return (self.name, self.target, self.ours, self.peer, verdict)


@dataclass(frozen=True)
class Section:
    """One bench's outcome."""

    name: str
    title: str
    tables: tuple[Table, ...]
    notes: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()

    @property
    def failed(self) -> tuple[str, ...]:
        """Each target that was missed."""
        return tuple(f"{f.name}: {f.ours}, wanted {f.target}" for f in self.figures if f.reached is False)


def machine() -> str:
    """Processor, number of cores, Python."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"


def core_digest() -> str:
    """Short digest of the sources of core: figures with different ones are of different twins."""
    digest = hashlib.blake2b(digest_size=4)
    root = Path(__file__).resolve().parent.parent / "core"
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


_CORE: Final = core_digest()  # as it was when this process began


def show(section: Section, console: Console) -> None:
    """Print to the terminal."""
    targets = Table(f"{section.name}: targets", _COLUMNS, tuple(f.cells() for f in section.figures))
    for table in (*section.tables, targets):
        rich = RichTable(title=table.title, title_justify="left")
        for k, column in enumerate(table.columns):
            rich.add_column(column, justify="left" if k == 0 else "right")
        for row in table.rows:
            rich.add_row(
                *(cell.replace("**", "") for cell in row), style="bold" if row[0].startswith("twin") else None
            )
        console.print(rich)
    for note in section.notes:
        console.print(f"· {note}")


def write(section: Section, command: str, path: Path = RESULTS) -> None:
    """Replace this bench's section in RESULTS.md, leave the others, and make the summary anew from all."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    kept = [
        part
        for part in text.split("\n## ")[1:]
        if ": " in part.split("\n", 1)[0] and not part.startswith(f"{section.name}: ")
    ]
    kept.append(_markdown(section, command))
    kept.sort(key=lambda part: part.split(":", 1)[0])
    rows = [row for part in kept for row in _target_rows(part)]
    summary = "\n".join(["Summary", "", _row(("bench", *_COLUMNS)), _rule(len(_COLUMNS) + 1), *rows])
    path.write_text("\n## ".join([_HEAD, *(p.rstrip() + "\n" for p in (summary, *kept))]), encoding="utf-8")


def _row(cells: tuple[str, ...]) -> str:
    return "|" + "|".join(cells) + "|"


def _rule(columns: int) -> str:
    return "|" + "|".join("-" if k == 0 else "-:" for k in range(columns)) + "|"


def _target_rows(part: str) -> list[str]:
    """Rows of a section's table of targets, with the section's name in front."""
    if _TARGETS not in part:
        return []
    name = part.split(":", 1)[0]
    lines = part.split(_TARGETS, 1)[1].strip().splitlines()[2:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append(f"|{name}{line}")
    return rows


def _markdown(section: Section, command: str) -> str:
    lines = [
        f"{section.name}: {section.title}",
        "",
        f"`{command}` · {datetime.now(UTC):%Y-%m-%d} · {machine()} · core {_CORE}",
    ]
    if section.figures:
        lines += ["", _TARGETS, "", _row(_COLUMNS), _rule(len(_COLUMNS))]
        lines += [_row(figure.cells()) for figure in section.figures]
    for table in section.tables:
        lines += ["", f"**{table.title}**", "", _row(table.columns), _rule(len(table.columns))]
        lines += [_row(row) for row in table.rows]
    lines += ["", *(f"- {note}" for note in section.notes)] if section.notes else []
    return "\n".join(lines)
