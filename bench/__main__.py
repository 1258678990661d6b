"""``python -m bench [NAME ...] [--quick] [--no-write]``: run benches, print them, keep them in RESULTS.md."""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import Final

from rich.console import Console

from bench.report import Section, show, write
from core.errors import HometwinError

# Name -> what it measures. Each is a module of this folder with ``run(quick) -> Section``.
BENCHES: Final = {
    "advice": "dosing by advice in closed loop, simglucose and virtual people",
    "card": "bytes written to the card in a year of a real person",
    "causal": "identification beside y0 and pgmpy, effects that are known, confounding by indication",
    "cloud_prior": "the population prior: speed, recovery, what it buys a newcomer, privacy",
    "faults": "200 kills of hub and engine, power cuts, failing disks, bit rot: what survived",
    "forecast": "forecasts of real people beside persistence, ridge and boosting",
    "hypo": "warning of hypoglycaemia in real people beside a threshold with slope",
    "learning": "a week of another sensitivity and back: adaptation, forgetting, contexts; closed loop; calibration",
    "mechanism": "what insulin and carbohydrate do: windows, what-if on bodies of another structure",
    "speed": "filter step, filterpy, a year's replay, on one core",
    "store": "the store beside plain SQLite and rows sealed one by one",
    "tpm": "the store's key sealed to a TPM, in a virtual machine (only when named: root, packages, some ten minutes)",
    "trial": "in-silico trials: 1,000 people × 14 days × 2 arms, and the same bits again",
    "truth": "the twin against virtual people of another model",
    "whatif": "counterfactuals on the people of simglucose",
}
BY_NAME_ONLY: Final = ("tpm",)


def main(argv: list[str] | None = None) -> int:
    """Run; 0 when every target was met, 1 when one was missed, 2 when something is lacking."""
    listing = "\n".join(f"  {name:10} {what}" for name, what in BENCHES.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench", epilog=listing, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which to run (none named: all but tpm)")
    parser.add_argument("--quick", action="store_true", help="a small part, to see that it runs; not written")
    parser.add_argument("--no-write", action="store_true", help="leave RESULTS.md as it is")
    given = parser.parse_args(argv)
    console = Console()
    unknown = [name for name in given.names if name not in BENCHES]
    if unknown:
        console.print(f"no bench named {unknown[0]!r} (there are: {', '.join(BENCHES)})")
        return 2
    missed = False
    for name in given.names or [name for name in BENCHES if name not in BY_NAME_ONLY]:
        try:
            section: Section = importlib.import_module(f"bench.{name}").run(quick=given.quick)
        except HometwinError as err:
            console.print(str(err))
            return err.exit_code
        show(section, console)
        missed = missed or bool(section.failed)
        if not given.quick and not given.no_write:
            write(section, f"python -m bench {name}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
