"""The page of ``hometwin effect``: what everybody says, the graph it rests on, and how fragile it is."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from core.causal.asked import Asked, by_words, doubts, e_value_words, rows
from core.causal.on_twin import STRUCTURE_LN_SD
from core.causal.twin_graph import twin_svg
from core.drawing.forest import FOREST_CSS, Line, forest
from core.drawing.style import page
from core.drawing.svg import both_widths

WIDE, NARROW = 1060, 420


def report_html(asked: Asked, names: Sequence[str], notes: Sequence[str] = ()) -> str:
    """The whole page, self-contained; no clock in it: the same question gives the same bytes."""
    r = asked.records
    main = r.main.estimate
    title = "What a correction does to glucose"
    plots = [forest(_lines(asked), "mg/dL", width, title) for width in (WIDE, NARROW)]
    same = (
        f'<p class="caution">{escape(", ".join(r.always_the_same))} never varied at these moments: the answer is about such '
        "moments.</p>"
        if r.always_the_same
        else ""
    )
    differ = "".join(f'<p class="caution">{escape(doubt)}.</p>' for doubt in doubts(asked))
    refused = "".join(f"<li>{escape(who)}: {escape(why)}</li>" for who, *_, why in rows(asked) if why)
    told = "".join(f"<li>{escape(note)}</li>" for note in notes)
    told = f"<h3>Notes on the recordings</h3><ul>{told}</ul>" if told else ""
    parts = (
        f"<h1>{title}</h1>",
        f'<p class="quiet">{escape(", ".join(names))} · {r.words()}, '
        f"above {asked.above_mgdl:g} mg/dL · glucose {asked.after_min:g} min later · 95 % intervals</p>",
        '<p class="quiet">Not a medical device; no figure here is a therapy recommendation.</p>',
        '<div class="tiles"><div class="tile"><div class="name">Those who corrected, by records</div>'
        f'<div class="figure">{main.effect:+.0f} <small>mg/dL</small></div>'
        f'<div class="beside">{main.low:+.0f} to {main.high:+.0f}</div></div>'
        '<div class="tile"><div class="name">Adjusted for nothing</div>'
        f'<div class="figure">{r.everywhere.effect:+.0f} <small>mg/dL</small></div>'
        f'<div class="beside">{r.everywhere.low:+.0f} to {r.everywhere.high:+.0f}; an association, not an effect</div></div>'
        f"{_twin_tile(asked)}</div>{differ}{same}",
        f"<section><h2>Who says what</h2>{both_widths(*plots)}"
        + (f"<h3>Refused</h3><ul>{refused}</ul>" if refused else "")
        + "</section>",
        f"<section><h2>How it is known</h2><p>{escape(r.main.identification.words()).capitalize()}.</p>"
        f"<p>{escape(e_value_words(asked)).capitalize()}.</p><p>{escape(by_words(asked)).capitalize()}.</p>"
        "<p>The graph is an assumption: nothing in the records can prove it.</p>"
        f"{told}"
        f"{twin_svg(illness_recorded=True)}</section>",
        _twin(asked),
    )
    return page("effect", title, FOREST_CSS, "".join(parts))


def _lines(asked: Asked) -> list[Line]:
    return [
        Line(who, mean, low, high, good=None) for who, mean, low, high, refused in rows(asked) if not refused
    ]


def _twin_tile(asked: Asked) -> str:
    if asked.twin is None:
        return ""
    low, high = asked.twin.decision
    return (
        '<div class="tile"><div class="name">The twin, the same question</div>'
        f'<div class="figure">{asked.twin.comparison.twin_effect:+.0f} <small>mg/dL</small></div>'
        f'<div class="beside">{low:+.0f} to {high:+.0f}</div></div>'
    )


def _twin(asked: Asked) -> str:
    if asked.twin is None:
        return ""
    return (
        "<section><h2>The twin beside the records</h2>"
        f"<p>{escape(asked.twin.comparison.words()).capitalize()}.</p>"
        '<p class="quiet">The decision: the dose now, against not now and then as people behave, which is what a record '
        "compares. The dose alone: nobody does anything else, which no such record can tell. The comparison is of what the "
        "equations say of these people; the twin’s intervals above also hold the error of its structure (a common factor of "
        f"ln SD {STRUCTURE_LN_SD:g}).</p></section>"
    )
