"""When pass-Q beats pass-KV: the published times, the published rule, and our model beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import plotly.graph_objects as go

from parallel_core.context.crossover import Ring
from parallel_core.context.layout import Layout
from parallel_core.context.traffic import LayerShape
from parallel_core.published import table
from parallel_core.views.chart_frame import framed
from parallel_core.views.context_clock import Clock
from parallel_core.views.frame import GREY, ink
from parallel_core.views.palette import PHASES

META = Ring(n=4, heads=128, kv_heads=8, flops=800e12, bytes_per_s=50e9)
"""Llama 3 405B on four nodes of H100, as in the rule of Yang et al.; heads of a whole node."""

HEAD_DIM = 128


@dataclass(frozen=True)
class Point:
    """One share of new tokens: per cent, how long pass-Q takes over pass-KV, what the rule says."""

    share: float
    ratio: float
    rule: str

    @property
    def agrees(self) -> bool:
        """Whether the rule names the faster one."""
        return self.rule == ("pass-q" if self.ratio < 1 else "pass-kv")


def published() -> list[Point]:
    """The rows of the printed table."""
    return [
        Point(
            row["miss_pct"],
            row["passQ_ms"] / row["passKV_ms"],
            META.choose(row["T_new"], row["P_cached"]),
        )
        for row in table("cp_table4").rows
    ]


@lru_cache(maxsize=1)
def modelled() -> list[tuple[float, float]]:
    """(per cent, pass-Q over pass-KV) of attention and its messages alone, on our clock."""
    return [
        (row["miss_pct"], _ratio(row["T_new"], row["P_cached"])) for row in table("cp_table4").rows
    ]


def _ratio(new: int, old: int) -> float:
    shape = LayerShape(
        layout=Layout(seq=new, ranks=META.n, zigzag=True, cached=old),
        batch=1,
        heads=META.heads // 8,  # a GPU of a node of eight has an eighth of the heads
        kv_heads=META.kv_heads // 8,
        head_dim=HEAD_DIM,
    )
    clock = Clock(method="zigzag", shape=shape, balance=META.flops / META.bytes_per_s)
    return replace(clock, method="pass-q").total / clock.total


def agreement() -> tuple[int, int]:
    """Rows in which the rule names the faster one, and all rows."""
    found = published()
    return sum(point.agrees for point in found), len(found)


def crossover(*, more: Sequence[str] = (), dark: bool = False) -> go.Figure:
    """Pass-Q's time over pass-KV's against the share of new tokens: below 1, pass-Q wins; `more`
    are badges of what is still to be added."""
    figure, source = go.Figure(), table("cp_table4").source
    for rule, symbol in (("pass-q", "diamond"), ("pass-kv", "circle")):
        some = [point for point in published() if point.rule == rule]
        figure.add_scatter(
            x=[p.share for p in some], y=[p.ratio for p in some], mode="markers",
            name=f"quoted; the rule says {rule}", hoverinfo="text",
            hovertext=[f"quoted: {p.share:g} % new, {p.ratio:.3f}" for p in some],
            marker={"symbol": symbol, "size": 11, "color": GREY[dark],
                    "line": {"color": ink(dark), "width": 1.5}},
        )  # fmt: skip
    shade = PHASES["collective"]
    figure.add_scatter(
        x=[share for share, _ in modelled()], y=[ratio for _, ratio in modelled()], mode="lines",
        name="modelled: attention alone", hoverinfo="skip",
        line={"color": shade.dark if dark else shade.light, "width": 2, "dash": "dash"},
    )  # fmt: skip
    figure.add_hline(y=1, line={"color": ink(dark), "width": 1})
    figure.add_vline(
        x=100 * META.q_is_smaller_up_to, line={"color": ink(dark), "width": 1, "dash": "dot"}
    )
    figure.update_xaxes(
        type="log", title="new tokens, % of all", tickvals=[1, 2, 5, 10, 20, 50, 100]
    )
    figure.update_yaxes(
        title="time of pass-Q / pass-KV",
        type="log",
        tickvals=[0.5, 0.7, 0.85, 1, 1.2, 1.5, 2],
    )
    badges = [
        f"quoted: {source}",
        "modelled: 800 TFLOP/s, 50 GB/s, attention and its messages",
        *more,
    ]
    return framed(figure, badges, height=400, dark=dark)


def in_words() -> str:
    """The figure's message."""
    right, rows = agreement()
    wrong = [
        f"{p.share:g} % ({100 * abs(p.ratio - 1):.1f} % apart)" for p in published() if not p.agrees
    ]
    last = max(p.share for p in published() if p.ratio < 1)
    return (
        f"Published: pass-Q is faster up to {last:g} % of "
        f"new tokens. The rule names the faster one in {right} of {rows} rows; it misses "
        f"{' and '.join(wrong)}. By bytes alone the line would be at "
        f"{100 * META.q_is_smaller_up_to:.3g} %, 2G/H."
    )


def blocks() -> list[dict[str, str]]:
    """Ring Attention's table: the block that hides a hop, as printed and as C/W makes it."""
    return [
        {
            "device": row["hw"],
            "TFLOP/s": f"{row['TF']:g}",
            "GB/s": f"{row['GBps']:g}",
            "tokens a block, printed": f"{row['min_block_k']:g} k",
            "TFLOP/s over GB/s": f"{row['TF'] / row['GBps']:.3g} k",
        }
        for row in table("ring_attention_table2").rows
    ]


def hops() -> list[dict[str, str]]:
    """One hop taken apart, as printed, and what of three hops and the way home is not hidden."""
    found = []
    for row in table("cp_table5").rows:
        late = max(row["sendrecv_us"] - row["attn_us"], 0)
        home = row["all2all_us"] or 0
        found.append(
            {
                "new tokens": f"{row['miss_pct']:g} %",
                "variant": row["variant"],
                "a message": f"{row['sendrecv_us']} µs",
                "a tile": f"{row['attn_us']} µs",
                "way home": f"{home} µs" if home else "none",
                "not hidden": f"{(META.n - 1) * late + home} µs",
            }
        )
    return found


def nodes() -> list[dict[str, str]]:
    """One node against two."""
    return [
        {
            "context": row["context"],
            "first token, TP 8": f"{row['TP8_TTFT_ms']:,} ms",
            "with CP 2": f"{row['CP2_TTFT_ms']:,} ms",
            "a token, TP 8": f"{row['TP8_TTIT_ms']:g} ms",
            "then CP 2": f"{row['CP2_TTIT_ms']:g} ms",
        }
        for row in table("cp_table6").rows
    ]


def volumes() -> list[dict[str, str]]:
    """What Ulysses sends, as printed."""
    return [{"quantity": r["item"], "printed": r["value"]} for r in table("ulysses").rows]


TABLES: dict[str, Callable[[], list[dict[str, str]]]] = {
    "cp_table5": hops,
    "cp_table6": nodes,
    "ring_attention_table2": blocks,
    "ulysses": volumes,
}
"""Printed tables by name, each with the function that makes its rows."""


def title(name: str) -> str:
    """What a printed table shows."""
    return table(name).title


def caption(name: str) -> str:
    """Where a printed table stands."""
    return f"quoted: {table(name).source}"
