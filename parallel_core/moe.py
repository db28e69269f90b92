"""A layer of many experts in the place of one MLP: route, let each token's experts work, add up.

Shapes: B, S, D model; N = B·S tokens, E experts, F hidden width of one, R rows sent to experts.

    route     x[B, S, D] -> logits[B, S, E] -> rows of tokens, expert by expert, and their gates
    send      x[N, D] -> x[R, D]               a token goes to each of its experts
    experts   x[R, D] -> y[R, D]               SwiGLU (llama) or GELU (gpt), without biases
    put back  y[R, D], gates[R] -> [B, S, D]   summed over a token's experts; a dropped one gets 0
    shared    an MLP of its own that every token passes, beside the chosen experts

Mixtral: Jiang et al. 2024, arXiv:2401.04088. Shared experts: Dai et al. 2024, arXiv:2401.06066.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from parallel_core.dropout import Place
from parallel_core.expert import grouped
from parallel_core.expert.routing import (
    Choice,
    Rows,
    Rules,
    balance_sum,
    beside,
    choose,
    rows_of,
    z_sum,
)
from parallel_core.layers import GeluMLP, SwiGLU, empty, mlp, wide
from parallel_core.plan import Balance, Dialect, Plan


def rules_of(plan: Plan) -> Rules:
    """How the plan's layers route."""
    m = plan.model
    return Rules(
        experts=m.experts,
        top_k=m.top_k,
        router=m.router,
        score=m.score,
        capacity=m.capacity,
        groups=m.expert_groups,
        reach=m.group_limit or m.expert_groups,
    )


@dataclass(frozen=True)
class Routed:
    """What a router decided for one microbatch: the rows, and how they split over experts.

    `choice` is the decision about the positions here, token by token.
    """

    rows: Rows
    counts: list[int]
    choice: Choice


class Router(nn.Module):
    """logits[B, S, E] = x[B, S, D] w', and what is added to them or to their scores.

    `product(x, w)` is torch's, unless the backward is to be split (deferred.py). `lean_e` makes a
    router that prefers the first experts (a plan's `skew`); `bias_e` is moved by loads, not by a
    gradient, and chooses without weighing.
    """

    product: Callable[..., Tensor] = staticmethod(F.linear)

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        m = plan.model
        self.weight = empty(plan, m.experts, m.hidden)
        lean = torch.linspace(m.skew, -m.skew, m.experts) if m.experts > 1 else torch.zeros(1)
        self.register_buffer("lean_e", lean, persistent=False)
        self.register_buffer("bias_e", torch.zeros(m.experts), persistent=False)
        self.lean_e: Tensor
        self.bias_e: Tensor

    def forward(self, x_bsd: Tensor) -> Tensor:
        """x[B, S, D] -> logits[B, S, E], in at least float32."""
        logits = wide(self.product(x_bsd, self.weight))
        return logits + self.lean_e.to(logits.dtype)

    def move_bias(self, load_e: Tensor, rate: float) -> None:
        """A step towards even loads: down where an expert had more than the mean, up where less.
        DeepSeek-AI 2024, section 2.1.2."""
        load_e = load_e.to(self.bias_e.device, torch.float64)
        self.bias_e += rate * torch.sign(load_e.mean() - load_e).to(self.bias_e.dtype)


class Stack(nn.Module):
    """One matrix an expert: w[E, out, in]."""

    def __init__(self, plan: Plan, experts: int, rows: int, columns: int) -> None:
        super().__init__()
        self.weight = empty(plan, experts, rows, columns)


class Experts(nn.Module):
    """The experts that are here: x[R, D] -> y[R, D], rows expert by expert.

    One expert after another runs through all its products, so that what is between them stays in
    a core's cache. All experts go through each product `together` where a device has one kernel
    for that, and where the backward is split: `product(x, w, counts)` is then deferred.py's.
    """

    product: Callable[..., Tensor] = staticmethod(grouped.product)
    deferring: Callable[[], bool] = staticmethod(lambda: False)

    def __init__(self, plan: Plan, experts: int, width: int) -> None:
        super().__init__()
        d = plan.model.hidden
        self.gate = Stack(plan, experts, width, d) if plan.model.dialect == Dialect.LLAMA else None
        self.up = Stack(plan, experts, width, d)
        self.down = Stack(plan, experts, d, width)

    def forward(self, x_rd: Tensor, counts: Sequence[int]) -> Tensor:
        """Every row through its own expert."""
        stacks = [stack.weight for stack in (self.up, self.down, self.gate) if stack is not None]
        if self.deferring() or grouped.one_kernel(x_rd, *stacks):
            return _mlp(x_rd, stacks, lambda x, w: self.product(x, w, counts))
        parts = zip(torch.split(x_rd, [*counts]), *(w.unbind() for w in stacks), strict=True)
        return torch.cat([_mlp(x_e, weights, F.linear) for x_e, *weights in parts])


