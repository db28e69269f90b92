"""Context parallelism: every rank holds a part of the sequence, and attention needs all of it.

The table is the folder's reading list: layout.py first, then tile.py and merge.py, then the methods
in this order; traffic.py counts their messages, crossover.py says which is cheaper when. What
loads torch (context.py, attention.py and the methods) is not imported here.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from parallel_core.context import traffic
from parallel_core.context.layout import Layout, Travels
from parallel_core.context.traffic import LayerShape, Move


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to compute attention over a sequence that is cut.

    `moves(shape, backward)` are its messages; `zigzag` is how it cuts a causal sequence.
    """

    name: str
    title: str
    source: str
    travels: Travels
    zigzag: bool
    moves: Callable[[LayerShape, bool], tuple[Move, ...]]


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            name="allgather",
            title="all-gather KV: everybody gets all keys and values, then attends",
            source="Grattafiori et al. 2024, Llama 3, arXiv:2407.21783, section 3.3.2",
            travels=Travels.NOTHING,
            zigzag=True,
            moves=traffic.gather_kv,
        ),
        Method(
            name="ring",
            title="ring pass-KV, contiguous: keys and values go round, queries stay",
            source="Liu et al. 2023, Ring Attention, arXiv:2310.01889",
            travels=Travels.KV,
            zigzag=False,
            moves=traffic.ring,
        ),
        Method(
            name="zigzag",
            title="ring pass-KV, zigzag: the same ring, with everybody's work equal",
            source="Zhu 2024, github.com/zhuzilin/ring-flash-attention",
            travels=Travels.KV,
            zigzag=True,
            moves=traffic.ring,
        ),
        Method(
            name="pass-q",
            title="ring pass-Q: queries go round, their results come home",
            source="Yang et al. 2024, arXiv:2411.01783",
            travels=Travels.Q,
            zigzag=True,
            moves=traffic.pass_q,
        ),
        Method(
            name="ulysses",
            title="Ulysses: an all-to-all trades a part of the sequence for a part of the heads",
            source="Jacobs et al. 2023, DeepSpeed-Ulysses, arXiv:2309.14509",
            travels=Travels.NOTHING,
            zigzag=False,
            moves=traffic.ulysses,
        ),
        Method(
            name="hybrid",
            title="Ulysses inside, a zigzag ring around it",
            source="Fang and Zhao 2024, USP, arXiv:2405.07719",
            travels=Travels.KV,
            zigzag=True,
            moves=traffic.hybrid,
        ),
    )
}


def method_of(name: str) -> Method:
    """The method of that name; ValueError with the closest one if there is none."""
    if name not in METHODS:
        close = difflib.get_close_matches(name, list(METHODS), n=1, cutoff=0.0)
        raise ValueError(f"no context-parallel method {name!r}; the closest is {close[0]!r}")
    return METHODS[name]


def layout_of(name: str, seq: int, *, ranks: int, ulysses: int = 2, cached: int = 0) -> Layout:
    """How a method lays a sequence on its ranks; `ulysses` counts for the hybrid only.

    >>> layout_of("hybrid", 64, ranks=4).rings, layout_of("ulysses", 64, ranks=4).rings
    (2, 1)
    """
    method = method_of(name)
    inside = {"ulysses": ranks, "hybrid": ulysses}.get(name, 1)
    return Layout(seq=seq, ranks=ranks, zigzag=method.zigzag, ulysses=inside, cached=cached)
