"""The transformer, its matrices cut over tp.   Shapes: B, S, D model, H heads, G kv heads, K = D/H.

    enter (f)      x[B, S, D] -> x[B, S, D]                 gathers S under sequence parallelism
    q, k, v        column    -> [B, H/tp, S, K], [B, G/tp, S, K]
    attention      each rank its own heads, no message
    o              row       -> [B, S, D] +tp, leave (g)
    MLP            column, nonlinearity, row                 likewise

Two sums forward and two backward a layer. Where there are fewer kv heads than ranks, several ranks
hold the same one, and its gradient is the sum of theirs. Norms are whole on every rank; under
sequence parallelism each sees S/tp tokens, so that their gradients are parts of a sum over tp.
Shoeybi et al. 2019, arXiv:1909.08053; Korthikanti et al. 2022, arXiv:2205.05198.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import replace

from torch import Tensor, nn

from parallel_core.attention import Attention
from parallel_core.dropout import Place
from parallel_core.layers import GeluMLP, SwiGLU, inner_width, norm
from parallel_core.model import Head, Layer, Residual, Table, Transformer
from parallel_core.moe import Experts, MoE
from parallel_core.params import units
from parallel_core.plan import Dialect, Plan
from parallel_core.tensor.conjugate import Region
from parallel_core.tensor.cross_entropy import vocab_loss_sum
from parallel_core.tensor.embedding import VocabTable
from parallel_core.tensor.linear import ColumnLinear, RowLinear, products
from parallel_core.tensor.overlap import gather_products


class TensorAttention(Attention):
    """The attention of H/tp heads; `first_head` numbers them for dropout."""

    def __init__(self, plan: Plan, name: str, region: Region) -> None:
        super().__init__(plan, name)
        m = plan.model
        heads, kv = m.heads // region.n, plan.kv_here
        self.first_head = region.me * heads
        self.q = ColumnLinear(plan, heads * m.head_dim, m.hidden)
        self.k = ColumnLinear(plan, kv * m.head_dim, m.hidden)
        self.v = ColumnLinear(plan, kv * m.head_dim, m.hidden)
        self.o = RowLinear(plan, m.hidden, heads * m.head_dim, region)
        self.region = region

    def into(self, x_bsd: Tensor) -> tuple[Tensor, ...]:
        """x -> q, k, v of the rank's heads."""
        return products(x_bsd, (self.q, self.k, self.v), self.region)


class TensorGelu(GeluMLP):
    """The gpt dialect's MLP with F/tp hidden features."""

    def __init__(self, plan: Plan, region: Region, *, shared: bool = False) -> None:
        super().__init__(plan, shared=shared)
        self.region = region
        inner, outer = inner_width(plan, shared) // region.n, plan.model.hidden
        self.up = ColumnLinear(plan, inner, outer, bias=not shared)
        self.down = RowLinear(plan, outer, inner, region, part=shared)

    def into(self, x_bsd: Tensor) -> tuple[Tensor, ...]:
        """x[B, S, D] -> up[B, S, F/tp]."""
        return products(x_bsd, (self.up,), self.region)


class TensorSwiGLU(SwiGLU):
    """The llama dialect's, likewise."""

    def __init__(self, plan: Plan, region: Region, *, shared: bool = False) -> None:
        super().__init__(plan, shared=shared)
        self.region = region
        inner, outer = inner_width(plan, shared) // region.n, plan.model.hidden
        self.gate = ColumnLinear(plan, inner, outer)
        self.up = ColumnLinear(plan, inner, outer)
        self.down = RowLinear(plan, outer, inner, region, part=shared)

    def into(self, x_bsd: Tensor) -> tuple[Tensor, ...]:
        """x[B, S, D] -> gate and up[B, S, F/tp]."""
        return products(x_bsd, (self.gate, self.up), self.region)


def tensor_mlp(plan: Plan, region: Region, *, shared: bool = False) -> GeluMLP | SwiGLU:
    """The dialect's MLP with F/tp hidden features; shared experts give the rank's part of a sum."""
    made = TensorSwiGLU if plan.model.dialect == Dialect.LLAMA else TensorGelu
    return made(plan, region, shared=shared)


def place_here(place: Place, region: Region) -> Place:
    """Where the activations outside a region stand: this rank's S/tp positions, or all."""
    if not region.sequence:
        return place
    return replace(place, positions=place.positions.chunk(region.n)[region.me])


class TensorEmbed(Residual):
    """The unit "embed": ids[B, S] -> x[B, S, D], or x[B, S/tp, D]."""

    def __init__(self, plan: Plan, region: Region) -> None:
        super().__init__(plan)
        self.region = region
        self.tokens = VocabTable(plan, region)
        self.positions = Table(plan, plan.seq) if plan.model.dialect == Dialect.GPT else None

    def forward(self, ids_bs: Tensor, place: Place) -> Tensor:
        """Rows of the tables, added (gpt)."""
        here = place_here(place, self.region)
        x_bsd: Tensor = self.tokens(ids_bs)
        if self.positions is not None:
            x_bsd = x_bsd + self.positions(here.positions)
        return self.drop(x_bsd, "embed", here)


