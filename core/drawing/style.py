"""The frame and the style sheet of all reports. Every text colour has a contrast of at least 4.5 to its ground, light and
dark.
"""

from typing import Final

CSS: Final = """
:root { color-scheme: light dark; --ground:#f3f5f8; --card:#fff; --text:#1c2733; --quiet:#566370; --line:#dde3e9; --grid:#e8ecf0;
  --accent:#17507f; --target:rgba(22,138,98,.09); --wanted:rgba(22,138,98,.16); --low:#c2272d; --in:#0f7f5b; --high:#b26a00;
  --forecast:#5b4bb5; --band:rgba(91,75,181,.17); --trace:#9aa8b5; --twin:#5b4bb5; --other:#b4bfca; --bolus:#1f6fb2;
  --basal:rgba(31,111,178,.22); --carbs:#c77f00; --half:#7fb5a2; --whisker:#cfe0da; --median:#0b5f44; --warn:#8a4b00; --warnbg:#fff4e0; }
@media (prefers-color-scheme: dark) { :root { --ground:#10161d; --card:#182029; --text:#e6ebf0; --quiet:#9fadbb; --line:#2b3641;
  --grid:#25303a; --accent:#8cc4f2; --target:rgba(72,199,149,.09); --wanted:rgba(72,199,149,.18); --low:#ff6b6b; --in:#4cc596;
  --high:#f0b145; --forecast:#a99bff; --band:rgba(169,155,255,.22); --trace:#5f6e7c; --twin:#a99bff; --other:#53616f;
  --bolus:#64b3f4; --basal:rgba(100,179,244,.25); --carbs:#e8b04a; --half:#3f7f6b; --whisker:#2b4a41; --median:#8fe3c4;
  --warn:#f0b145; --warnbg:#33281a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--text); font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto,
  "Noto Sans", "DejaVu Sans", sans-serif; font-variant-numeric: tabular-nums; }
main { max-width: 1120px; margin: 0 auto; padding: 1.2rem clamp(.7rem, 3vw, 2rem) 3rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .2rem 0 .2rem; letter-spacing: -.01em; }
h2 { font-size: 1.12rem; margin: 0 0 .2rem; } h3 { font-size: .95rem; margin: .9rem 0 .3rem; }
main { overflow-wrap: break-word; } p { margin: .3rem 0 .6rem; } .quiet { color: var(--quiet); font-size: .9rem; } a { color: var(--accent); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1rem clamp(.7rem, 2vw, 1.3rem); margin: 1rem 0; }
.partial, .caution { border-left: 4px solid var(--warn); background: var(--warnbg); padding: .6rem .9rem; border-radius: 6px; margin: .8rem 0; }
.partial { font-weight: 650; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .7rem; margin: 1rem 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .7rem .9rem; }
.tile .name { color: var(--quiet); font-size: .82rem; } .tile .figure { font-size: 1.5rem; font-weight: 650; line-height: 1.25; }
.tile .figure small { font-size: .85rem; font-weight: 400; color: var(--quiet); } .tile .beside { font-size: .82rem; color: var(--quiet); }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(300px, 100%), 1fr)); gap: 1rem 1.6rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; } th, td { text-align: right; padding: .3rem .55rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { color: var(--quiet); font-weight: 600; }
td.words { white-space: normal; text-align: left; } .good { color: var(--in); } .bad { color: var(--low); font-weight: 600; }
h3.later { margin-top: 1rem; } details { margin-top: .8rem; } summary { cursor: pointer; color: var(--accent); padding: .3rem 0; }
ul { margin: .3rem 0; padding-left: 1.2rem; } .stack { display: flex; height: 18px; border-radius: 5px; overflow: hidden; margin: .5rem 0; }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1rem; color: var(--quiet); font-size: .85rem; margin: .2rem 0 .5rem; }
.key i { display: inline-block; width: 14px; height: 9px; border-radius: 2px; margin-right: .35rem; }
svg { display: block; width: 100%; height: auto; } .narrow { display: none; }
@media (max-width: 680px) { .wide { display: none; } .narrow { display: block; } .tiles { grid-template-columns: 1fr 1fr; } }
@media print { body { background: #fff; } section, .tile { break-inside: avoid; } }
.tick { font: 11.5px system-ui, "DejaVu Sans", sans-serif; fill: var(--quiet); } .tiny { font: 10px system-ui, "DejaVu Sans", sans-serif; fill: var(--quiet); }
path { fill: none; } .grid { stroke: var(--grid); } .axis { stroke: var(--line); } .dots { stroke-linecap: round; }
.target { fill: var(--target); } .wanted { fill: var(--wanted); } .band { fill: var(--band); stroke: none; }
.forecast { stroke: var(--forecast); stroke-width: 1.6; } .trace { stroke: var(--trace); stroke-width: 1.2; }
.dots.low { stroke: var(--low); } .dots.in { stroke: var(--in); } .dots.high { stroke: var(--high); } .dots.twin-dot { stroke: var(--twin); }
rect.twin { fill: var(--twin); } rect.other { fill: var(--other); } rect.half { fill: var(--half); } rect.whisker { fill: var(--whisker); } rect.median { fill: var(--median); }
.alarm.low { fill: var(--low); stroke: var(--low); } .alarm.high { fill: var(--high); stroke: var(--high); } .alarm.hollow { fill: none; stroke-width: 1.5; }
.carbs { stroke: var(--carbs); stroke-width: 3.5; } .bolus { stroke: var(--bolus); stroke-width: 3.5; } .long { stroke: var(--bolus); stroke-width: 3.5; stroke-dasharray: 3 2; } .basal { fill: var(--basal); }
"""


def page_begins(maker: str) -> str:
    """How every page by this command begins, whatever it says: by it a command knows its own."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="generator" content="Hometwin {maker}">'
    )


def page(maker: str, title: str, css: str, body: str) -> str:
    """A whole page, self-contained. maker: the command; title and body: HTML, escaped already."""
    return (
        f"{page_begins(maker)}<title>{title}</title><style>{CSS}{css}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )
