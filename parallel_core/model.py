"""One transformer on one device: the model every layout is held against. No parallelism in it.

Shapes: B batch, S sequence, D model, V vocabulary.

    embed    ids[B, S] -> x[B, S, D]         token (gpt: + position) embeddings
    layer    x -> x + attention(norm x)      then x + mlp(norm x); pre-norm
    head     x[B, S, D] -> logits[B, S, V]   norm, then one projection (the embedding's, if tied)

These are the *units*: what one forward or backward instruction runs. Parameters are named and
shaped as in params.py. Dropout (gpt) sits where GPT-2 has it: after the embeddings, on the
attention probabilities, and on both branches before they join the residual stream.

GPT-2: Radford et al. 2019. Llama: Touvron et al. 2023, arXiv:2302.13971.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parallel_core.attention import Attention
from parallel_core.choices import IGNORED
from parallel_core.dropout import Place, dropout, grid
from parallel_core.layers import GeluMLP, SwiGLU, empty, mlp, norm, wide
from parallel_core.moe import MoE
from parallel_core.own_block_layer import OwnLayer
from parallel_core.params import Cut, ParamSpec, cuts, param_specs, units
from parallel_core.plan import Dialect, Plan
from parallel_core.rng import normal

__all__ = ["IGNORED", "Place", "Transformer", "draw", "init_weights", "loss_sum"]

CHUNK = 1 << 15
"""Elements drawn at a time: few enough to stay in a core's cache."""


class Table(nn.Module):
    """A learned vector for each of `rows` things: row i is thing i's.

    `look_up(ids, w)` is torch's, unless the backward is to be split (deferred.py).
    """

    look_up: Callable[..., Tensor] = staticmethod(F.embedding)

    def __init__(self, plan: Plan, rows: int) -> None:
        super().__init__()
        self.weight = empty(plan, rows, plan.model.hidden)

    def forward(self, ids: Tensor) -> Tensor:
        """ids[...] int64 -> [..., D]."""
        return self.look_up(ids, self.weight)


class Residual(nn.Module):
    """What units share: dropout of an x[B, S, D] at a named site."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan

    def drop(self, x_bsd: Tensor, site: str, place: Place) -> Tensor:
        """`x` after the plan's dropout, `x` itself where that is 0."""
        batch, seq, width = self.plan.global_batch, self.plan.seq, self.plan.model.hidden
        if self.plan.model.dropout == 0:
            return x_bsd
        features = torch.arange(width, device=x_bsd.device)
        index_bsd = grid((place.rows, batch), (place.positions, seq), (features, width))
        return dropout(x_bsd, self.plan.model.dropout, site, place, index_bsd)


class Embed(Residual):
    """The unit "embed": ids[B, S] -> x[B, S, D]."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.tokens = Table(plan, plan.model.vocab)
        self.positions = Table(plan, plan.seq) if plan.model.dialect == Dialect.GPT else None

    def forward(self, ids_bs: Tensor, place: Place) -> Tensor:
        """Rows of the tables, added (gpt)."""
        x_bsd: Tensor = self.tokens(ids_bs)
        if self.positions is not None:
            x_bsd = x_bsd + self.positions(place.positions)
        return self.drop(x_bsd, "embed", place)


class Borrowed(nn.Module):
    """A copy of the embedding's table, where a tied head stands without the embedding."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.tokens = Table(plan, plan.model.vocab)