class TensorBorrowed(nn.Module):
    """A copy of this rank's rows of the table, where a tied head stands without the embedding."""

    def __init__(self, plan: Plan, region: Region) -> None:
        super().__init__()
        self.tokens = VocabTable(plan, region)


class TensorExperts(MoE):
    """Experts of which each rank holds F/tp of every hidden width.

    Each rank sends all tokens through its slice, and weighs and adds up its part of what they give:
    one sum for the layer, as for an MLP. So gates see a part of their gradient on each rank.
    """

    def __init__(self, plan: Plan, name: str, region: Region) -> None:
        self.region: Region
        object.__setattr__(self, "region", region)  # before there are modules
        super().__init__(plan, name)

    def make_experts(self) -> Experts:
        """The experts that are here, a slice of each."""
        return Experts(self.plan, self.plan.experts_here, self.plan.model.mlp // self.region.n)

    def make_shared(self) -> GeluMLP | SwiGLU:
        """A slice of the shared experts; what it makes leaves the region with the others'."""
        return tensor_mlp(self.plan, self.region, shared=True)

    def share(self) -> float:
        """All ranks see all tokens: each adds its part of the router's own losses."""
        return super().share() / self.region.n

    def leave(self, y_bsd: Tensor) -> Tensor:
        """The sum of the ranks' parts."""
        return self.region.leave(y_bsd)


class TensorLayer(Layer):
    """A unit "layer<i>": x[B, S, D] -> x[B, S, D], or with S/tp."""

    def __init__(self, plan: Plan, name: str, region: Region) -> None:
        object.__setattr__(self, "region", region)  # before there are modules
        super().__init__(plan, name)

    region: Region

    def make_attention(self) -> TensorAttention:
        """The attention of the rank's heads."""
        return TensorAttention(self.plan, f"{self.name}.attn", self.region)

    def make_mlp(self) -> GeluMLP | SwiGLU:
        """A slice of the MLP."""
        return tensor_mlp(self.plan, self.region)

    def make_experts(self) -> MoE:
        """A slice of every expert."""
        return TensorExperts(self.plan, f"{self.name}.moe", self.region)

    def enter(self, x_bsd: Tensor) -> Tensor:
        """Into a region: f, or f' under sequence parallelism."""
        return self.region.enter(x_bsd)

    def here(self, place: Place) -> Place:
        """Where the activations outside a region stand."""
        return place_here(place, self.region)


class TensorHead(nn.Module):
    """The unit "head": x -> logits[B, S, V/tp] of this rank's words."""

    product: Callable[..., Tensor] = staticmethod(Head.product)

    def __init__(self, plan: Plan, region: Region) -> None:
        super().__init__()
        self.region = region
        self.norm = norm(plan)
        self.out = None if plan.model.tied else VocabTable(plan, region)

    def forward(self, x_bsd: Tensor, weight_vd: Tensor) -> Tensor:
        """The norm, then the scalar product with each of the rank's rows."""
        if self.region.overlap:
            return gather_products(self.norm(x_bsd), [(weight_vd, None)], self.region)[0]
        return self.product(self.region.enter(self.norm(x_bsd)), weight_vd)


class TensorTransformer(Transformer):
    """One rank's slice of the model, with the names of the whole one; shapes are its own."""

    def __init__(self, plan: Plan, region: Region, only: Collection[str] | None = None) -> None:
        nn.Module.__init__(self)
        self.plan, self.region = plan, region
        first, *middle, last = units(plan.model)
        chosen = units(plan.model) if only is None else only
        if first in chosen:
            self.add_module(first, TensorEmbed(plan, region))
        elif plan.model.tied and last in chosen:
            self.add_module(first, TensorBorrowed(plan, region))
        for name in middle:
            if name in chosen:
                self.add_module(name, TensorLayer(plan, name, region))
        if last in chosen:
            self.add_module(last, TensorHead(plan, region))

    def forward_unit(self, unit: str, x: Tensor, place: Place) -> Tensor:
        """One unit; the head gives this rank's logits[B, S, V/tp]."""
        with self.around_unit():
            return super().forward_unit(unit, x, place)

    def around_unit(self) -> AbstractContextManager[None]:
        """Gathered inputs are kept as their shards."""
        return self.region.keeping_shards()

    def loss_sum(self, logits_bsv: Tensor, labels_bs: Tensor) -> Tensor:
        """The loss of logits whose vocabulary is cut."""
        return vocab_loss_sum(logits_bsv, labels_bs, self.plan.model.vocab, self.region)
