"""Bags of terms, carried through a program: what each value is a sum of, on names, not numbers.

A term is one contribution, counted once: (what, rank, which). A value's bag says how often each
term is in it. Whatever runs, bags move by five rules:

    send, recv      what arrives has the bag of what was sent, in order, FIFO per pair of ranks
    add             reads in rows as long as its writes; the rows are added place by place
    all_reduce      place by place, the sum over the group;  reduce_scatter the same, of each
                    rank's own share of the reads;  all_gather, all_to_all  each piece is copied
    broadcast       what the one rank that reads hands over
    anything else   as `contribute` says: a backward makes a term, most instructions make none

Whoever proves something starts with some bags and looks at others in the end: prove.py for
gradients, collectives/proof.py for chunks. (Sets of names as proof: Sasha Rush, LLM Training
Puzzles, 2023.)
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest

from parallel_core.program import Instr, Op, Program, ProgramError, Value
from parallel_core.simulate import run_order

Term = tuple[str, int, int]
Bag = Counter[Term]
Bags = list[dict[Value, Bag]]
"""Per rank the bag of each value; a value that is not in it holds no terms."""

Contribute = Callable[[int, Instr, dict[Value, Bag]], None]
"""(rank, instruction, that rank's bags): writes the bags of what a compute instruction makes."""


def carry(program: Program, bags: Bags, contribute: Contribute | None = None) -> Bags:
    """Runs `program` on `bags`, which then hold every value ever written; raises ProgramError.

    Bags stay when their value is freed: what a value held is asked after the run.
    """
    wires: dict[tuple[int, int], deque[list[Bag]]] = defaultdict(deque)
    for together in run_order(program, rendezvous=False):
        instrs = [(rank, program.ranks[rank][index]) for rank, index in sorted(together)]
        rank, first = instrs[0]
        if first.op.is_collective:
            _collective(instrs, bags)
        elif first.op == Op.SEND and first.peer is not None:
            wires[rank, first.peer].append(_read(first.reads, bags[rank]))
        elif first.op == Op.RECV and first.peer is not None:
            _arrive(rank, first, wires[first.peer, rank].popleft(), bags[rank])
        elif first.op == Op.ADD:
            _add(rank, first, bags[rank])
        elif contribute is not None:
            contribute(rank, first, bags[rank])
    return bags


def _read(values: Iterable[Value], bag: dict[Value, Bag]) -> list[Bag]:
    return [bag.get(value, Counter()) for value in values]


def _sum(bags: Iterable[Bag]) -> Bag:
    total: Bag = Counter()
    for bag in bags:
        total.update(bag)
    return total


def _arrive(rank: int, instr: Instr, sent: Sequence[Bag], bag: dict[Value, Bag]) -> None:
    if len(sent) != len(instr.writes):
        raise ProgramError(
            f"rank {rank} ({instr.label}) takes {len(instr.writes)} values from rank {instr.peer},"
            f" which sent {len(sent)}: send and receive the same ones"
        )
    bag.update(zip(instr.writes, sent, strict=True))


def _add(rank: int, instr: Instr, bag: dict[Value, Bag]) -> None:
    row = len(instr.writes)
    if not row or len(instr.reads) % row:
        raise ProgramError(
            f"rank {rank} ({instr.label}) adds {len(instr.reads)} values into {row}: give it rows"
            " of operands, each as long as its writes"
        )
    operands = _read(instr.reads, bag)
    for place, value in enumerate(instr.writes):
        bag[value] = _sum(operands[place::row])


def _collective(instrs: list[tuple[int, Instr]], bags: Bags) -> None:
    read = [_read(instr.reads, bags[rank]) for rank, instr in instrs]
    for member, (rank, instr) in enumerate(instrs):
        bags[rank].update(zip(instr.writes, _outcome(instr, member, read), strict=False))


def _outcome(instr: Instr, member: int, read: list[list[Bag]]) -> list[Bag]:
    """What member number `member` of the group has after the collective, write by write."""
    op, writes, n = instr.op, len(instr.writes), len(read)
    if op == Op.ALL_REDUCE and not writes and any(bag for rank in read for bag in rank):
        raise ProgramError(f"{instr.label} sums what it reads and writes nothing: name the sum")
    if not writes:
        return []
    if op == Op.BROADCAST:
        return max(read, key=len)
    whole = len(read[member]) == writes
    if op == Op.ALL_REDUCE:  # a sum of loads may wait for more gradients on one rank than another
        return [_sum(place) for place in zip_longest(*read, fillvalue=Counter())]
    if op == Op.REDUCE_SCATTER and whole:
        return [_sum(place) for place in zip(*read, strict=True)]
    if op == Op.REDUCE_SCATTER and len(read[member]) == n * writes:
        own = slice(member * writes, (member + 1) * writes)
        return [_sum(place) for place in zip(*(bag[own] for bag in read), strict=True)]
    if op == Op.ALL_GATHER and writes == sum(map(len, read)):
        return [bag for rank in read for bag in rank]
    if op == Op.ALL_TO_ALL and all(len(rank) == n for rank in read) and writes == n:
        return [rank[member] for rank in read]
    if any(bag for rank in read for bag in rank):
        raise ProgramError(
            f"terms cannot be followed through {instr.label}, which reads {len(read[member])}"
            f" values and writes {writes} among {n} ranks: give every piece a name of its own"
        )
    return []
