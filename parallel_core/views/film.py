"""A moving picture of a recorded step: the SVG timeline, uncovered by a cursor, over and over.

    python -m parallel_core.views.film assets/recorded_dp4.json assets/run.svg --step 1

It moves by SMIL alone, so it plays where scripts do not run: in a README, in a mail. Who asked
their system for less motion sees the whole step at once. The same trace gives the same bytes.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from parallel_core.trace import Kind, Trace
from parallel_core.views.svg import timeline

PLAY_S, HOLD_S = 9.0, 2.5
"""Seconds of one sweep, and of the whole picture standing still after it."""

STILL = "<style>@media (prefers-reduced-motion: reduce) {.moving {display: none}}</style>"


def film(trace: Trace, *, step: int, title: str = "") -> str:
    """One step of `trace` as an animated `<svg>`; its badge and its slowness are written in it.

    Raises ValueError if the trace has no such step.
    """
    if step not in trace.steps:
        known = ", ".join(map(str, trace.steps)) or "none"
        raise ValueError(f"step={step} is not in the trace; it has: {known}")
    if trace.kind is Kind.MEASURED:  # what is played back from a file is a recording
        trace = replace(trace, provenance=replace(trace.provenance, kind=Kind.RECORDED))
    picture = timeline(trace, step=step, title=title)
    slower = PLAY_S / (trace.only(step).makespan / 1e9)
    note = f"step {step}, wall clock, played {slower:.0f} times slower than it ran"
    return (
        picture.removesuffix("</svg>") + STILL + _note(picture, note) + _sweep(picture) + "</svg>"
    )


def _tracks(picture: str) -> tuple[float, float, float, float]:
    """Left, top, width and height of what the cursor sweeps: the ranks' rows and their lanes."""
    rows = [
        {key: float(rect.get(key, 0)) for key in ("x", "y", "width", "height")}
        for rect in ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}rect")
        if rect.get("x")
    ]
    widest = max(row["width"] for row in rows)  # no box is wider than the track it lies on
    tracks = [row for row in rows if row["width"] == widest]
    top, bottom = tracks[0]["y"], tracks[-1]["y"] + tracks[-1]["height"]
    return tracks[0]["x"], top, widest, bottom + 14 - top  # the lane under the last track


def _note(picture: str, text: str) -> str:
    width = ElementTree.fromstring(picture).get("width", "0")
    right = float(width) - 16
    return f'<text x="{right:.0f}" y="22" text-anchor="end" fill="#6F757C">{escape(text)}</text>'


def _sweep(picture: str) -> str:
    """A cover that gives way to a cursor, then stays away until the next round."""
    left, top, width, height = _tracks(picture)
    right, share = left + width, PLAY_S / (PLAY_S + HOLD_S)
    timing = f'dur="{PLAY_S + HOLD_S}s" repeatCount="indefinite" keyTimes="0;{share:.3f};1"'

    def run(name: str, start: float, end: float) -> str:
        values = f"{start:.0f};{end:.0f};{end:.0f}"
        return f'<animate attributeName="{name}" values="{values}" {timing}/>'

    cover = run("x", left, right) + run("width", width, 0)
    cursor = run("x1", left, right) + run("x2", left, right)
    return (
        f'<g class="moving"><rect x="{left:.0f}" y="{top:.0f}" width="0" height="{height:.0f}" '
        f'fill="#FFFFFF" fill-opacity="0.86">{cover}</rect>'
        f'<line x1="{left:.0f}" x2="{left:.0f}" y1="{top - 6:.0f}" y2="{top + height:.0f}" '
        f'stroke="#16202C" stroke-width="2">{cursor}</line></g>'
    )


def main() -> None:
    """`python -m parallel_core.views.film RECORDED.json OUT.svg [--step N] [--title WORDS]`."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("recorded", type=Path, help="a trace of ours: shardlab run --trace")
    parser.add_argument("out", type=Path, help="the SVG to write")
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--title", default="")
    options = parser.parse_args()
    trace = Trace.from_json(options.recorded.read_text(encoding="utf-8"))
    picture = film(trace, step=options.step, title=options.title)
    options.out.write_text(picture + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
