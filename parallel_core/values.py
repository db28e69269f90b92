"""The names that training programs use for their values, in one place.

`u` counts units in forward order (0 is "embed", 1 the first layer, ..., last "head"), `mb`
microbatches.

    ids[mb]      token ids and labels          act[mb,u]    what unit u hands on
    w[u]         weights before the step       new[u]       weights after it
    saved[mb,u]  kept for u's backward         dact[mb,u]   gradient of act[mb,u]
    grad[u,mb]   this rank's gradient of u, summed over microbatches 0..mb
    tie[mb]      the head's part of a tied embedding's gradient, summed likewise
    gsum[u]      gradient of u summed over ranks
    part[u,i]    the i-th parameter of u inside gsum[u]: one message of the naive method
    loss[mb]     this rank's loss, summed over microbatches 0..mb;  loss  over all ranks
"""

from __future__ import annotations

from parallel_core.program import Value

GRADIENTS = frozenset({"grad", "tie", "gsum"})
"""Names whose values carry terms of a gradient; `prove` follows these."""


def ids(mb: int) -> Value:
    """Token ids and labels of a microbatch."""
    return Value("ids", (mb,))


def act(mb: int, u: int) -> Value:
    """The output of unit u."""
    return Value("act", (mb, u))


def dact(mb: int, u: int) -> Value:
    """The gradient of the output of unit u."""
    return Value("dact", (mb, u))


def saved(mb: int, u: int) -> Value:
    """What unit u keeps for its backward."""
    return Value("saved", (mb, u))


def weight(u: int) -> Value:
    """The weights of unit u at the start of the step."""
    return Value("w", (u,))


def updated(u: int) -> Value:
    """The weights of unit u after the optimizer."""
    return Value("new", (u,))


def grad(u: int, mb: int) -> Value:
    """This rank's gradient of unit u after microbatch mb."""
    return Value("grad", (u, mb))


def tie(mb: int) -> Value:
    """The head's share of a tied embedding's gradient after microbatch mb."""
    return Value("tie", (mb,))


def gsum(u: int) -> Value:
    """The gradient of unit u, summed over ranks."""
    return Value("gsum", (u,))


def part(u: int, i: int) -> Value:
    """The i-th parameter's gradient inside unit u."""
    return Value("part", (u, i))


def loss(mb: int) -> Value:
    """This rank's loss after microbatch mb."""
    return Value("loss", (mb,))


TOTAL_LOSS = Value("loss")
"""The loss summed over ranks."""