class Layer(Residual):
    """A unit "layer<i>": x[B, S, D] -> x[B, S, D]."""

    def __init__(self, plan: Plan, name: str) -> None:
        super().__init__(plan)
        self.name = name
        self.attn_norm = norm(plan)
        self.attn = self.make_attention()
        self.mlp_norm = norm(plan)
        if plan.model.experts:
            self.moe = self.make_experts()
        else:
            self.mlp = self.make_mlp()

    def make_attention(self) -> Attention:
        """The layer's attention."""
        return Attention(self.plan, f"{self.name}.attn")

    def make_mlp(self) -> GeluMLP | SwiGLU:
        """What a dense layer has behind its attention."""
        return mlp(self.plan)

    def make_experts(self) -> MoE:
        """What a layer of experts has there."""
        return MoE(self.plan, f"{self.name}.moe")

    def enter(self, x_bsd: Tensor) -> Tensor:
        """A norm's output as the products behind it take it."""
        return x_bsd

    def here(self, place: Place) -> Place:
        """Where the activations between the products stand."""
        return place

    def forward(self, x_bsd: Tensor, place: Place) -> Tensor:
        """Attention, then MLP or experts, each added to what came in."""
        x_bsd = self.attended(x_bsd, place)
        h_bsd = self.enter(self.mlp_norm(x_bsd))
        h_bsd = self.moe(h_bsd, place) if self.plan.model.experts else self.mlp(h_bsd)
        return self.added(x_bsd, h_bsd, place)

    def attended(self, x_bsd: Tensor, place: Place) -> Tensor:
        """What came in, and attention."""
        a_bsd = self.attn(self.enter(self.attn_norm(x_bsd)), place)
        return x_bsd + self.drop(a_bsd, f"{self.name}.attn.out", self.here(place))

    def added(self, x_bsd: Tensor, h_bsd: Tensor, place: Place) -> Tensor:
        """That, and what the MLP or the experts have made of it."""
        return x_bsd + self.drop(h_bsd, f"{self.name}.mlp.out", self.here(place))


class Head(nn.Module):
    """The unit "head": x[B, S, D] -> logits[B, S, V]. A tied head owns its norm only.

    `product(x, w)` is torch's, unless the backward is to be split (deferred.py).
    """

    product: Callable[..., Tensor] = staticmethod(F.linear)

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.norm = norm(plan)
        self.out = None if plan.model.tied else Table(plan, plan.model.vocab)

    def forward(self, x_bsd: Tensor, weight_vd: Tensor) -> Tensor:
        """The norm, then the scalar product with each row of `weight_vd`."""
        return self.product(self.norm(x_bsd), weight_vd)


class Transformer(nn.Module):
    """The whole model, made empty in the plan's dtype; `init_weights` fills it.

    `named_parameters()` gives the names and shapes of `param_specs(plan)`. `only` makes a part of
    it: the units named, and with a tied head the table it needs.
    """

    embed: Embed | Borrowed
    head: Head

    def __init__(self, plan: Plan, only: Collection[str] | None = None) -> None:
        super().__init__()
        self.plan = plan
        first, *middle, last = units(plan.model)
        chosen = units(plan.model) if only is None else only
        if first in chosen:
            self.add_module(first, Embed(plan))
        elif plan.model.tied and last in chosen:
            self.add_module(first, Borrowed(plan))
        for name in middle:
            if name in chosen:
                own = plan.model.block is not None
                self.add_module(name, OwnLayer(plan) if own else Layer(plan, name))
        if last in chosen:
            self.add_module(last, Head(plan))

    @property
    def units(self) -> dict[str, nn.Module]:
        """The units by name, in forward order."""
        return dict(self.named_children())

    @property
    def routers(self) -> dict[str, MoE]:
        """The layers of experts that are here, by unit."""
        layers = ((name, getattr(unit, "moe", None)) for name, unit in self.units.items())
        return {name: moe for name, moe in layers if isinstance(moe, MoE)}

    def around_unit(self) -> AbstractContextManager[None]:
        """What a unit, or a part of one, runs in."""
        return nullcontext()

    def forward_unit(self, unit: str, x: Tensor, place: Place) -> Tensor:
        """One unit: embed takes ids[B, S], a layer x[B, S, D], the head gives logits[B, S, V]."""
        if unit == "head":
            table = self.embed.tokens if self.head.out is None else self.head.out
            return cast(Tensor, self.head(x, table.weight))
        return cast(Tensor, self.get_submodule(unit)(x, place))

    def loss_sum(self, logits_bsv: Tensor, labels_bs: Tensor) -> Tensor:
        """The summed cross-entropy of the head's logits."""
        return loss_sum(logits_bsv, labels_bs)

    def forward(self, ids_bs: Tensor, labels_bs: Tensor, place: Place, valid_tokens: int) -> Tensor:
        """The loss of these rows: their summed cross-entropy over the *global* batch's tokens."""
        x, routers = ids_bs, self.routers.values()
        for moe in routers:
            moe.owed = []
        for unit in self.units:
            x = self.forward_unit(unit, x, place)
        loss = loss_sum(x, labels_bs) / valid_tokens
        for owed in (extra for moe in routers for extra in moe.owed or ()):
            loss = loss + (owed - owed.detach())  # its gradient: what is told is the text's loss
        return loss


