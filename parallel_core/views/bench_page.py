"""Every bench on one page that needs nothing else: no script, no request, light and dark.

Of each row its median, its 95 % interval in print and, for ratios, drawn about 1:

    ours / DistributedDataParallel     0.998 x   0.99 to 1.01      ....|-o-|....
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --ink: #16202c; --page: #fff; --mark: #064e8b }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6eaf0; --page: #12161c; --mark: #8fb0f0 } }
html { background: var(--page); color: var(--ink) }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 0 auto; padding: 1rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; margin: .5rem 0; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--line) }
td.n { text-align: right; white-space: nowrap }
svg { display: block } svg .axis { stroke: var(--ink); opacity: .5 }
svg .mark { stroke: var(--mark); fill: var(--mark) }
.note { font-size: .87rem; margin: .15rem 0 } .failed { font-weight: 600 }
"""

_WIDTH, _MIDDLE, _REACH = 180, 90, math.log(4)
"""Pixels of a ratio's picture, where 1 is in it, and the ratio at its ends."""


def page(report: Mapping[str, Any]) -> str:
    """The whole report of bench.all as HTML."""
    machine, versions = report["machine"], report["versions"]
    quick = (
        "<p><strong>Quick:</strong> tiny models and few rounds. It shows that every bench works,"
        " not how fast anything is.</p>"
        if report["quick"]
        else ""
    )
    body = "".join(_section(name, each) for name, each in report["benches"].items())
    said = (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB,"
        f" {machine['system']}; ShardLab {versions['shardlab']} {versions['commit']}, Python"
        f" {versions['python']}, torch {versions['torch']}; {report['date']}; load average"
        f" {report['load_average'][0]:.1f} before"
    )
    after = report.get("load_average_after")
    said += f", {after[0]:.1f} after" if after else "; not finished"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\';'
        " style-src 'unsafe-inline'; img-src data:\">"
        f'<link rel="icon" href="data:,"><title>ShardLab benches</title><style>{_STYLE}</style>'
        f"</head><body><main><h1>Every bench</h1><p>{_safe(said)}</p>{quick}{body}</main></body>"
        "</html>"
    )


def _section(name: str, each: Mapping[str, Any]) -> str:
    head = f"<h2>{_safe(name)}</h2>"
    if "failed" in each:
        return f'{head}<p class="failed">Failed: {_safe(each["failed"])}</p>'
    if each["skipped"]:
        return f"{head}<p>Skipped: {_safe(each['skipped'])}</p>"
    rows = "".join(_row(row, one) for row, one in each["rows"].items())
    notes = "".join(f'<p class="note">{_safe(note)}</p>' for note in each["notes"])
    doubts = "".join(
        f'<p class="note"><strong>Doubt:</strong> {_safe(doubt)}</p>' for doubt in each["warnings"]
    )
    load = each["load_average"][0]
    took = f'<p class="note">{each["seconds"]:g} s, load average {load:.1f} when it began</p>'
    return (
        f'{head}<p>{_safe(each["title"])}</p><div class="scroll" tabindex="0" role="region"'
        f' aria-label="{_safe(name)}"><table><thead><tr><th>what</th><th>median</th>'
        "<th>95 % interval</th><th>n</th><th>ratio, 1/4 to 4</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>{doubts}{notes}{took}"
    )


def _row(name: str, one: Mapping[str, Any]) -> str:
    middle, low, high = (number(one[key]) for key in ("median", "low", "high"))
    drawn = _interval(one) if one["unit"] == "x" else ""
    return (
        f'<tr><td>{_safe(name)}</td><td class="n">{middle} {_safe(one["unit"])}</td>'
        f'<td class="n">{low} to {high}</td><td class="n">{one["n"]}</td><td>{drawn}</td></tr>'
    )


def _interval(one: Mapping[str, Any]) -> str:
    """A ratio and its interval on a log axis about 1."""
    low, middle, high = (_place(one[key]) for key in ("low", "median", "high"))
    words = f"{number(one['median'])}, from {number(one['low'])} to {number(one['high'])}"
    return (
        f'<svg width="{_WIDTH}" height="16" role="img" aria-label="{words}">'
        f'<line class="axis" x1="{_MIDDLE}" y1="0" x2="{_MIDDLE}" y2="16"/>'
        f'<line class="mark" stroke-width="2" x1="{low:.1f}" y1="8" x2="{high:.1f}" y2="8"/>'
        f'<circle class="mark" cx="{middle:.1f}" cy="8" r="4"/></svg>'
    )


def _place(ratio: float) -> float:
    share = math.log(max(ratio, 1e-9)) / _REACH
    return _MIDDLE + (_MIDDLE - 5) * min(max(share, -1.0), 1.0)


def number(value: float) -> str:
    """Four significant digits, thousands marked."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _safe(text: object) -> str:
    return html.escape(str(text))
