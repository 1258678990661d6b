"""The causal graph of a dose and what follows, as data (MODELS G), with why each arrow is there.

High glucose, meals and illness make people inject, and all of them also decide where glucose goes:
confounding by indication. Arrows beyond the sheet's (hour → insulin, glucose → meal, illness → glucose now,
insulin on board → glucose now, activity → glucose now) only weaken what is assumed. A low also makes people
eat, and a meal moves glucose: in one time slice only one arrow can stand, and that is glucose → meal.
"""

from __future__ import annotations

import sys
from typing import Final, NamedTuple

from core.causal.draw import graph_svg
from core.causal.graph import Edge, Graph

HOUR: Final = "hour"
ILLNESS: Final = "illness"
MEAL: Final = "meal"
ACTIVITY: Final = "activity"
GLUCOSE_NOW: Final = "glucose now"
ON_BOARD: Final = "insulin on board"
INSULIN: Final = "insulin"
LATER: Final = "glucose later"


class NodeWords(NamedTuple):
    """What stands for the node in a record, and whether hub records hold it."""

    meaning: str
    measured_by: str  # empty: nothing measures it


NODES: Final[dict[str, NodeWords]] = {
    HOUR: NodeWords("local time of day: dawn, habits, ratios that change with the hour", "the clock"),
    ILLNESS: NodeWords("fever or infection: less insulin sensitivity for days", ""),
    ON_BOARD: NodeWords("insulin given before and still to act", "pump or logbook"),
    MEAL: NodeWords("carbohydrate eaten around this time", "logbook"),
    ACTIVITY: NodeWords("exercise", "heart rate strap"),
    GLUCOSE_NOW: NodeWords("glucose and its trend when the decision is made", "CGM"),
    INSULIN: NodeWords("the dose that is decided: the treatment", "pump or logbook"),
    LATER: NodeWords("glucose hours later: the outcome", "CGM"),
}

EDGES: Final[dict[Edge, str]] = {
    (HOUR, ILLNESS): "fever rises in the evening",
    (HOUR, MEAL): "meals have their hours",
    (HOUR, ACTIVITY): "sport has its hours",
    (HOUR, GLUCOSE_NOW): "dawn",
    (HOUR, INSULIN): "carb ratio and waking hours",
    (HOUR, LATER): "dawn, sensitivity through the day",
    (ILLNESS, GLUCOSE_NOW): "resistance of the hours before",
    (ILLNESS, INSULIN): "sick-day rules",
    (ILLNESS, LATER): "resistance",
    (ON_BOARD, GLUCOSE_NOW): "has begun to act",
    (ON_BOARD, INSULIN): "calculators subtract it",
    (ON_BOARD, LATER): "is still to act",
    (MEAL, INSULIN): "meal bolus",
    (MEAL, LATER): "is still to be absorbed",
    (ACTIVITY, GLUCOSE_NOW): "uptake by muscle",
    (ACTIVITY, INSULIN): "less insulin around sport",
    (ACTIVITY, LATER): "uptake and sensitivity afterwards",
    (GLUCOSE_NOW, MEAL): "sugar against a low",
    (GLUCOSE_NOW, INSULIN): "correction of a high: confounding by indication",
    (GLUCOSE_NOW, LATER): "glucose persists",
    (INSULIN, LATER): "the effect asked for",
}

# Where each node is drawn (columns and rows of a grid): on an oval, so that no straight arrow meets a third node.
PLACES: Final[dict[str, tuple[float, float]]] = {
    HOUR: (0.95, 0.0),
    ILLNESS: (2.05, 0.0),
    ACTIVITY: (0.0, 1.1),
    MEAL: (0.0, 2.3),
    GLUCOSE_NOW: (0.95, 3.4),
    ON_BOARD: (2.05, 3.4),
    INSULIN: (3.0, 2.3),
    LATER: (3.0, 1.1),
}


def twin_graph(illness_recorded: bool = False) -> Graph:
    """The graph of one decision. Illness is latent unless the person records it."""
    unmeasured = {n for n, words in NODES.items() if not words.measured_by}
    return Graph(tuple(NODES), tuple(EDGES), frozenset(set() if illness_recorded else unmeasured))


def twin_svg(illness_recorded: bool = False) -> str:
    """The picture of docs/causal.md and the portal."""
    return graph_svg(
        twin_graph(illness_recorded),
        PLACES,
        INSULIN,
        LATER,
        EDGES,
        "Causal graph of a dose and later glucose",
    )


if __name__ == "__main__":
    sys.stdout.write(twin_svg())  # python -m core.causal.twin_graph > docs/causal.svg
