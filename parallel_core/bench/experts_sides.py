"""A layer of experts four ways, for a fair contest: by all-to-all, by all-gather, alone, in a loop.

Shapes: B, S, D model; n tokens here, N of all ranks, E experts, e of them here, R rows.

    all-to-all     x[n, D] -> rows[R, D] to who holds their experts -> y[n, D]
    all-gather     x[n, D] -> x[N, D] everywhere; the e experts here -> y[N, D] +ep -> y[n, D]

All-gather is what one does where k is about as large as the number of ranks: it sends R-1 copies of
a token whatever its k experts are, and needs no counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from parallel_core.comm import Comm
from parallel_core.dropout import Place
from parallel_core.expert.journey import Journey
from parallel_core.expert.routing import choose
from parallel_core.moe import MoE, put_back, send

NOWHERE = Place(seed=0, step=0, rows=torch.empty(0), positions=torch.empty(0))
"""A router asks for no place: it drops nothing at random."""


Move = Callable[[Tensor], Tensor]


class _Across(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Move, back: Move) -> Tensor:
        ctx.back = back
        return there(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return ctx.back(grads[0]), None, None


def across(x: Tensor, there: Move, back: Move) -> Tensor:
    """`there(x)`; the gradient travels `back`."""
    move: Callable[..., Tensor] = _Across.apply
    return move(x, there, back)


class ByAllToAll:
    """The layer as a live run has it, its pieces in one graph. `sent` are bytes that left."""

    def __init__(self, moe: MoE, comm: Comm) -> None:
        self.moe, self.comm, self.sent = moe, comm, 0

    def __call__(self, x_bsd: Tensor) -> Tensor:
        """x[B, S, D] -> y[B, S, D]."""
        routed, ep = self.moe.route(x_bsd, NOWHERE), self.comm.mesh.degree("ep")
        journey = Journey()
        journey.begin(routed.counts, ranks=ep, node=None)
        hop = journey.hop(self._exchange, "ep")
        assert journey.order is not None and journey.back is not None
        x_rd = self._swap(send(x_bsd, routed.rows), hop.out, hop.into)
        y_rd = self.moe.experts(x_rd.index_select(0, journey.order), journey.each)
        y_rd = self._swap(y_rd.index_select(0, journey.back), hop.into, hop.out)
        return put_back(y_rd, routed.rows, x_bsd.shape, None)

    def _exchange(self, counts: Tensor, axis: str) -> Tensor:
        """Each rank tells each other how many rows come for each of its experts."""
        self.sent += (len(counts) - 1) * counts.shape[1] * counts.element_size()
        ones = [1] * len(counts)
        return self.comm.all_to_all(counts, axis, ones, ones)

    def _swap(self, x_rd: Tensor, out: Sequence[int], back: Sequence[int]) -> Tensor:
        there, home = (partial(self.move, out=a, back=b) for a, b in ((out, back), (back, out)))
        return across(x_rd, there, home)

    def move(self, x_rd: Tensor, out: Sequence[int], back: Sequence[int]) -> Tensor:
        """Rows to where they belong, counted: those that stay are not sent."""
        me = self.comm.mesh.coordinate(self.comm.rank)["ep"]
        row = x_rd.shape[1] * x_rd.element_size()
        self.sent += (sum(out) - out[me]) * row
        return self.comm.all_to_all(x_rd.contiguous(), "ep", out, back)


class ByAllGather:
    """The layer with tokens and gates gathered, and results summed back. `sent` as above."""

    def __init__(self, moe: MoE, comm: Comm) -> None:
        self.moe, self.comm, self.sent = moe, comm, 0
        self.mine = moe.plan.experts_of(comm.mesh.coordinate(comm.rank)["ep"])

    def __call__(self, x_bsd: Tensor) -> Tensor:
        """x[B, S, D] -> y[B, S, D]."""
        x_nd = across(x_bsd.flatten(0, 1), self.gather, self.scatter)
        gates = across(gates_of(self.moe, x_bsd), self.gather, self.scatter)
        gates_en = gates[:, self.mine].T
        experts, tokens = gates_en.detach().nonzero(as_tuple=True)
        counts = torch.bincount(experts, minlength=len(gates_en)).tolist()
        y_rd = self.moe.experts(x_nd.index_select(0, tokens), counts)
        weighed_rd = y_rd * gates_en[experts, tokens][:, None]
        y_nd = torch.zeros_like(x_nd).index_add(0, tokens, weighed_rd)
        return across(y_nd, self.scatter, self.gather).view(x_bsd.shape)

    def gather(self, x: Tensor) -> Tensor:
        """x[n/ep] -> x[n]."""
        self.sent += (self.comm.mesh.degree("ep") - 1) * x.nbytes
        return self.comm.all_gather(x.contiguous(), "ep", quick=True)

    def scatter(self, x: Tensor) -> Tensor:
        """x[n]+ep -> x[n/ep]."""
        n = self.comm.mesh.degree("ep")
        self.sent += (n - 1) * x.nbytes // n
        return self.comm.reduce_scatter(x.contiguous(), "ep", quick=True)


class ByLoop:
    """Expert after expert on one process: who wants it, what it makes of them, added in.

    `weights` are (gate or None, up, down) of each expert: leaves of their own, since a slice of a
    stack would cost a whole stack of zeros in its backward.
    """

    def __init__(self, moe: MoE) -> None:
        self.moe = moe
        stacks = (moe.experts.gate, moe.experts.up, moe.experts.down)
        self.weights: list[tuple[Tensor | None, ...]] = [
            tuple(None if stack is None else _leaf(stack.weight[e]) for stack in stacks)
            for e in range(moe.plan.model.experts)
        ]

    def __call__(self, x_bsd: Tensor) -> Tensor:
        """x[B, S, D] -> y[B, S, D]."""
        x_nd, gates_ne = x_bsd.flatten(0, 1), gates_of(self.moe, x_bsd)
        y_nd = torch.zeros_like(x_nd)
        for e, (gate, up, down) in enumerate(self.weights):
            wanted_n = gates_ne[:, e].detach() != 0
            x_rd = x_nd[wanted_n]
            assert up is not None and down is not None
            h_rf = F.linear(x_rd, up)
            if gate is None:
                h_rf = F.gelu(h_rf, approximate="tanh")
            else:
                h_rf = F.silu(F.linear(x_rd, gate)) * h_rf
            made_rd = F.linear(h_rf, down) * gates_ne[wanted_n, e][:, None].to(x_rd.dtype)
            y_nd = y_nd.index_put((wanted_n,), made_rd, accumulate=True)
        return y_nd.view(x_bsd.shape)

    @property
    def leaves(self) -> list[Tensor]:
        """The weights that have gradients: all gates, all ups, all downs."""
        return [w for kind in zip(*self.weights, strict=True) for w in kind if w is not None]


def _leaf(w: Tensor) -> Tensor:
    return w.detach().clone().requires_grad_()


def gates_of(moe: MoE, x_bsd: Tensor) -> Tensor:
    """gates[n, E] of every token and expert, 0 where it does not go."""
    logits_bse = moe.router(x_bsd)
    choice = choose(logits_bse, moe.rules)
    gates_bse = moe.rules.normed(moe.rules.scores(logits_bse) * choice.asked) * choice.kept
    return gates_bse.flatten(0, 1)
