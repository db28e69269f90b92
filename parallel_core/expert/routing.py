"""Who goes where: the choice a router makes for every token, sequence by sequence.

Shapes: B sequences, S positions, E experts, k choices a token, R rows that are sent to experts.

    dropless        every token to its k best experts
    capacity        likewise, but an expert takes C = ceil(f k S / E) tokens of a sequence at most:
                    first choices before second ones, early positions before late ones
    expert-choice   every expert takes the C tokens of a sequence that score highest with it

What would depend on the layout (places in an expert, its capacity, the auxiliary loss) is computed
within one sequence, from the logits of all its positions: no layout changes it. A token that no
expert takes keeps its residual.

Top-k gating: Shazeer et al. 2017, arXiv:1701.06538. Capacity: Lepikhin et al. 2020,
arXiv:2006.16668; Fedus et al. 2021, arXiv:2101.03961. Expert choice: Zhou et al. 2022,
arXiv:2202.09368. Sigmoid scores, node-limited routing and the bias: DeepSeek-AI 2024,
arXiv:2412.19437, section 2.1.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from parallel_core.expert.capacity import places

DROPLESS, CAPACITY, EXPERT_CHOICE = "dropless", "capacity", "expert-choice"
ROUTERS = (DROPLESS, CAPACITY, EXPERT_CHOICE)
SCORES = ("softmax", "sigmoid")


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How a layer routes: experts, choices a token, router, score, capacity factor.

    `groups` are as many runs of neighbouring experts, of which a token reaches the best `reach`.
    """

    experts: int
    top_k: int
    router: str = DROPLESS
    score: str = "softmax"
    capacity: float = 1.25
    groups: int = 1
    reach: int = 1

    def places(self, seq: int) -> int:
        """Tokens of one sequence that an expert takes at most."""
        if self.router == DROPLESS:
            return seq
        return places(seq, experts=self.experts, top_k=self.top_k, factor=self.capacity)

    def scores(self, logits_bse: Tensor) -> Tensor:
        """Logits -> scores in (0, 1), in their own width."""
        if self.score == "sigmoid":
            return torch.sigmoid(logits_bse)
        return torch.softmax(logits_bse, dim=-1)

    def normed(self, gates_bse: Tensor) -> Tensor:
        """A token's gates as parts of 1, where it has several and chose them itself."""
        if self.router == EXPERT_CHOICE or self.top_k == 1:
            return gates_bse
        tiny = torch.finfo(gates_bse.dtype).tiny  # of padding nothing is asked
        return gates_bse / gates_bse.sum(-1, keepdim=True).clamp_min(tiny)


@dataclass(frozen=True)
class Choice:
    """What a router chose for whole sequences: bool [B, S, E].

    `asked` are the experts that a token wants, `kept` those that take it. Under expert choice both
    are the same.
    """

    asked: Tensor
    kept: Tensor


def choose(logits_bse: Tensor, rules: Rules, bias_e: Tensor | None = None) -> Choice:
    """The choice for whole sequences, without a gradient. `bias_e` is added to scores to choose by,
    and is no part of a gate."""
    with torch.no_grad():
        scores_bse = rules.scores(logits_bse)
        if rules.router == EXPERT_CHOICE:
            order_bes = firm(scores_bse.mT).sort(dim=-1, descending=True, stable=True).indices
            taken_bes = order_bes[..., : rules.places(scores_bse.shape[1])]
            kept = torch.zeros_like(scores_bse.mT, dtype=torch.bool).scatter_(-1, taken_bes, True)
            return Choice(kept.mT, kept.mT)
        by_bse = scores_bse if bias_e is None else scores_bse + bias_e
        best_bsk = _within_reach(by_bse, rules).topk(rules.top_k, dim=-1).indices
        asked = torch.zeros_like(by_bse, dtype=torch.bool).scatter_(-1, best_bsk, True)
        if rules.router == DROPLESS:
            return Choice(asked, asked)
        return Choice(asked, _taken(best_bsk, rules))


