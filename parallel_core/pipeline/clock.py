"""The clock of a schedule on paper: what F, I, W and B take, and how late a message arrives."""

from __future__ import annotations

from dataclasses import dataclass

from parallel_core.pipeline.order import COMPUTES, Order
from parallel_core.pipeline.schedule import Times
from parallel_core.program import Instr, Value
from parallel_core.trace import Kind


@dataclass(frozen=True)
class PipelineCost:
    """A Cost for an order's program. A task takes `share` of its rank's time for a microbatch.

    Bytes count what is in flight: one a task, from its F until its W (or whole B).
    """

    times: Times
    share: float = 1.0
    kind: Kind = Kind.MODELLED

    @classmethod
    def of(cls, order: Order, times: Times) -> PipelineCost:
        """Stages divide a rank's time: with v of them on the way, each takes 1/v."""
        return cls(times, share=order.p / max(order.stages, 1))

    @property
    def latency(self) -> float:
        """Of every message; nobody is busy meanwhile."""
        return self.times.comm

    @property
    def text(self) -> str:
        """The times, for the badge; ranges where ranks differ."""
        each = {"F": self.times.f, "I": self.times.i, "W": self.times.w}
        parts = [f"{name} {_range(values)}" for name, values in each.items()]
        return ", ".join([*parts, f"messages {self.times.comm:g}"]) + " a microbatch and rank"

    def seconds(self, rank: int, instr: Instr) -> float:
        """The task's part of its rank's time; messages and additions take none."""
        return self.share * self.times.whole(rank, instr.op) if instr.op in COMPUTES else 0.0

    def bytes(self, value: Value) -> int:
        """One for what a forward keeps, and for what the weight half still needs."""
        return 1 if value.name in ("saved", "held") else 0

    def payload(self, instr: Instr) -> int:
        """Messages have no size here."""
        return 0


def _range(values: tuple[float, ...]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
