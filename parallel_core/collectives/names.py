"""The names of a collective's values, and how large each one is.

The first index of every value is its *chunk*: the buffer is cut into equal parts, `c` counts
them, and the size of a value is that of its chunk. Every name is written once on a rank.

    x[c]         chunk c of this rank's own input
    got[c,s]     chunk c as rank s handed it over: its input, or its partial sum
    part[c,k]    chunk c summed over k of the ranks
    sum[c]       chunk c summed over all ranks
    block[d,s]   what rank s has for rank d; chunk d of the input of s (all-to-all)
    here[s]      rank s has come (barrier): no bytes

x, block, here and sum lie in the caller's input and output; got and part are scratch. A `got` that
is summed has one reader, the ADD that takes it in, which may use its memory again.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

from parallel_core.program import Program, Value

HERE = "here"


def x(c: int) -> Value:
    """This rank's own input."""
    return Value("x", (c,))


def got(c: int, source: int) -> Value:
    """What another rank handed over, to be summed."""
    return Value("got", (c, source))


def part(c: int, k: int) -> Value:
    """A sum over k of the ranks."""
    return Value("part", (c, k))


def total(c: int) -> Value:
    """The sum over all ranks."""
    return Value("sum", (c,))


def block(destination: int, source: int) -> Value:
    """What `source` has for `destination`."""
    return Value("block", (destination, source))


def here(source: int) -> Value:
    """The word that a rank has come."""
    return Value(HERE, (source,))


def chunk_sizes(total: int, n: int) -> tuple[int, ...]:
    """`total` elements in n chunks that differ by at most one, the larger ones first.

    >>> chunk_sizes(10, 4)
    (3, 3, 2, 2)
    """
    each, larger = divmod(total, n)
    return tuple(each + (c < larger) for c in range(n))


def chunks(program: Program) -> int:
    """How many chunks a collective's program cuts the buffer into."""
    return 1 + max(value.at[0] for value in chain.from_iterable(program.holds))


def value_sizes(program: Program, elements: int, itemsize: int = 1) -> Callable[[Value], int]:
    """The bytes of every value of `program` for a buffer of `elements` of `itemsize` bytes."""
    sizes = [size * itemsize for size in chunk_sizes(elements, chunks(program))]
    return lambda value: 0 if value.name == HERE else sizes[value.at[0]]
