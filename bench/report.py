"""What a bench says: tables for the terminal, and its own section of RESULTS.md."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table as RichTable

RESULTS: Final = Path(__file__).parent / "RESULTS.md"
_HEAD: Final = """# Measured

Each section is written by its own run of `python -m bench NAME`; nothing here is typed by hand.
Ratios matter, not absolute times: the machine may have been busy.
"""


@dataclass(frozen=True)
class Table:
    """Cells are text. The row labelled ``ours`` or beginning with "twin" is what the peers stand beside."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """One bench's outcome. ``failed`` names each target that was missed."""

    name: str
    title: str
    tables: tuple[Table, ...]
    notes: tuple[str, ...] = ()
    failed: tuple[str, ...] = field(default=())


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


def show(section: Section, console: Console) -> None:
    """Print to the terminal."""
    for table in section.tables:
        rich = RichTable(title=table.title, title_justify="left")
        for k, column in enumerate(table.columns):
            rich.add_column(column, justify="left" if k == 0 else "right")
        for row in table.rows:
            rich.add_row(*row, style="bold" if row[0].startswith("twin") else None)
        console.print(rich)
    for note in section.notes:
        console.print(f"· {note}")
    for miss in section.failed:
        console.print(f"[red]missed[/red] {miss}")


def write(section: Section, command: str, path: Path = RESULTS) -> None:
    """Replace this bench's section in RESULTS.md, leaving the others as they are."""
    text = path.read_text(encoding="utf-8") if path.exists() else _HEAD
    parts = text.split("\n## ")
    head, kept = parts[0], [p for p in parts[1:] if not p.startswith(f"{section.name}: ")]
    kept.append(_markdown(section, command))
    kept.sort(key=lambda part: part.split(":", 1)[0])
    path.write_text(
        "\n## ".join([head.rstrip() + "\n", *(p.rstrip() + "\n" for p in kept)]), encoding="utf-8"
    )


def _markdown(section: Section, command: str) -> str:
    lines = [
        f"{section.name}: {section.title}",
        "",
        f"`{command}` · {datetime.now(UTC):%Y-%m-%d} · {machine()}",
    ]
    for table in section.tables:
        lines += ["", f"**{table.title}**", "", "|" + "|".join(table.columns) + "|"]
        lines.append("|" + "|".join("-" if k == 0 else "-:" for k in range(len(table.columns))) + "|")
        lines += ["|" + "|".join(row) + "|" for row in table.rows]
    lines += ["", *(f"- {note}" for note in section.notes)] if section.notes else []
    lines += ["", *(f"- **missed**: {miss}" for miss in section.failed)] if section.failed else []
    return "\n".join(lines)
