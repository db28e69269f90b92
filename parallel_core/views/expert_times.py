"""Who makes the others wait: rows and time of each rank's experts, and what hides their messages.

    rank 0   |== experts, many rows ==|-combine-|
    rank 1   |== few ==|......waits for rank 0..|-combine-|

A rank's work is the processor time that its experts took, so that a shared core counts for nobody;
waiting is read from the run replayed on one device a rank.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from parallel_core.analysis.exposed import covered, length, minus, union
from parallel_core.analysis.waits import waits
from parallel_core.pieces import pieces
from parallel_core.plan import Plan
from parallel_core.program import Lane, Op
from parallel_core.quantities import time_text
from parallel_core.trace import Trace
from parallel_core.views.chart_frame import framed
from parallel_core.views.context_map import Paint
from parallel_core.views.frame import ink

WORK = frozenset({Op.F, Op.B, Op.I, Op.W})


@dataclass(frozen=True, kw_only=True)
class Share:
    """One rank in one step, the `home`-th of its ep group: rows of its experts, nanoseconds they
    took, nanoseconds it waited in dispatches and combines and others for it there, and how much of
    those messages was under other work."""

    rank: int
    home: int
    rows: int
    work_ns: int
    wait_ns: int
    caused_ns: int
    open_ns: int
    hidden_ns: int


def shares(plan: Plan, own: Trace, rows: Sequence[int], step: int) -> list[Share]:
    """Every rank of a step; `own` is the run on own devices, `rows` what each rank received."""
    trace = own.only(step)
    experts = {piece.name for piece in pieces(plan) if piece.holds_experts}
    waited: dict[int, int] = defaultdict(int)
    caused: dict[int, int] = defaultdict(int)
    for wait in waits(trace):
        if wait.span.lane == Lane.TOKENS:
            waited[wait.rank] += wait.wait_ns
            caused[wait.culprit] += wait.wait_ns
    found = []
    for rank, row in enumerate(trace.by_rank):
        work = (s for s in row if s.op in WORK and s.where in experts)
        tokens = union(s for s in row if s.lane == Lane.TOKENS)
        alone = minus(tokens, covered((s.t_start, s.t_done) for s in row if s.op in WORK))
        found.append(
            Share(
                rank=rank,
                home=plan.mesh.coordinate(rank)["ep"],
                rows=rows[rank],
                work_ns=sum(s.cpu_ns for s in work),
                wait_ns=waited[rank],
                caused_ns=caused[rank],
                open_ns=length(tokens),
                hidden_ns=length(tokens) - length(alone),
            )
        )
    return found


def slowest(found: Sequence[Share]) -> Share:
    """The rank whose experts take longest."""
    return max(found, key=lambda share: share.work_ns)


def figure(found: Sequence[Share], ranks: int, badge: str, *, dark: bool = False) -> go.Figure:
    """Work of each rank's experts, and behind it the waiting; milliseconds. `ranks` share the
    experts, and give the colours."""
    paint = Paint(ranks, dark)
    names = [f"rank {share.rank}" for share in found]
    edge = {"color": ink(dark), "width": 1}
    drawn = go.Figure()
    drawn.add_bar(
        y=names,
        x=[share.work_ns / 1e6 for share in found],
        orientation="h",
        name="computes its experts",
        marker={"color": [paint.colour(s.home) for s in found], "line": edge},
        hovertext=[f"{s.rows:,} rows in {time_text(s.work_ns)}" for s in found],
        hoverinfo="text",
        showlegend=False,  # its swatch would take the first rank's colour
    )
    drawn.add_bar(
        y=names,
        x=[share.wait_ns / 1e6 for share in found],
        orientation="h",
        name="waits in dispatch or combine",
        marker={
            "color": "rgba(0,0,0,0)",
            "line": edge,
            "pattern": {
                "shape": "\\", "fgcolor": ink(dark), "bgcolor": "rgba(0,0,0,0)",
                "size": 8, "solidity": 0.15,
            },
        },
        hovertext=[f"waits {time_text(s.wait_ns)}" for s in found],
        hoverinfo="text",
    )  # fmt: skip
    drawn.update_layout(barmode="stack", bargap=0.25)
    drawn.update_yaxes(autorange="reversed", type="category")
    drawn.update_xaxes(title="ms of the step", rangemode="tozero")
    return framed(drawn, [badge], height=150 + 30 * len(found), dark=dark)


def table(found: Sequence[Share]) -> list[dict[str, str]]:
    """The same in print."""
    return [
        {
            "rank": str(share.rank),
            "rows of its experts": f"{share.rows:,}",
            "its experts took": time_text(share.work_ns),
            "it waited": time_text(share.wait_ns),
            "others waited for it": time_text(share.caused_ns),
        }
        for share in found
    ]


def in_words(found: Sequence[Share]) -> str:
    """Who sets the time, and what waiting for it cost."""
    last = slowest(found)
    mean = sum(share.work_ns for share in found) / len(found)
    idle = sum(share.wait_ns for share in found) / len(found)
    return (
        f"**Rank {last.rank} is the slowest**: {last.rows:,} rows take its experts "
        f"{time_text(last.work_ns)}, {last.work_ns / mean:.2f} times the mean. A rank waits "
        f"{time_text(idle)} of the step in dispatches and combines."
    )


def hidden_in_words(found: Sequence[Share]) -> str:
    """How much of the messages goes on under other work."""
    whole = sum(share.open_ns for share in found)
    under = sum(share.hidden_ns for share in found)
    if not under:
        return (
            "Nothing hides the dispatches and combines: behind each, a rank has nothing else to "
            "do. A schedule that has another microbatch at hand (dualpipe) computes that meanwhile."
        )
    return (
        f"Of {time_text(whole / len(found))} of dispatches and combines a rank has "
        f"**{100 * under / whole:.0f} % under other work**: a microbatch computes while another's "
        "tokens travel."
    )
