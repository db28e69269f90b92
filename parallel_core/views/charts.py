"""Charts of a run: loss, bytes predicted and counted, memory, use of each rank, wait and wire.

Each takes a Trace (or plain rows) and gives a Plotly figure on transparent paper with its badge,
its legend below. What was predicted is a dashed outline over what was measured, solid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from parallel_core.analysis.exposed import exposed
from parallel_core.analysis.waits import totals, waits
from parallel_core.quantities import bytes_text, time_text
from parallel_core.trace import Kind, Span, Trace
from parallel_core.views.chart_frame import byte_ticks, colour, framed, safe, step_axis
from parallel_core.views.frame import DASH, PAGES, ink
from parallel_core.views.ledger_bars import ledger_bars
from parallel_core.views.palette import PHASES, Shade, mix

__all__ = ["ledger_bars", "loss_curve", "memory_over_time", "utilisation", "wait_wire"]

MOST_RANKS = 64
_MOST_POINTS = 1500
_CLEAR = "rgba(0,0,0,0)"
_RUN_COLOURS = ("F", "I", "collective", "P2P", "O", "W")
_RUN_SYMBOLS = ("circle", "square", "diamond", "cross", "x", "triangle-up")


def loss_curve(runs: Mapping[str, Trace], *, dark: bool = False) -> go.Figure:
    """The loss of every step, one line a run (name -> trace); from `Trace.metrics`."""
    figure = go.Figure()
    for at, (name, trace) in enumerate(runs.items()):
        points = [
            (m.get("step", i), m["loss"]) for i, m in enumerate(trace.metrics) if _real(m, "loss")
        ]
        figure.add_scatter(
            x=[step for step, _ in points],
            y=[loss for _, loss in points],
            name=safe(name),
            mode="lines+markers",
            line={
                "color": colour(PHASES[_RUN_COLOURS[at % 6]], dark),
                "dash": DASH.get(trace.kind, "solid"),
            },
            marker={"symbol": _RUN_SYMBOLS[at % 6], "size": 7},
            hovertemplate="step %{x}: loss %{y:.6f}",
        )
    step_axis(figure)
    figure.update_yaxes(title="loss (nats per token)")
    named = [f"{name}: {trace.provenance.badge}" for name, trace in runs.items()]
    alone = [trace.provenance.badge for trace in runs.values()]
    return framed(figure, alone if len(runs) == 1 else named, height=340, dark=dark)


def memory_over_time(trace: Trace, *, dark: bool = False) -> go.Figure:
    """Live bytes of each rank after each span; the highest peak is marked.

    Drawn for the ranks with the highest peaks, eight at most.
    """
    figure, zero = go.Figure(), trace.start
    rows = {rank: _memory(row) for rank, row in enumerate(trace.by_rank) if _knows_memory(row)}
    peaks = {rank: max(row, key=lambda p: p[1]) for rank, row in rows.items()}
    chosen = sorted(sorted(peaks, key=lambda r: (-peaks[r][1], r))[:8])
    for at, rank in enumerate(chosen):
        row = _thinned(rows[rank])
        figure.add_scatter(
            x=[(moment - zero) / 1e6 for moment, _ in row],
            y=[count for _, count in row],
            name=f"rank {rank}",
            mode="lines",
            line={
                "shape": "hv",
                "width": 2,
                "color": colour(PHASES[_RUN_COLOURS[at % 6]], dark),
                "dash": DASH.get(trace.kind, ("solid", "dashdot")[at // 6]),
            },
            hovertemplate="%{x:.3f} ms: %{y:,} bytes",
        )
    if chosen:
        top = max(chosen, key=lambda rank: peaks[rank][1])
        moment, count = peaks[top]
        figure.add_annotation(
            x=(moment - zero) / 1e6,
            y=count,
            text=f"peak: rank {top}, {bytes_text(count)}",
            arrowhead=2,
            arrowcolor=ink(dark),
            ax=0,
            ay=-24,
        )
    figure.update_xaxes(title="time (ms)")
    most = max((peak for _, peak in peaks.values()), default=1)
    figure.update_yaxes(title="live memory", range=[0, 1.15 * most], **byte_ticks(most))
    return framed(figure, [trace.provenance.badge], height=340, dark=dark)


def utilisation(trace: Trace, *, warmup: int = 0, dark: bool = False) -> go.Figure:
    """Each rank's time: compute, exposed communication, idle; shares of the common window."""
    use = exposed(trace, warmup=warmup).ranks[:MOST_RANKS]
    figure = go.Figure()
    parts = (
        ("compute", "F", [r.compute_ns for r in use]),
        ("exposed communication", "collective", [r.exposed_ns for r in use]),
        ("idle", "", [r.idle_ns for r in use]),
    )
    whole = max([1, *(r.window_ns for r in use)])
    for name, phase, times in parts:
        look = _look(PHASES[phase], trace.kind, dark) if phase else _waiting("", dark)
        letters = _letters(phase, trace.kind, dark)
        figure.add_bar(
            x=[100 * ns / whole for ns in times],
            y=[f"rank {r.rank}" for r in use],
            orientation="h",
            name=name,
            marker=look,
            text=[f"{100 * ns / whole:.0f} %" if ns >= whole / 20 else "" for ns in times],
            textposition="inside",
            insidetextanchor="middle",
            insidetextfont={"color": letters},
            hovertext=[f"{name}: {time_text(ns)}" for ns in times],
            hoverinfo="text",
        )
    figure.update_xaxes(title="share of the time (%)", range=[0, 100])
    return _stacked(figure, trace, len(use), dark)


