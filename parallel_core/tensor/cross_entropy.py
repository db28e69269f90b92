"""Cross-entropy over a vocabulary that is cut over tp: nobody ever holds all logits of a token.

    m[B, S]   largest logit        all_reduce MAX
    t[B, S]   the target's logit   all_reduce SUM   (zero where the target lies elsewhere)
    z[B, S]   sum of exp(logit-m)  all_reduce SUM
    loss = log z - (t - m);   dlogits = softmax - onehot, on this rank's slice, without a message

Three small messages of B·S elements instead of one of B·S·V. Shoeybi et al. 2019,
arXiv:1909.08053, section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from parallel_core.layers import wide
from parallel_core.model import IGNORED
from parallel_core.tensor.conjugate import AXIS, Region


def vocab_loss_sum(logits_bsv: Tensor, labels_bs: Tensor, vocab: int, region: Region) -> Tensor:
    """The sum of cross-entropies over tokens whose label is not IGNORED, the same on every rank.

    logits[B, S, V/tp] are this rank's slice, those of words from `vocab` on are padding; labels[B,
    S] are global. A scalar of float32 or wider.
    """
    real = max(vocab - region.me * logits_bsv.shape[-1], 0)
    if real < logits_bsv.shape[-1]:
        logits_bsv = _without_padding(logits_bsv, real)
    apply: Callable[..., Tensor] = _VocabLoss.apply
    return apply(wide(logits_bsv), labels_bs, region)


def _without_padding(logits_bsv: Tensor, real: int) -> Tensor:
    """The logits, those of no word at minus infinity: no probability, no gradient."""
    padding_v = torch.arange(logits_bsv.shape[-1], device=logits_bsv.device) >= real
    mask_v = logits_bsv.new_zeros(padding_v.shape).masked_fill(padding_v, -torch.inf)
    return logits_bsv + mask_v


class _VocabLoss(Function):
    @staticmethod
    def forward(ctx: Any, logits_bsv: Tensor, labels_bs: Tensor, region: Region) -> Tensor:
        width = logits_bsv.shape[-1]
        local = labels_bs - region.me * width
        here = (local >= 0) & (local < width)
        at = local.masked_fill(~here, 0)[..., None]
        largest = region.comm.all_reduce_max(logits_bsv.amax(-1), AXIS)
        target = logits_bsv.gather(-1, at)[..., 0].masked_fill(~here, 0)
        target = region.comm.all_reduce(target, AXIS)
        shifted = logits_bsv - largest[..., None]
        total = region.comm.all_reduce(shifted.exp().sum(-1), AXIS)
        counts = labels_bs != IGNORED
        losses = (total.log() + largest - target).masked_fill(~counts, 0)
        probs = shifted.exp_().div_(total[..., None])
        ctx.save_for_backward(probs, at, here & counts, counts)
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        probs, at, here, counts = ctx.saved_tensors
        dlogits = probs * counts[..., None]
        one = torch.where(here, -1.0, 0.0).to(probs.dtype)[..., None]
        dlogits.scatter_add_(-1, at, one)
        return dlogits.mul_(grads[0]), None, None
