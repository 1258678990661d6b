"""Bytes of a CSV export as rows of text: encodings, separators and decimal commas of the world."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Final, NamedTuple

from core.errors import InputError

SEPARATORS: Final = (",", ";", "\t")
# Longest cell: a note somebody wrote. csv refuses more, which would otherwise be a hang on hostile files.
MAX_COLUMNS: Final = 400


class Row(NamedTuple):
    """One line of a table. ``line`` counts from 1 in the file."""

    line: int
    cells: list[str]


def text_of(data: bytes, name: str) -> str:
    """Text of an export: UTF-8 or UTF-16 by its mark, else UTF-8, else Windows-1252. Binary is refused."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError:
            raise InputError("not readable text (broken UTF-16)", where=name, mend="export again") from None
    if b"\x00" in data:
        raise InputError("not a text file", where=name, mend="give the CSV or JSON export itself")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        # A replaced letter can only stand in a note or a name, which no reader uses.
        return data.decode("cp1252", errors="replace")


def separator_of(header: str) -> str:
    """The separator that a header line uses most."""
    return max(SEPARATORS, key=header.count)


def rows_of(text: str, separator: str, name: str) -> Iterator[Row]:
    """Rows that hold anything. InputError names the line where the text stops being CSV."""
    reader = csv.reader(text.splitlines(), delimiter=separator)
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as err:
            raise InputError(f"not CSV: {err}", where=f"{name}: line {reader.line_num}") from None
        if len(cells) > MAX_COLUMNS:
            raise InputError("too many columns for any export", where=f"{name}: line {reader.line_num}")
        if any(cell.strip() for cell in cells):
            yield Row(reader.line_num, [cell.strip() for cell in cells])


def decimal(text: str, separator: str) -> str:
    """A number's text with a decimal point: a comma is one where it does not separate columns."""
    return text if separator == "," and '"' not in text else text.replace(",", ".")


def column(header: list[str], *starts: str) -> int | None:
    """Index of the first column whose title begins with one of ``starts`` (case ignored)."""
    for start in starts:
        for index, title in enumerate(header):
            if title.lower().startswith(start.lower()):
                return index
    return None


def unit_of(title: str) -> str:
    """The glucose unit that a column's title declares, or nothing."""
    low = title.lower()
    found = [unit for unit in ("mg/dl", "mmol/l") if unit in low]
    return found[0] if len(found) == 1 else ""


def cell(row: Row, index: int | None) -> str:
    """The text of a cell; nothing when the row is shorter or the column is absent."""
    return row.cells[index] if index is not None and index < len(row.cells) else ""