def firm(x: Tensor) -> Tensor:
    """`x` with half of its digits, rounded: what is equal but for a sum's rounding is equal then.

    Words that repeat at the start of a sequence give tokens that are alike; which of them an expert
    takes must not depend on how a layout adds up. Dekker 1971, doi:10.1007/BF01397083.
    """
    digits = -round(math.log2(torch.finfo(x.dtype).eps))
    large = x * (2 ** (digits // 2) + 1)
    few: Tensor = large - (large - x)
    return few


def _within_reach(by_bse: Tensor, rules: Rules) -> Tensor:
    """Scores of the best groups; a group is worth its two best experts together."""
    if rules.groups == 1:
        return by_bse
    parts_bsgm = by_bse.reshape(*by_bse.shape[:-1], rules.groups, -1)
    best_bsg = parts_bsgm.topk(min(2, parts_bsgm.shape[-1]), dim=-1).values.sum(-1)
    near_bsn = best_bsg.topk(rules.reach, dim=-1).indices
    far_bsg = torch.ones_like(best_bsg, dtype=torch.bool).scatter_(-1, near_bsn, False)
    return parts_bsgm.masked_fill(far_bsg[..., None], -math.inf).flatten(-2)


def _taken(best_bsk: Tensor, rules: Rules) -> Tensor:
    """Which choices an expert has room for: they come in by rank of choice, then by position."""
    batch, seq, k = best_bsk.shape
    wants = torch.nn.functional.one_hot(best_bsk, rules.experts)  # [B, S, k, E]
    line = wants.transpose(1, 2).reshape(batch, k * seq, rules.experts)  # first choices first
    fits = (line.cumsum(1) <= rules.places(seq)) & line.bool()
    return fits.view(batch, k, seq, rules.experts).any(1)


@dataclass(frozen=True)
class Rows:
    """The rows that go to experts, expert by expert, a token's in order of its place.

    `tokens` int64 [R] says which token of x[N, D] each is, `gates` [R] how much its result counts,
    `counts` int64 [E] how many each expert gets, `asked` int64 [E] how many wanted it; `each` are
    the counts as the host knows them.
    """

    tokens: Tensor
    gates: Tensor
    counts: Tensor
    asked: Tensor
    each: list[int]


def rows_of(logits_bse: Tensor, choice: Choice, rules: Rules) -> Rows:
    """The rows of the tokens whose logits these are; gates carry the gradient to the router."""
    gates_bse = rules.normed(rules.scores(logits_bse) * choice.asked)
    kept_en = choice.kept.flatten(0, 1).mT
    counts = kept_en.sum(1)
    each = counts.tolist()  # the host waits here, and once more for others' counts
    experts, tokens = torch.nonzero_static(kept_en, size=sum(each)).T.contiguous()
    gates_r = gates_bse.flatten(0, 1)[tokens, experts]
    return Rows(tokens, gates_r, counts, choice.asked.flatten(0, 1).sum(0), each)


def balance_sum(
    logits_bse: Tensor, asked_be: Tensor, rules: Rules, seq: int, *, pad_s: Tensor | None = None
) -> Tensor:
    """The auxiliary loss of sequences of `seq` positions, summed over them: E sum_e f_e P_e each,
    1 where all is even.

    `asked_be` [B, E] counts the choices of *all* positions of a sequence; the logits may be those
    of some, whose share of P this is then, and of positions that are no tokens (`pad_s`). Fedus et
    al. 2021, section 2.2; by sequence as in DeepSeek-AI 2024, equation 17.
    """
    scores_bse = rules.scores(logits_bse)
    shares_bse = scores_bse / scores_bse.sum(-1, keepdim=True)
    if pad_s is not None:
        shares_bse = shares_bse.masked_fill(pad_s[:, None], 0.0)
    f_be = asked_be.to(shares_bse.dtype) * rules.experts / (rules.top_k * seq)
    return (f_be * shares_bse.sum(1) / seq).sum()


def z_sum(logits_bse: Tensor, *, pad_s: Tensor | None = None) -> Tensor:
    """The squared log-sum-exp of every token's logits, summed: what keeps them small; positions
    where `pad_s` are none. Zoph et al. 2022, arXiv:2202.08906, equation 5."""
    z_bs = torch.logsumexp(logits_bse, dim=-1)
    return (z_bs if pad_s is None else z_bs.masked_fill(pad_s, 0.0)).square().sum()


class _Beside(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor, loss: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> tuple[Tensor, Tensor]:
        return grads[0], grads[0].new_ones(())


def beside(x: Tensor, loss: Tensor) -> Tensor:
    """`x`, whose backward also runs that of `loss`, a scalar: a loss that is added to the model's
    own without being handed on from layer to layer."""
    return _Beside.apply(x, loss)  # type: ignore[no-untyped-call, no-any-return]  # torch's
