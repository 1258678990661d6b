"""The fault tests, with 200 kills of hub and engine instead of the suite's 20, and their figures.

The tests themselves judge: no acknowledged sample lost, none invented, none read with a wrong key, a clear message.
Here they only run, as ``pytest tests/system/faults`` would, and what they say is kept. ``--quick`` is the suite's own size.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from typing import Final

from bench.report import Figure, Section, Table
from core.errors import EnvironmentMissing

KILLS: Final = 200
COUNTS: Final = {
    "kills": "kill -9 of hub and engine",
    "cuts": "kill -9 of a writer, and power cuts",
    "faults": "faults injected, one by one",
    "records": "records checked",
}
_ROOT: Final = Path(__file__).parent.parent


def run(quick: bool = False) -> Section:
    """Some ten minutes. EnvironmentMissing when nothing could be run."""
    kills = 20 if quick else KILLS
    with tempfile.TemporaryDirectory(prefix="hometwin-faults-") as folder:
        report = Path(folder) / "report.xml"
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "tests/system/faults",
                f"--junitxml={report}",
                "-o",
                "junit_family=xunit1",  # the one that keeps figures
            ],
            cwd=_ROOT,
            env={**os.environ, "HOMETWIN_PROCESS_KILLS": str(kills)},
            check=False,
        )
        if not report.exists():
            raise EnvironmentMissing("pytest did not run", where="bench faults", mend="make setup")
        cases = list(ElementTree.parse(report).iter("testcase"))
    counts: Counter[str] = Counter()
    rows, failed, skipped = [], [], []
    for case in cases:
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        for bad in (*case.iter("failure"), *case.iter("error")):
            why = bad.get("message", "").partition("\n")[0][:200]
            failed.append(f"{name}: {why}")
        if case.find("skipped") is not None:
            skipped.append(name)
        for told in case.iter("property"):
            if told.get("name") == "figures":
                rows.append((name, told.get("value", "")))
            else:
                counts[told.get("name", "")] += int(told.get("value", 0))
    figures = (
        Figure("fault tests that fail", "0", f"{len(failed)} of {len(cases)}", "–", not failed),
        Figure(
            "random kill -9 of hub and engine under load survived",
            f"{KILLS}",
            f"{counts['kills']}",
            "–",
            None if quick else counts["kills"] >= KILLS and not failed,
        ),
    )
    totals = tuple((what, f"{counts[name]:,}") for name, what in COUNTS.items())
    notes = (
        "after each: nothing acknowledged lost, nothing invented, nothing opened with a wrong key, a clear message",
        *(f"failed: {name}" for name in failed),
        *(f"not run here: {name}" for name in skipped),
    )
    return Section(
        "faults",
        "kills, power cuts, failing disks, rotting bits, wrong clocks",
        (
            Table("Survived and checked", ("", "ours"), totals),
            Table("What each test said", ("test", "figures"), tuple(rows)),
        ),
        notes,
        figures,
    )
