"""The names that training programs use for their values, in one place.

`u` counts the pieces that one F or B runs, in forward order: the units (0 is "embed", 1 the first
layer, ..., last "head"), or in a pipeline its stages. `mb` counts microbatches.

    ids[mb]      token ids and labels          act[mb,u]    what unit u hands on
    w[u]         weights before the step       new[u]       weights after it
    saved[mb,u]  kept for u's backward         dact[mb,u]   gradient of act[mb,u]
    grad[u,mb]   this rank's gradient of u, summed over microbatches 0..mb
    tie[mb]      the head's part of a tied embedding's gradient, summed likewise
    gsum[u]      gradient of u summed over ranks
    part[u,i]    the i-th parameter of u inside gsum[u]: one message of the naive method
    loss[mb]     this rank's loss, summed over microbatches up to mb;  loss  over all dp ranks

Offloading has a few more:

    host[mb,u]   what u kept, in host memory      back[mb,u]   and on the device again
    due[mb,u]    mark that it is time to fetch it

ZeRO has a few more:

    ws[u]        this rank's shard of the weights of u;  nws[u]  after the update
    full[u,t]    the weights of u, gathered for task t of the step;  used[t]  mark that it is over
    gshard[u,mb] this rank's shard of u's gradient over its group, microbatches 0..mb
    gpart[u,mb]  the same of one microbatch alone
    block[b]     the b-th block of weights or gradients, padded to divide: what a message hands over

Tensor parallelism has two more:

    wsum[u]      mark that u's gradients of whole parameters are summed over tp, in place
    csum[u]      mark that those of key/value heads held in copies are

Expert parallelism has a few more:

    rows[mb,u]   tokens that leave piece u for their experts, or what experts made of them; what
                 arrives is act[mb,u].  drows[mb,u]  their gradient on the way back
    hop[mb,u]    rows between two hops, inside a node and across;  dhop[mb,u]  their gradient
    skip[mb,u]   what goes past the experts: the residual stream and the gates;  dskip[mb,u]
    moved        mark that the loads of all ranks are summed, for a bias to move

A pipeline has a few more:

    held[mb,u]   kept for W when I has run       w[u,k]   weights after k updates (asynchronous)
    table        the last stage's own copy of a tied embedding;  tsum  its gradient over dp ranks
    came[u]      the gradient of another rank's copy of u;  tcame  that of its embedding table
    gall[u]      gradient of u over all copies;  tall  that of the table
    sent[u]      mark that the own gradient has left, so that its buffer may change;  tsent
    gsum[u,mb]   one microbatch's gradient of u, summed over ranks (asynchronous)
    tally        a rank's share of (loss, squared norm of the gradient);  total  over all stages

Where a pipeline's state is sharded, a tied table is a piece by itself, number -1: grad[-1,k] is of
the lookups of microbatch k, and from k = m on of the head's microbatch k - m.
"""

from __future__ import annotations

from parallel_core.program import Value

TABLE_PIECE = -1
"""The number of a tied table that is a piece by itself."""

KEPT = frozenset({"saved", "back"})
"""Names of what a backward takes up: kept on the device, or fetched again from the host."""

GRADIENTS = frozenset({"grad", "tie", "gsum", "tsum", "came", "tcame", "gall", "tall"})
GRADIENTS |= {"gshard", "gpart"}
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


def on_host(mb: int, u: int) -> Value:
    """The same, in host memory."""
    return Value("host", (mb, u))


def back(mb: int, u: int) -> Value:
    """The same, on the device again."""
    return Value("back", (mb, u))


def due(mb: int, u: int) -> Value:
    """Mark that it is time to fetch what unit u kept."""
    return Value("due", (mb, u))


def rows(mb: int, u: int) -> Value:
    """Tokens that leave piece u for a rank that has their experts, or results on their way back."""
    return Value("rows", (mb, u))


def drows(mb: int, u: int) -> Value:
    """The gradient of what arrived of rows[mb,u], before it has travelled back."""
    return Value("drows", (mb, u))


def hop(mb: int, u: int) -> Value:
    """Rows that have made one of two hops."""
    return Value("hop", (mb, u))


def dhop(mb: int, u: int) -> Value:
    """Their gradient on its way back."""
    return Value("dhop", (mb, u))


def skip(mb: int, u: int) -> Value:
    """What piece u hands past the experts."""
    return Value("skip", (mb, u))


def dskip(mb: int, u: int) -> Value:
    """Its gradient."""
    return Value("dskip", (mb, u))


def held(mb: int, u: int) -> Value:
    """What the weight half of u's backward needs once the input half has run."""
    return Value("held", (mb, u))


def weight(u: int) -> Value:
    """The weights of unit u at the start of the step."""
    return Value("w", (u,))


def version(u: int, k: int) -> Value:
    """The weights of u after k updates within the step."""
    return Value("w", (u, k))


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


def came(u: int) -> Value:
    """The gradient of u that another copy's rank sent."""
    return Value("came", (u,))


def sent(u: int) -> Value:
    """That this rank's gradient of u has been sent."""
    return Value("sent", (u,))


def gall(u: int) -> Value:
    """The gradient of u over all ranks and copies."""
    return Value("gall", (u,))


def part(u: int, i: int) -> Value:
    """The i-th parameter's gradient inside unit u."""
    return Value("part", (u, i))


def shard(u: int) -> Value:
    """This rank's shard of the weights of u."""
    return Value("ws", (u,))


def new_shard(u: int) -> Value:
    """The shard after the optimizer."""
    return Value("nws", (u,))


def gathered(u: int, t: int) -> Value:
    """The whole weights of u, gathered for the t-th forward or backward of the step."""
    return Value("full", (u, t))


def used(t: int) -> Value:
    """That the t-th forward or backward is over."""
    return Value("used", (t,))


def grad_shard(u: int, mb: int) -> Value:
    """This rank's shard of u's gradient, summed over its group and over microbatches 0..mb."""
    return Value("gshard", (u, mb))


def grad_part(u: int, mb: int) -> Value:
    """The same of microbatch mb alone."""
    return Value("gpart", (u, mb))


def block(b: int) -> Value:
    """A padded block, as a message hands it over."""
    return Value("block", (b,))


def loss(mb: int) -> Value:
    """This rank's loss after microbatch mb."""
    return Value("loss", (mb,))


TOTAL_LOSS = Value("loss")
"""The loss summed over ranks."""

WHOLE_SUM, COPIES_SUM = "wsum", "csum"
"""Names of marks: parts of whole parameters are summed over tp; key/value copies are."""

MOVED = Value("moved")
"""That the loads of experts are summed over all ranks."""

TABLE, TABLE_SUM = Value("table"), Value("tsum")
"""The last stage's copy of a tied embedding, and its gradient summed over data-parallel ranks."""

TABLE_CAME, TABLE_ALL, NEW_TABLE = Value("tcame"), Value("tall"), Value("newtable")
"""The other copy's gradient, the sum of both, the copy after the update."""

TABLE_SENT = Value("tsent")
"""That the own gradient of the table has been sent."""

TALLY, TOTAL = Value("tally"), Value("total")
"""(loss, squared gradient norm): a rank's share, and the sum over the stages."""
