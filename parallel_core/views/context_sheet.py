"""The style sheet of the context ring's figure, on light and dark."""

from __future__ import annotations

from parallel_core.views.frame import PAGES, ink
from parallel_core.views.palette import PHASES, mix

FIXED = """
.context { max-width: 100%; }
.context .row { display: flex; flex-wrap: wrap; gap: 1.2rem 2rem; align-items: flex-start; }
.context svg.map { flex: 3 1 300px; max-width: 520px; min-width: 0; width: 100%; height: auto; }
.context .side { flex: 2 1 260px; min-width: 0; max-width: 430px; }
.context svg.ring { width: 100%; max-width: 300px; height: auto; display: block;
                    margin: .4rem auto; }
.context svg text { font-size: 10px; text-anchor: middle; dominant-baseline: central;
                    font-variant-numeric: tabular-nums; font-family: inherit; }
.context svg text.cap { text-anchor: start; font-size: 11px; }
.context .t polygon, .context .b rect, .context .b circle { fill: var(--c); }
.context .t text, .context .b text { fill: var(--i); }
.context .t.later polygon { fill: var(--p); }
.context .t.later text { fill: currentColor; }
.context .t.here polygon { stroke: currentColor; stroke-width: 2.4; }
.context .t polygon { stroke-width: .6; }
.context .frame { fill: none; }
.context h3 { font-size: .92rem; font-weight: 600; margin: .2rem 0 .45rem; padding: 0; }
.context .rival p { margin: .7rem 0 .25rem; font-size: .9rem; }
.context .lane { display: flex; align-items: center; gap: .4rem; margin: 2px 0; font-size: .8rem;
                 font-variant-numeric: tabular-nums; }
.context .name { flex: 0 0 3.1rem; text-align: right; }
.context .total { flex: 0 0 2.2rem; }
.context .rival .total { display: none; }
.context .track { position: relative; flex: 1 1 auto; height: 1.15rem; min-width: 0; }
.context .bar { position: absolute; top: 0; bottom: 0; background: var(--c); color: var(--i);
                font-size: .75rem; text-align: center; overflow: hidden; line-height: 1.15rem;
                box-sizing: border-box; }
.context .bar.later { background: var(--p); color: inherit; }
.context .wire { position: absolute; top: 35%; height: 30%; box-sizing: border-box; }
.context .lanes { position: relative; }
.context .over { position: absolute; left: 3.5rem; right: 0; top: 0; bottom: 0;
                 pointer-events: none; }
.context .end, .context .now { position: absolute; top: 0; bottom: 0; width: 0; }
.context .now { border-left: 2px solid currentColor; left: 100%; visibility: hidden; }
.context .end { border-left: 2px dashed currentColor; opacity: .8; }
.controls { display: flex; flex-wrap: wrap; gap: .5rem; align-items: center;
            margin: .2rem 0 .5rem; }
.controls button { font: inherit; font-size: .88rem; padding: .3rem .7rem; border-radius: .4rem;
                   color: inherit; background: none; border: 1px solid currentColor;
                   cursor: pointer; min-height: 2rem; }
.controls button:focus-visible, .controls input:focus-visible { outline: 3px solid #1f77d0;
                                                              outline-offset: 2px; }
.controls input { flex: 1 1 9rem; min-width: 6rem; accent-color: currentColor; }
.says { font-size: .9rem; line-height: 1.45; min-height: 2.9em; margin: 0 0 .6rem; }
"""


def sheet(*, dark: bool = False) -> str:
    """The sheet, as a style element."""
    page, letters = PAGES[dark], ink(dark)
    wire = PHASES["collective"].dark if dark else PHASES["collective"].light
    rules = [
        FIXED,
        f".context, .controls, .says {{ color: {letters}; }}",
        f".context .t polygon, .context .bar {{ stroke: {page}; border: 1px solid {page}; }}",
        f".context .track {{ background: {mix(letters, page, 0.07)}; }}",
        f".context .wire {{ background: {wire}; border: 1px solid {letters}; }}",
        ".context svg text.axis, .context svg text.cap { fill: currentColor; }",
    ]
    return "<style>" + "\n".join(rules) + "</style>"