def wait_wire(trace: Trace, *, dark: bool = False) -> go.Figure:
    """Each rank's time in messages: waiting for the last to be posted, then for its lane, and the
    wire; milliseconds.
    """
    sums = totals(waits(trace))[:MOST_RANKS]
    figure = go.Figure()
    parts = (
        ("wait for a peer", [r.wait_ns for r in sums], _waiting("\\", dark)),
        ("link busy", [r.queue_ns for r in sums], _waiting(".", dark)),
        ("wire", [r.wire_ns for r in sums], _look(PHASES["collective"], trace.kind, dark)),
    )
    for name, times, look in parts:
        figure.add_bar(
            x=[ns / 1e6 for ns in times],
            y=[f"rank {r.rank}" for r in sums],
            orientation="h",
            name=name,
            marker=look,
            hovertext=[
                f"{name}: {time_text(ns)} in {r.messages} messages; "
                f"the others waited {time_text(r.caused_ns)} for rank {r.rank}"
                for ns, r in zip(times, sums, strict=True)
            ],
            hoverinfo="text",
        )
    figure.update_xaxes(title="time in messages (ms)", rangemode="tozero")
    return _stacked(figure, trace, len(sums), dark)


def _stacked(figure: go.Figure, trace: Trace, rows: int, dark: bool) -> go.Figure:
    figure.update_layout(barmode="stack", bargap=0.25)
    figure.update_yaxes(autorange="reversed", type="category")
    badge = trace.provenance.badge
    if trace.world_size > MOST_RANKS == rows:
        badge += f", the first {MOST_RANKS} ranks of {trace.world_size}"
    return framed(figure, [badge], height=150 + 30 * rows, dark=dark)


def _look(shade: Shade, kind: Kind, dark: bool) -> dict[str, object]:
    """A bar's marker: solid where it ran, paler where it is modelled."""
    plain = colour(shade, dark)
    filled = mix(plain, PAGES[dark], 0.45) if kind is Kind.MODELLED else plain
    return {"color": filled, "line": {"color": ink(dark), "width": 1}}


def _letters(phase: str, kind: Kind, dark: bool) -> str:
    """The ink on a bar of that phase; the page's own on one without a fill or with a pale one."""
    if not phase or kind is Kind.MODELLED:
        return ink(dark)
    return PHASES[phase].dark_ink if dark else PHASES[phase].light_ink


def _waiting(hatch: str, dark: bool) -> dict[str, object]:
    """Standing still has no fill, and a hatch where there is a cause."""
    pattern = {"shape": hatch, "fgcolor": ink(dark), "bgcolor": _CLEAR, "size": 8, "solidity": 0.15}
    edge = {"color": ink(dark), "width": 1}
    return {"color": _CLEAR, "line": edge, "pattern": pattern if hatch else {}}


def _real(metrics: Mapping[str, object], key: str) -> bool:
    return isinstance(metrics.get(key), int | float)


def _knows_memory(row: Sequence[Span]) -> bool:
    return any(span.memory for span in row)


def _memory(row: Sequence[Span]) -> list[tuple[int, int]]:
    """(moment, live bytes) after every span, in order of time."""
    return sorted((span.t_done, span.memory) for span in row)


def _thinned(points: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """At most 1,500 points; of those left out none was higher than its neighbour kept."""
    size = -(-len(points) // _MOST_POINTS)
    groups = (points[at : at + size] for at in range(0, len(points), max(size, 1)))
    return [max(group, key=lambda p: p[1]) for group in groups]
