"""Cost: how long an instruction takes and how many bytes a value has.

    UnitCost       every F one beat, every B two, messages free: for pictures and proofs
    ModelCost      FLOPs over a rate, alpha + bytes/beta for messages: a prediction
    MeasuredCost   each op's own CPU time from a run, messages by alpha-beta: the replay

The bytes a collective puts on the wire are counted here, once, for prediction and count alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from parallel_core.program import Instr, Op, Value
from parallel_core.trace import Kind


class Cost(Protocol):
    """What the simulator asks of a clock."""

    @property
    def kind(self) -> Kind:
        """What a trace under this clock is: modelled or replayed."""
        ...

    @property
    def text(self) -> str:
        """The clock in one phrase, for the badge."""
        ...

    @property
    def latency(self) -> float:
        """Seconds a point-to-point message is under way after it has left its lane."""
        ...

    def seconds(self, rank: int, instr: Instr) -> float:
        """How long `instr` takes on `rank`, once everything it needs is there."""
        ...

    def bytes(self, value: Value) -> int:
        """Bytes the value occupies on its rank."""
        ...

    def payload(self, instr: Instr) -> int:
        """Bytes a message hands over on one rank."""
        ...


def wire_bytes(op: Op, payload: int, n: int) -> int:
    """Bytes that leave all n ranks together when each hands over `payload` bytes.

    Ring algorithms, which gloo and NCCL use for large messages: an all-reduce is a
    reduce-scatter and an all-gather, (n-1) payloads each. For ALL_GATHER the payload is a rank's
    shard, for REDUCE_SCATTER and ALL_TO_ALL its whole input. Patarasuk and Yuan 2009,
    doi:10.1016/j.jpdc.2008.09.002.
    """
    per_group = {
        Op.ALL_REDUCE: 2 * (n - 1) * payload,
        Op.ALL_GATHER: n * (n - 1) * payload,
        Op.REDUCE_SCATTER: (n - 1) * payload,
        Op.ALL_TO_ALL: (n - 1) * payload,
        Op.BROADCAST: (n - 1) * payload,
        Op.SHIFT: n * payload,
        Op.SEND: payload,
    }
    return per_group.get(op, 0)


def hops_of(op: Op, n: int) -> int:
    """How often a message among n ranks pays the latency, ring algorithms for the collectives."""
    return {Op.ALL_REDUCE: 2 * (n - 1), Op.SEND: 1, Op.RECV: 1, Op.SHIFT: 1}.get(op, n - 1)


@dataclass(frozen=True)
class Link:
    """alpha seconds a message, 1/beta seconds a byte.

    Hockney 1994, doi:10.1016/S0167-8191(06)80021-9.
    """

    alpha: float
    beta: float

    def seconds(self, op: Op, payload: int, n: int) -> float:
        """Time of one message or collective among n ranks, ring for the collectives."""
        hops = hops_of(op, n)
        each = payload if op in (Op.SEND, Op.RECV) else wire_bytes(op, payload, n) / max(n, 1)
        return hops * self.alpha + each / self.beta if n > 1 else 0.0

    def __str__(self) -> str:
        return f"alpha {self.alpha * 1e6:.3g} us, beta {self.beta / 1e9:.3g} GB/s"


def message_bytes(instr: Instr, size: Callable[[Value], int]) -> int:
    """What one rank hands over: the inner messages' tensors if there are any, else its reads."""
    if instr.inner:
        return sum(size(m.value) for m in instr.inner)
    taken = instr.writes if instr.op == Op.RECV else instr.reads
    return sum(size(value) for value in taken)


@dataclass(frozen=True)
class UnitCost:
    """One beat per forward (or half backward), two per whole backward; messages take none."""

    beats: Mapping[Op, float] = field(default_factory=lambda: {Op.F: 1, Op.I: 1, Op.W: 1, Op.B: 2})
    kind: Kind = Kind.MODELLED
    text: str = "unit costs: F 1, B 2, messages 0"
    latency: float = 0.0

    def seconds(self, rank: int, instr: Instr) -> float:
        """Beats of the op, the same on every rank."""
        return float(self.beats.get(instr.op, 0))

    def bytes(self, value: Value) -> int:
        """One per value that a forward keeps, so that memory counts what is in flight."""
        return 1 if value.name == "saved" else 0

    def payload(self, instr: Instr) -> int:
        """Nothing is moved under unit costs."""
        return 0


@dataclass(frozen=True)
class ModelCost:
    """FLOPs at a sustained rate; messages over one link.

    `flops` gives the floating-point operations of a compute instruction, `size` the bytes of a
    value, `n` the group size per axis.
    """

    flops: Callable[[Instr], float]
    size: Callable[[Value], int]
    n: Mapping[str, int]
    rate: float
    link: Link
    kind: Kind = Kind.MODELLED
    latency: float = 0.0
    to_host: float = 8e9  # bytes a second: a copy within this machine's memory, or PCIe 3
    uneven: Callable[[int, Instr], float] | None = None  # a rank's work beside the mean of all

    @property
    def text(self) -> str:
        """The parameters, for the badge."""
        return f"{self.rate / 1e9:.3g} GFLOP/s a rank, {self.link}"

    def seconds(self, rank: int, instr: Instr) -> float:
        """FLOPs over rate, the link's time, or bytes over the rate of copies to the host."""
        if instr.op.is_copy:
            return self.size(instr.reads[0]) / self.to_host
        if not instr.op.is_message:
            times = 1.0 if self.uneven is None else self.uneven(rank, instr)
            return times * self.flops(instr) / self.rate
        n = self.n.get(instr.axis or "", 2)
        if instr.inner:
            return sum(self.link.seconds(m.op, self.size(m.value), n) for m in instr.inner)
        return self.link.seconds(instr.op, self.payload(instr), n)

    def bytes(self, value: Value) -> int:
        """Bytes of the value."""
        return self.size(value)

    def payload(self, instr: Instr) -> int:
        """Bytes one rank hands over."""
        return message_bytes(instr, self.size)


@dataclass(frozen=True)
class MeasuredCost:
    """Own CPU time of each op of a run, keyed (rank, label); messages over the fitted link."""

    own: Mapping[tuple[int, str], float]
    model: ModelCost
    kind: Kind = Kind.REPLAYED
    latency: float = 0.0

    @property
    def text(self) -> str:
        """What the replay assumes, for the badge."""
        return f"own CPU time per op, one device a rank, {self.model.link}"

    def seconds(self, rank: int, instr: Instr) -> float:
        """The op's own CPU time, or the link's time for a message."""
        if instr.op.is_message:
            return self.model.seconds(rank, instr)
        return self.own[rank, instr.label]

    def bytes(self, value: Value) -> int:
        """Bytes of the value."""
        return self.model.bytes(value)

    def payload(self, instr: Instr) -> int:
        """Bytes one rank hands over."""
        return self.model.payload(instr)
