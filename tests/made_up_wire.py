"""A wire on which sums are easy: 1 GB/s and 1 us, so that a kilobyte takes a microsecond."""

from __future__ import annotations

from collections.abc import Callable

from parallel_core.cost import Link, ModelCost
from parallel_core.hardware.links import Wire
from parallel_core.hardware.topologies import topology
from parallel_core.network import Network
from parallel_core.program import Value

WIRE = Wire(
    name="test", title="1 GB/s, 1 us", bandwidth=1e9, latency=1e-6, hop=5e-7,
    source="made up", latency_source="made up",
)  # fmt: skip
KB = 1000  # bytes: a microsecond on WIRE
US = 1000  # nanoseconds


def on(text: str, *hosts: int) -> Network:
    """The topology of that wire, ranks placed on `hosts` if any are given."""
    return Network(topology(text, wire=WIRE, across=WIRE), hosts)


def cost(size: Callable[[Value], int], link: Link = WIRE.link) -> ModelCost:
    """Compute ops of a microsecond, values of that size."""
    return ModelCost(lambda instr: 1e3, size, {}, 1e9, link)