def _mlp(
    x: Tensor, weights: Sequence[Tensor], product: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """SwiGLU with weights up, down, gate; GELU with the first two."""
    up, down, *gate = weights
    h = product(x, up)
    h = F.silu(product(x, gate[0])) * h if gate else F.gelu(h, approximate="tanh")
    return product(h, down)


class Sequences(Protocol):
    """The way from a rank's part of a sequence to all of it, and back (context/whole.py)."""

    real: Tensor

    def gathered(self, x_bse: Tensor) -> Tensor:
        """x[B, S/cp, E] -> x[B, S, E]."""
        ...

    def part(self, x_bse: Tensor) -> Tensor:
        """x[B, S, E] -> x[B, S/cp, E]."""
        ...


class MoE(nn.Module):
    """The experts of one layer, their router, and the MLP that all tokens share, if any.

    Losses of the router's own are added to the model's in the backward (routing.beside), or, where
    `owed` is a list, put there for the caller to add. `routed` is the decision of the last forward;
    `load_e` [E] is for whoever sums a step's.
    """

    def __init__(self, plan: Plan, name: str) -> None:
        super().__init__()
        self.plan, self.name, self.rules = plan, name, rules_of(plan)
        self.router = Router(plan)
        self.experts = self.make_experts()
        self.shared = self.make_shared() if plan.model.shared_experts else None
        self.load_e = torch.zeros(plan.model.experts, dtype=torch.int64)
        self.owed: list[Tensor] | None = None
        self.sequence: Sequences | None = None
        self.routed: Routed | None = None

    def make_experts(self) -> Experts:
        """The experts that are here, whole."""
        return Experts(self.plan, self.plan.experts_here, self.plan.model.mlp)

    def make_shared(self) -> GeluMLP | SwiGLU:
        """The shared experts, as one MLP as wide as all of them."""
        return mlp(self.plan, shared=True)

    def share(self) -> float:
        """Which part of a router's own losses this rank's backward adds: all of them."""
        return 1.0

    def route(self, x_bsd: Tensor, place: Place) -> Routed:
        """Where each token goes."""
        logits_bse = self.router(x_bsd)
        whole_bse = logits_bse.detach()
        if self.sequence is not None and self.plan.model.routes_by_sequence:
            whole_bse = self.sequence.gathered(whole_bse)
        biased = self.plan.model.balance == Balance.BIAS
        choice = choose(whole_bse, self.rules, self.router.bias_e if biased else None)
        mine = choice if self.sequence is None else self._mine(choice, self.sequence)
        rows = rows_of(logits_bse, mine, self.rules)
        extra = self._extra(logits_bse, choice)
        if extra is not None and torch.is_grad_enabled():
            if self.owed is None:
                gates = beside(rows.gates, extra * self.share())
                rows = replace(rows, gates=gates)
            else:
                self.owed.append(extra)
        self.routed = Routed(rows, rows.each, mine)
        return self.routed

    def _mine(self, choice: Choice, sequence: Sequences) -> Choice:
        """What of a choice is about the positions here."""
        if not self.plan.model.routes_by_sequence:  # none other was there to choose from
            real = sequence.real[:, None].to(choice.asked.device)
            return Choice(choice.asked & real, choice.kept & real)
        return Choice(sequence.part(choice.asked), sequence.part(choice.kept))

    def _extra(self, logits_bse: Tensor, choice: Choice) -> Tensor | None:
        """The router's own losses of these tokens, each divided once by all that a step has."""
        m, extra, pad_s = self.plan.model, None, None
        if self.sequence is not None and self.plan.context.padded > self.plan.seq:
            pad_s = ~self.sequence.real.to(logits_bse.device)  # it has no loss
        if m.balance == Balance.AUX:
            asked_be = choice.asked.sum(1)
            sums = balance_sum(logits_bse, asked_be, self.rules, choice.asked.shape[1], pad_s=pad_s)
            extra = m.aux_loss * sums / self.plan.global_batch
        if m.z_loss:
            z = m.z_loss * z_sum(logits_bse, pad_s=pad_s) / self.plan.tokens_per_step
            extra = z if extra is None else extra + z
        return extra

    def forward(self, x_bsd: Tensor, place: Place) -> Tensor:
        """x[B, S, D] -> [B, S, D], before it is added to the residual stream."""
        routed = self.route(x_bsd, place)
        y_rd = self.experts(send(x_bsd, routed.rows), routed.counts)
        return self.leave(put_back(y_rd, routed.rows, x_bsd.shape, self.beside(x_bsd)))

    def beside(self, x_bsd: Tensor) -> Tensor | None:
        """What the shared experts make of every token."""
        return None if self.shared is None else self.shared(x_bsd)

    def leave(self, y_bsd: Tensor) -> Tensor:
        """Nothing is left to sum."""
        return y_bsd


def send(x_bsd: Tensor, rows: Rows) -> Tensor:
    """x[B, S, D] -> x[R, D]: a copy of each token for each of its experts."""
    return x_bsd.flatten(0, 1).index_select(0, rows.tokens)


def put_back(y_rd: Tensor, rows: Rows, shape: torch.Size, also_bsd: Tensor | None) -> Tensor:
    """y[R, D] -> [B, S, D]: each token's results, weighed by its gates, added up, expert by expert;
    and what the shared experts have made."""
    weighed_rd = y_rd * rows.gates[:, None].to(y_rd.dtype)
    add_up: Callable[..., Tensor] = _AddUp.apply
    out_bsd = add_up(weighed_rd, rows.tokens, shape[0] * shape[1]).view(shape)
    return out_bsd if also_bsd is None else out_bsd + also_bsd


class _AddUp(Function):
    """Rows added up by token: torch's own keeps them for a backward that has no need of them."""

    @staticmethod
    def forward(ctx: Any, x_rd: Tensor, tokens: Tensor, n: int) -> Tensor:
        ctx.save_for_backward(tokens)
        return x_rd.new_zeros((n, x_rd.shape[1])).index_add(0, tokens, x_rd)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0].index_select(0, ctx.saved_tensors[0]), None, None
