"""The style sheet of the tensor loom: tints and borders of the ranks' blocks, on light and dark."""

from __future__ import annotations

from parallel_core.views.frame import PAGES, ink
from parallel_core.views.hues import hues
from parallel_core.views.palette import PHASES, mix

TINT = 0.34
"""How much of a rank's hue is in the fill of its blocks; the rest is the page."""

FIXED = """
.loom { overflow-x: auto; max-width: 100%; }
.loom .step { margin: 0 0 1.1rem; padding-left: .8rem; border-left: 4px solid transparent; }
.loom .step.wrong { border-left: 4px double currentColor; }
.loom .step h3 { font-size: .95rem; margin: 0 0 .35rem; font-weight: 600; padding: 0; }
.loom .row, .loom .cards { display: flex; flex-wrap: wrap; align-items: center; gap: .5rem; }
.loom figure { margin: 0; max-width: 100%; overflow-x: auto; }
.loom figcaption { font-size: .8rem; margin-top: .25rem; }
.loom figcaption code { background: none; color: inherit; padding: 0; }
.loom .sign { font-size: 1.15rem; }
.loom p.edge { margin: 0 0 1rem; padding-left: 1.05rem; }
.loom .tag { font-size: .72rem; line-height: 1.2; display: block; }
.loom p { font-size: .9rem; margin: .4rem 0 0; overflow-wrap: anywhere; }
.loom table { border-collapse: collapse; margin: 0; width: auto;
              font-variant-numeric: tabular-nums; }
.loom td { min-width: 1.55rem; height: 1.5rem; padding: 0 .22rem; text-align: center;
           font-size: .8rem; white-space: nowrap; }
.loom td.big { min-width: 3.4rem; height: 2.6rem; padding: 0 .4rem; }
.loom td.off { text-decoration: underline wavy; font-weight: 700; }
.loom .stack { padding: 0 9px 9px 0; width: fit-content; }
"""


def sheet(ranks: int, *, chosen: int | None = None, dark: bool = False) -> str:
    """The sheet of so many ranks; `chosen` is the one whose blocks alone are filled."""
    page, letters = PAGES[dark], ink(dark)
    line, card = mix(letters, page, 0.22), mix(letters, page, 0.4)
    comm = PHASES["collective"].dark if dark else PHASES["collective"].light
    rules = [
        FIXED,
        f".loom .step.move {{ border-left-color: {comm}; }}",
        f".loom td {{ color: {letters}; border: 1px solid {line}; }}",
        f".loom td.cell {{ outline: 2px solid {letters}; outline-offset: -2px; }}",
        f".loom .stack table {{ box-shadow: 4px 4px 0 -1px {page}, 4px 4px 0 0 {card},"
        f" 8px 8px 0 -1px {page}, 8px 8px 0 0 {card}; }}",
    ]
    for rank, pair in enumerate(hues(ranks)):
        tint, edge = mix(pair[dark], page, TINT), mix(pair[dark], letters, 0.8)
        rules.append(f".loom td.r{rank}:not(.whole) {{ background: {tint}; }}")
        rules += [
            f".loom td.r{rank}.{side} {{ border-{side}: 2px solid {edge}; }}"
            for side in ("top", "bottom", "left", "right")
        ]
        others = f"td:not(.r{rank}) {{ background: none; }}"
        rules.append(f".loom:has(td.r{rank}:not(.whole):hover) {others}")
        if rank == chosen:
            rules.append(f".loom.chosen {others}")
            rules.append(f".loom.chosen td.whole {{ background: {tint}; }}")
    return "<style>" + "\n".join(rules) + "</style>"
