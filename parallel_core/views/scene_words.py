"""A scene in words: what each message carries, the step it is, how a race ended.

message 5 of 24: rank 1 hands chunk 2 (ranks 1+2 summed) to rank 2, where 12 + 7 = 19
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from parallel_core.program import Instr, Op, Value
from parallel_core.quantities import bytes_text, time_text
from parallel_core.views.scene import Message, Told


def members(ranks: int) -> list[int]:
    """The ranks in a set of bits.

    >>> members(0b1011)
    [0, 1, 3]
    """
    return [rank for rank in range(ranks.bit_length()) if ranks >> rank & 1]


def what(told: Told, message: Message) -> str:
    """What a message carries: `chunk 2 (ranks 1+2 summed)`."""
    groups: dict[str, list[Value]] = {}
    for value in message.values:
        groups.setdefault(_held(told, message.source, value), []).append(value)
    parts = [f"{_named(values)}{held}" for held, values in groups.items()]
    return " and ".join(parts)


def _held(told: Told, rank: int, value: Value) -> str:
    """Whose contributions it has, where it may have several."""
    slot = told.slot(rank, value)
    if value.name in ("block", "here", "got") or slot is None:
        return ""
    whose, wanted = members(told.whose(rank, value)), members(told.wanted.get((0, *slot[1:]), 0))
    if len(wanted) < 2:
        return ""
    if whose == [rank]:
        return " (its own)"
    if len(whose) == len(wanted):
        return f" (all {len(wanted)} ranks summed)"
    if len(whose) > 4:
        return f" ({len(whose)} of {len(wanted)} ranks summed)"
    return f" (rank{'s' * (len(whose) > 1)} {'+'.join(map(str, whose))} summed)"


def _named(values: Sequence[Value]) -> str:
    first = values[0]
    if first.name == "block":
        pairs = [f"{source} for {target}" for target, source in (value.at for value in values)]
        return f"the block{'s' * (len(pairs) > 1)} of rank {', '.join(pairs)}"
    numbers = sorted(value.at[0] for value in values)
    listed = "+".join(map(str, numbers)) if len(numbers) <= 4 else _ranges(numbers)
    if first.name == "here":
        return f"the word that rank{'s' * (len(numbers) > 1)} {listed} came"
    return f"chunk{'s' * (len(numbers) > 1)} {listed}"


def _ranges(numbers: Sequence[int]) -> str:
    whole = numbers[-1] - numbers[0] == len(numbers) - 1
    return f"{numbers[0]} to {numbers[-1]}" if whole else f"{len(numbers)} from {numbers[0]} on"


def sentences(told: Told) -> list[str]:
    """One sentence a message, in the order in which they are done."""
    count = len(told.messages)
    sums = _sums(told)
    return [
        f"message {k} of {count}: rank {m.source} hands {what(told, m)} to rank {m.target}"
        + sums.get((m.target, m.arrives), "")
        for k, m in enumerate(told.messages, 1)
    ]


def _sums(told: Told) -> dict[tuple[int, tuple[Value, ...]], str]:
    """(rank, what came last) -> the addition that it sets off."""
    reader = {
        (rank, value): (rank, instr)
        for rank, _, instr in told.program
        if instr.op == Op.ADD
        for value in instr.reads
    }
    last: dict[int, tuple[Message, int, Instr]] = {}  # by the addition: its last message so far
    for message in told.messages:
        found = reader.get((message.target, message.arrives[-1]))
        if found is not None:
            last[id(found[1])] = (message, *found)
    texts = {}
    for message, rank, instr in last.values():
        sums = [told.sum_text(rank, instr, c) for c in range(len(instr.writes))]
        if sums[0]:
            more = ", ..." if len(sums) > 2 else ""
            texts[rank, message.arrives] = f", where {', '.join(sums[:2])}{more}"
    return texts


def account(told: Told) -> str:
    """The scene in one sentence: messages, bytes, time, how many of them queued."""
    total = sum(m.bytes for m in told.messages)
    waited = sum(bool(m.why) for m in told.messages)
    queued = f"; {waited} of them stood in a queue" if waited else ""
    return (
        f"{told.program.name}: {len(told.messages)} messages carry {bytes_text(total)} among"
        f" {len(told.ranks)} ranks in {time_text(told.trace.makespan)}{queued}."
    )


def race_words(names: Sequence[str], both: Sequence[Told]) -> str:
    """Who ends first, by how much, and what each sends."""
    times = [told.trace.makespan for told in both]
    first = times.index(min(times))
    other = 1 - first
    totals = [bytes_text(sum(m.bytes for m in told.messages)) for told in both]
    if times[first] == times[other]:
        ends = f"{names[0]} and {names[1]} end together"
    else:
        ratio = times[other] / max(times[first], 1)
        ends = (
            f"{names[first]} ends {time_text(times[other] - times[first])} before {names[other]}"
            f" ({ratio:.2f} times as fast)"
        )
    return f"{ends}; {names[first]} sends {totals[first]} in all, {names[other]} {totals[other]}."


def tree_of(told: Told) -> Iterator[int]:
    """Per rank its parent on the way that the first chunk takes, -1 for the top of that tree."""
    neighbours = _ways(told, [m for m in told.messages if any(not v.at[0] for v in m.values)])
    if len(_reached(neighbours, 0)) < len(told.ranks):  # it does not go everywhere
        neighbours = _ways(told, told.messages)
    parent: dict[int, int] = {}
    for top in sorted(told.ranks, key=lambda rank: _complete(told, rank)):
        if top in parent:
            continue
        parent[top] = -1 if not parent else next(iter(parent))
        queue = [top]
        for rank in queue:
            for other in neighbours[rank]:
                if other not in parent:
                    parent[other] = rank
                    queue.append(other)
    return (parent[rank] for rank in told.ranks)


def _ways(told: Told, messages: Iterable[Message]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {rank: [] for rank in told.ranks}
    for message in messages:
        found[message.source].append(message.target)
        found[message.target].append(message.source)
    return {rank: list(dict.fromkeys(others)) for rank, others in found.items()}


def _reached(neighbours: Mapping[int, Sequence[int]], first: int) -> set[int]:
    reached, queue = {first}, [first]
    for rank in queue:
        new = [other for other in neighbours[rank] if other not in reached]
        reached.update(new)
        queue += new
    return reached


def _complete(told: Told, rank: int) -> tuple[float, int]:
    """When a rank first has the first chunk as promised."""
    whens = [
        when
        for slot, moments in told.moments(rank).items()
        for when, _, _, right in moments
        if right and slot[2][0] == 0
    ]
    return (min(whens, default=float("inf")), rank)
