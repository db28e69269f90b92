"""The measurement table as rows and bars: what `shardlab compare` prints and its page shows.

Everything is read off the JSON of compare/table.py; nothing is computed here but words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from parallel_core.quantities import bytes_text
from parallel_core.views.chart_frame import colour, framed, safe
from parallel_core.views.palette import PHASES

_LOOKS = (("computing", "F", ""), ("exposed messages", "collective", "/"), ("idle", "other", "."))

Report = Mapping[str, Any]
"""What `shardlab compare --json` prints."""

SPEED = ("tokens_per_s", "step_ms", "own_tokens_per_s", "own_step_ms", "utilisation", "mfu")
PRICE = ("comm_share", "exposed_ms", "sent_bytes", "state_bytes", "peak_bytes", "loss",
         "perplexity")  # fmt: skip


def rows(report: Report, names: Sequence[str]) -> list[dict[str, str]]:
    """A row a layout, a column each of these figures; times with their spread."""
    chosen = [name for name in names if all(name in row["figures"] for row in report["rows"])]
    return [
        {"layout": row["name"]}
        | {title(report, name): spread(row["figures"][name]) for name in chosen}
        for row in report["rows"]
    ]


def title(report: Report, name: str) -> str:
    """A figure's heading: what, by which clock, in which unit."""
    figure = report["figures"][name]
    unit = figure["unit"] if figure["unit"] not in ("bytes", "") else ""
    more = ", ".join(filter(None, (figure["clock"], unit)))
    return f"{figure['title']} ({more})" if more else str(figure["title"])


def spread(one: Mapping[str, Any]) -> str:
    """The median, and how far the interval reaches from it where the rounds differ at all."""
    middle, reach = one["median"], max(one["high"] - one["median"], one["median"] - one["low"])
    words = shown(middle, one["unit"])
    return f"{words} ±{shown(reach, one['unit'])}" if reach > 1e-3 * abs(middle) else words


def shown(value: float, unit: str) -> str:
    """A number in its unit, bytes in round ones."""
    if unit == "bytes":
        return bytes_text(value)
    if unit == "nats":
        return f"{value:.4f}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def expectations(report: Report) -> list[dict[str, str]]:
    """The textbook's arrows, seen or not; layouts of which the same was seen share a row."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for each in report["expectations"]:
        key = (each["says"], each["against"] if each["seen"] else each["layout"])
        found.setdefault(key, []).append(each)
    return [_expected(report, each) for each in found.values()]


def _expected(report: Report, each: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    one = each[0]
    return {
        "the textbook expects": one["says"],
        "figure": f"{one['arrow']} {title(report, one['figure'])}",
        "of": "; ".join(found["layout"] for found in each),
        "against": one["against"],
        "ratio": "; ".join(dict.fromkeys(_ratio(found["ratio"]) for found in each)),
        "here": "seen" if one["seen"] else f"not seen here, because {one['because']}",
    }


def _ratio(ratio: Mapping[str, float] | None) -> str:
    if ratio is None:
        return ""
    low, middle, high = (f"{ratio[key]:.3g}" for key in ("low", "median", "high"))
    return middle if low == high else f"{middle} ({low} to {high})"


def recap(report: Report) -> list[dict[str, str]]:
    """Synchronisation, memory, bandwidth, batch: the words, and what was counted."""
    return [
        {
            "layout": row["layout"],
            "synchronises": f"{row['synchronises']} ({_many(row['messages'], 'message')} a step)",
            "divides": f"{row['divides']} ({bytes_text(row['state_bytes'])} of state here)",
            "bandwidth": f"{row['bandwidth']} ({bytes_text(row['sent_bytes'])} a step and rank)",
            "batch": f"{row['batch']} ({_many(row['microbatches'], 'microbatch', 'es')} of"
            f" {_many(row['rows'], 'row')})",
        }
        for row in report["recap"]
    ]


def _many(count: float, noun: str, plural: str = "s") -> str:
    return f"{count:.3g} {noun}{'' if count == 1 else plural}"


def mfu_words(report: Report) -> str:
    """MFU's formula with this report's numbers, or why there is none."""
    told = report["mfu"]
    if told["peak"] is None:
        return f"No MFU: {told['source']}."
    return (
        f"MFU = {told['formula']}: {told['model_flops']:.4g} FLOPs, {told['peak']:.4g} FLOP/s a"
        f" device ({told['source']}), seconds by the clock of {told['clock']}."
    )


def machine_words(report: Report) -> str:
    """Where, when and how it was measured."""
    machine, load = report["machine"], report["load_average"][0]
    return (
        f"{_many(report['rounds'], 'round')} of {report['steps']} steps a layout, by turns, the"
        f" first step of each left out; {machine['processor']}, {machine['cores']} cores, torch"
        f" {report['versions']['torch']}, {report['date']}, load average {load:.1f}; own devices"
        f" replayed over one link: {report['link']}"
    )


def bars(report: Report, badges: Sequence[str], *, dark: bool = False) -> go.Figure:
    """A step of each layout on own devices: computing, exposed messages, and what is neither."""
    figure = go.Figure()
    names = [safe(row["name"]) for row in report["rows"]][::-1]
    parts = [_parts(row["figures"]) for row in report["rows"]][::-1]
    looks = (
        ("computing", "F", ""),
        ("exposed messages", "collective", "/"),
        ("idle", "other", "."),
    )
    for at, (name, phase, hatch) in enumerate(looks):
        figure.add_bar(
            y=names,
            x=[part[at] for part in parts],
            orientation="h",
            name=name,
            marker={"color": colour(PHASES[phase], dark), "pattern": {"shape": hatch}},
            hovertemplate=f"%{{y}}: {name} %{{x:.3g}} ms",
        )
    figure.update_layout(barmode="stack")
    figure.update_xaxes(title="ms a step")
    return framed(figure, badges, height=120 + 34 * len(names), dark=dark)


def _parts(figures: Mapping[str, Any]) -> tuple[float, float, float]:
    step, work, bare = (
        figures[name]["median"] for name in ("own_step_ms", "compute_ms", "exposed_ms")
    )
    return work, bare, max(step - work - bare, 0.0)


def bars_in_words(report: Report) -> str:
    """The bars, for those who cannot see them."""
    said = []
    for row in report["rows"]:
        work, bare, idle = _parts(row["figures"])
        said.append(f"{row['name']}: {work:.3g} ms computing, {bare:.3g} exposed, {idle:.3g} idle")
    return "; ".join(said)
