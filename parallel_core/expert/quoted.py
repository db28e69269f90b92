"""Published figures of experts, each beside what we make of it, and how far apart they are.

Nothing here is fitted unless its line says so. Where a model misses, the miss is the message.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from parallel_core.expert.capacity import drop_rate_poisson
from parallel_core.expert.traffic import Spread, Width, all_gather, hierarchical, once_a_rank
from parallel_core.published import table

HIDDEN, EXPERTS, TOP_K, NODE, REACH = 7168, 256, 8, 8, 4
"""DeepSeek-V3, as DeepEP is measured: 256 experts, top 8, nodes of 8, at most 4 of them."""

NVLINK, CARD = 160e9, 50e9
"""Bytes a second of an H800: NVLink, and its network card (DeepSeek-V3 report, 3.2.2)."""

HEADER, BLANKED = 16, 10
"""DeepEP's low-latency benchmark: bytes of a message's header; choices it blanks at random."""


@dataclass(frozen=True)
class Beside:
    """One published number and ours, in one unit."""

    what: str
    quoted: float
    ours: float
    unit: str

    @property
    def off(self) -> float:
        """Ours less the published, as a part of it."""
        return (self.ours - self.quoted) / self.quoted if self.quoted else 0.0


def drops() -> tuple[Beside, ...]:
    """The derived drop rates, per cent of tokens, beside the tail of a Poisson."""
    found = []
    for row in table("capacity_drop_derived").rows:
        mu = row["tokens_per_expert"]
        for column, quoted in row.items():
            if column.startswith("CF_"):
                factor = float(column.removeprefix("CF_"))
                ours = 100 * drop_rate_poisson(mu, int(factor * mu))
                found.append(Beside(f"{mu} tokens an expert, factor {factor:g}", quoted, ours, "%"))
    return tuple(found)


def switch_speeds(model: str = "Switch-Base") -> tuple[Beside, ...]:
    """Examples a second against capacity, beside time = a + b C, *fitted* to both ends.

    Only what lies between is a test: what of a step grows with the buffers, grows in proportion.
    """
    rows = sorted(
        (row for row in table("switch_table1").rows if row["model"] == model),
        key=lambda row: float(row["capacity_factor"]),
    )
    low, high = rows[0], rows[-1]
    factors = high["capacity_factor"] - low["capacity_factor"]
    slope = (1 / high["examples_per_s"] - 1 / low["examples_per_s"]) / factors
    found = []
    for row in rows:
        time = 1 / low["examples_per_s"] + slope * (row["capacity_factor"] - low["capacity_factor"])
        what = f"{model}, factor {row['capacity_factor']:g}"
        found.append(Beside(what, row["examples_per_s"], 1 / time, "examples/s"))
    return tuple(found)


def deepep_rates() -> tuple[Beside, ...]:
    """DeepEP's low-latency rates: k copies a token, scales and header, over the printed time."""
    width = Width.fp8(HIDDEN, HEADER)
    found = []
    for row in _low_latency():
        choices = row["tokens"] * TOP_K - BLANKED
        for way, size in (("dispatch", width.dispatch), ("combine", width.combine)):
            ours = choices * size / (row[f"{way}_us"] * 1e3)
            found.append(Beside(f"{way}, EP {row['EP']}", row[f"{way}_GBps"], ours, "GB/s"))
    return tuple(found)


def deepep_times() -> tuple[Beside, ...]:
    """Their times, beside the wire alone: what leaves the node, at the rate of the card.

    Without a model of anything else: the difference is latency, packing and what NVLink carries.
    """
    width = Width.fp8(HIDDEN, HEADER)
    alpha = table("dsv3_isca_latency").row(link="InfiniBand")["cross_leaf_us"]
    found = []
    for row in _low_latency():
        leaves = 1 - NODE / row["EP"]
        for way, size in (("dispatch", width.dispatch), ("combine", width.combine)):
            if leaves:
                ours = alpha + row["tokens"] * TOP_K * leaves * size / CARD * 1e6
                found.append(Beside(f"{way}, EP {row['EP']}", row[f"{way}_us"], ours, "us"))
    return tuple(found)