def loss_sum(logits_bsv: Tensor, labels_bs: Tensor) -> Tensor:
    """The sum (not the mean) of cross-entropies over the tokens whose label is not IGNORED.

    labels[B, S] int64 are already shifted: the label of a token is the one that follows it. A
    scalar of float32 or wider.
    """
    return F.cross_entropy(
        wide(logits_bsv).flatten(0, 1), labels_bs.flatten(), ignore_index=IGNORED, reduction="sum"
    )


def draw(spec: ParamSpec, seed: int, start: int, stop: int) -> Tensor:
    """The initial values of elements `start` to `stop` of a whole parameter, laid out flat.

    float64 on the CPU, whatever the device that will use them, so that every layout and every
    machine starts from the same model. Any slice equals that slice of the whole.
    """
    if spec.std is None:
        return torch.full((stop - start,), spec.fill, dtype=torch.float64)
    values = torch.empty(stop - start, dtype=torch.float64)
    for at in range(start, stop, CHUNK):
        index = torch.arange(at, min(at + CHUNK, stop))
        values[at - start : at - start + CHUNK] = normal(seed, spec.name, index) * spec.std
    return values


def init_weights(model: nn.Module, plan: Plan, place: Mapping[str, int] | None = None) -> None:
    """Fill every parameter of `model`, on any device, with its initial values in its dtype.

    `place` is the rank's in the mesh, which says what it holds of each; by default the first's.
    """
    place = {} if place is None else place
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for spec in param_specs(plan):
            if spec.name in weights:  # else of a part that is not here
                _fill_part(weights[spec.name], spec, plan.seed, cuts(plan, spec, place), 0)


def draw_part(
    plan: Plan, spec: ParamSpec, shape: tuple[int, ...], place: Mapping[str, int]
) -> Tensor:
    """The initial values of what the rank at `place` holds of a whole parameter, float64."""
    own = torch.empty(shape, dtype=torch.float64)
    _fill_part(own, spec, plan.seed, cuts(plan, spec, place), 0)
    return own


def _fill_part(own: Tensor, spec: ParamSpec, seed: int, parts: Sequence[Cut], start: int) -> None:
    """What lies between the cuts of a whole parameter, from its element number `start` on."""
    depth = len(spec.shape) - own.dim()
    mine = next((part for part in parts if part.dim == depth), None)
    stride = math.prod(spec.shape[depth + 1 :])
    real = len(own) if mine is None else mine.real
    first = start + (0 if mine is None else mine.start * stride)
    if any(part.dim > depth for part in parts):
        for i in range(real):
            _fill_part(own[i], spec, seed, parts, first + i * stride)
    else:
        _fill(own[:real].view(-1), spec, seed, first)
    own[real:].zero_()


def _fill(flat: Tensor, spec: ParamSpec, seed: int, start: int) -> None:
    """Neighbouring elements of a whole parameter, from number `start` on."""
    for at in range(0, flat.numel(), CHUNK):
        stop = min(at + CHUNK, flat.numel())
        flat[at:stop] = draw(spec, seed, start + at, start + stop)
