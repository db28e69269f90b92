"""What a collective costs: predicted by formula, counted in its program, and as bandwidths.

Two ways to count latency stand beside each other, because they change who wins. *In series*: a
port handles one message after another and pays alpha for each; a root pays n-1 of them.
*Overlapped*: the messages of one step are under way together and the step pays one alpha, as with
loads from shared memory or the many queues of a network card. Bytes queue in both. A timeline in
which every step lasts one beat knows neither, and makes naive look faster than the ring.

Algorithm bandwidth is S over time; bus bandwidth scales it to what a link of a perfect algorithm
would carry, so that it can be held against the hardware. nccl-tests, doc/PERFORMANCE.md and
src/{gather,scatter,sendrecv}.cu; the sizes S are as in formulas.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from parallel_core.collectives.formulas import FORMULAS
from parallel_core.collectives.group import CollectiveError, Group
from parallel_core.collectives.names import chunk_sizes, value_sizes
from parallel_core.collectives.phases import Path
from parallel_core.collectives.script import step_of
from parallel_core.cost import Link, message_bytes
from parallel_core.program import Op, Program


@dataclass(frozen=True)
class Tally:
    """Messages of all ranks, steps, and the bytes that each rank sends and receives."""

    messages: int
    steps: int
    sent: tuple[int, ...]
    received: tuple[int, ...]

    @property
    def sent_total(self) -> int:
        """Bytes on the wire."""
        return sum(self.sent)

    @property
    def sent_max(self) -> int:
        """What the busiest rank sends."""
        return max(self.sent)

    @property
    def received_max(self) -> int:
        """What the rank that hears most takes in."""
        return max(self.received)


def predicted(op: str, algorithm: str, group: Group, elements: int, *, itemsize: int = 1) -> Tally:
    """The tally of an algorithm by its formula, for a buffer of `elements`."""
    formula = FORMULAS[op][algorithm]
    sizes = [size * itemsize for size in chunk_sizes(elements, formula.chunks(group))]
    return Tally(
        messages=formula.messages(group),
        steps=formula.steps(group),
        sent=tuple(formula.sent(group, sizes, rank) for rank in group.ranks),
        received=tuple(formula.received(group, sizes, rank) for rank in group.ranks),
    )


def counted(program: Program, elements: int, *, itemsize: int = 1) -> Tally:
    """The tally of a collective's program, message by message."""
    size = value_sizes(program, elements, itemsize)
    moved: dict[Op, list[int]] = {op: [0] * program.mesh.size for op in (Op.SEND, Op.RECV)}
    messages, last = 0, -1
    for rank, _, instr in program:
        if instr.op.is_p2p:
            moved[instr.op][rank] += message_bytes(instr, size)
            messages += instr.op == Op.SEND
            last = max(last, step_of(instr))
    return Tally(messages, last + 1, tuple(moved[Op.SEND]), tuple(moved[Op.RECV]))


def seconds(
    op: str, algorithm: str, group: Group, nbytes: int, link: Link, *, overlap: bool = False
) -> float:
    """The time by closed form, all links alike; CollectiveError where there is none.

    Exact where the chunks are of one size. With `overlap` each step pays one alpha.
    """
    path = _path(op, algorithm, group)
    each = [count * link.seconds(Op.SEND, round(nbytes * share), 2) for count, share in path]
    steps = FORMULAS[op][algorithm].steps(group)
    return sum(each) - (_alphas(path) - steps) * link.alpha * overlap


def crossover(
    op: str, one: str, other: str, group: Group, *, overlap: bool = False
) -> Fraction | None:
    """The size, in units of alpha beta, at which two algorithms take equally long.

    None where they never do. Zero or less: one of the two wins at every size.

    >>> crossover("all_reduce", "naive", "ring", Group(8), overlap=True)
    Fraction(48, 49)
    """
    ends = []
    for algorithm in (one, other):
        path = _path(op, algorithm, group)
        steps = FORMULAS[op][algorithm].steps(group)
        ends.append((steps if overlap else _alphas(path), _share(path)))
    (alphas, share), (alphas2, share2) = ends
    return (alphas2 - alphas) / (share - share2) if share != share2 else None


def bus_factor(op: str, n: int) -> float:
    """Bus bandwidth over algorithm bandwidth, as nccl-tests has it; 0 for a barrier.

    S times it is also the least that the busiest rank can send.
    """
    factors = {"all_reduce": 2 * (n - 1) / n, "barrier": 0.0}
    factors |= dict.fromkeys(("broadcast", "reduce", "send_recv"), 1.0)
    return factors.get(op, (n - 1) / n)


def algorithm_bandwidth(nbytes: float, time: float) -> float:
    """Bytes a second of the buffer."""
    return nbytes / time


def bus_bandwidth(op: str, n: int, nbytes: float, time: float) -> float:
    """Bytes a second of a link of a perfect algorithm."""
    return algorithm_bandwidth(nbytes, time) * bus_factor(op, n)


def _path(op: str, algorithm: str, group: Group) -> Path:
    path = FORMULAS[op][algorithm].path(group)
    if path is None:
        raise CollectiveError(f"{op} by {algorithm} has no exact closed form: simulate its program")
    return path


def _alphas(path: Path) -> int:
    return sum(count for count, _ in path)


def _share(path: Path) -> Fraction:
    return sum((count * share for count, share in path), Fraction(0))