def _low_latency() -> list[dict[str, int]]:
    return [row for row in table("deepep").rows if row["kind"] == "low-latency"]


@dataclass(frozen=True)
class Exchange:
    """One of DeepEP's normal exchanges: what our count makes of its printed logical rate.

    Ranks and nodes a token visits, MiB a rank hands over by DeepEP's count (own node included),
    the milliseconds that the printed rate implies, and the rate at which bytes really leave, GB/s.
    """

    way: str
    ep: int
    ranks: float
    nodes: float
    mib: float
    ms: float
    leaving: float


def deepep_normal() -> tuple[Exchange, ...]:
    """The normal kernels at 8 to 64 ranks; inside one node the count is of ranks, not of nodes.

    Visits are those of even chances. DeepEP's benchmark opens the nodes with the best single
    experts, so a token visits nearly all four: at 64 ranks 3.98 where even chances give 3.63.
    """
    width, found = Width.fp8(HIDDEN), []
    for row in (row for row in table("deepep").rows if row["kind"] == "normal"):
        nodes = row["EP"] // NODE
        spread = Spread(
            experts=EXPERTS, top_k=TOP_K, ranks=row["EP"], node=NODE, reach=min(nodes, REACH)
        )
        visits = spread.nodes_visited if nodes > 1 else spread.ranks_visited
        away = 1 - 1 / (nodes if nodes > 1 else NODE)
        for way, size in (("dispatch", width.dispatch), ("combine", width.combine)):
            handed = float(visits) * row["tokens"] * size
            rate = row[f"{way}_GBps"]
            found.append(
                Exchange(
                    way, row["EP"], float(spread.ranks_visited), float(spread.nodes_visited),
                    handed / 2**20, handed / rate / 1e6, rate * away,
                )
            )  # fmt: skip
    return tuple(found)


def claims() -> tuple[Beside, ...]:
    """What DeepSeek says of its exchange, worked out again."""
    said = {row["claim"]: row for row in table("moe_claims").rows}
    a_node = NVLINK / CARD
    reach = said["nodes a token reaches at most"]["value"]
    # a decode step of 32 tokens, 8 routed experts and a shared one, hidden "7K" as they write it
    bytes_a_step = (1 + 2) * 32 * 9 * 7000
    slow, fast = bytes_a_step / 50e9, bytes_a_step / 900e9
    ours = {
        "experts a node at the cost of one": a_node,
        "experts a token could have at the same cost": a_node * reach,
        "one exchange of a decode step at 50 GB/s": slow * 1e6,
        "time per output token at 50 GB/s, communication alone": 2 * 61 * slow * 1e3,
        "time per output token at 900 GB/s, communication alone": 2 * 61 * fast * 1e3,
    }
    return tuple(
        Beside(claim, said[claim]["value"], value, said[claim]["unit"])
        for claim, value in ours.items()
    )


def node_limit() -> dict[str, float]:
    """Copies a token sends from node to node on 64 ranks, with the limit, without, and gathered."""
    free = Spread(experts=EXPERTS, top_k=TOP_K, ranks=64, node=NODE)
    limited = Spread(experts=EXPERTS, top_k=TOP_K, ranks=64, node=NODE, reach=REACH)
    return {
        "once a rank": float(once_a_rank(free).across),
        "once a node": float(hierarchical(free).across),
        "once a node, at most 4": float(hierarchical(limited).across),
        "all-gather": float(all_gather(free).across),
    }


SHEETS: dict[str, Callable[[], tuple[Beside, ...]]] = {
    "capacity_drop_derived": drops,
    "switch_table1": switch_speeds,
    "deepep": deepep_rates,
    "dsv3_isca_latency": deepep_times,
    "moe_claims": claims,
}
"""Published table -> its numbers beside ours."""
