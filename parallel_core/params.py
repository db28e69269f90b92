"""ParamSpec: one parameter, its place in the model and how it is spread over the mesh.

Init, reduction, clipping, saving, resharding and the ledger read only this table; no feature
decides for itself which gradients are summed.

A *unit* is the smallest part of the model that an instruction runs: "embed", "layer0" ..., "head".
A tied head uses the embedding's parameter, so that gradient is complete only after the backward
of "embed": it is listed once, in unit "embed", with `tied_to="head"`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from parallel_core.own_block import described
from parallel_core.plan import Dialect, ModelShape, Plan


@dataclass(frozen=True, kw_only=True)
class ParamSpec:
    """A parameter's global name and shape, its unit, its init, its spread over the mesh.

    `std` is the deviation of its normal init; None means a constant `fill`. `cut` lists
    (dim, axis) pairs: dim is divided over that mesh axis. `partial` lists the axes over which
    each rank's gradient is one term of a sum.
    """

    name: str
    shape: tuple[int, ...]
    unit: str
    std: float | None = None
    fill: float = 0.0
    cut: tuple[tuple[int, str], ...] = ()
    partial: tuple[str, ...] = ("dp",)
    stage: int = 0
    tied_to: str | None = None

    @property
    def numel(self) -> int:
        """Elements of the whole parameter, over all ranks that share it."""
        return math.prod(self.shape)

    @property
    def module(self) -> str:
        """The module it belongs to: "q" of layer0.attn.q.weight."""
        return self.name.split(".")[-2]

    @property
    def is_expert(self) -> bool:
        """Whether it is a stack of one matrix an expert."""
        return ".experts." in self.name


def units(model: ModelShape) -> tuple[str, ...]:
    """The units in forward order: "embed", "layer0", ..., "head"."""
    return ("embed", *(f"layer{i}" for i in range(model.layers)), "head")


COLUMN = frozenset({"q", "k", "v", "gate", "up", "tokens", "out"})
"""Modules whose matrices (and biases) tensor parallelism cuts by rows, each row an output."""

ROW = frozenset({"o", "down"})
"""Modules whose matrices it cuts by columns; their biases stay whole."""


@dataclass(frozen=True)
class Cut:
    """Elements `start` to `stop` along `dim`, of which those from `end` on are padding; `copies`
    ranks hold the same ones."""

    dim: int
    start: int
    stop: int
    end: int
    copies: int = 1
    axis: str = "tp"

    @property
    def real(self) -> int:
        """How many of them are elements of the parameter."""
        return max(min(self.stop, self.end) - self.start, 0)


def cuts(plan: Plan, spec: ParamSpec, place: Mapping[str, int]) -> tuple[Cut, ...]:
    """What the rank at `place` in the mesh holds of a whole parameter; () for all of it.

    A vocabulary that does not divide is padded with words that no text has. Where there are fewer
    key/value heads than ranks, neighbours hold the same one: its gradient is the sum of theirs.
    Under sequence parallelism a whole parameter's is such a sum as well, and a router's always is:
    each rank weighs its own part of what the experts have made.
    """
    found = []
    if spec.is_expert and plan.ep > 1:
        mine = plan.experts_of(place.get("ep", 0))
        found.append(Cut(0, mine.start, mine.stop, spec.shape[0], axis="ep"))
    dim = _tensor_dim(spec)
    if plan.tp == 1 or dim is None:
        return tuple(found)
    copies = plan.kv_copies if spec.module in ("k", "v") else 1
    size = -(-spec.shape[dim] // (plan.tp // copies))  # a vocabulary is padded
    at = place.get("tp", 0) // copies
    return (*found, Cut(dim, at * size, (at + 1) * size, spec.shape[dim], copies))


def _tensor_dim(spec: ParamSpec) -> int | None:
    """The dimension that tensor parallelism cuts."""
    if spec.module in ROW:
        return None if spec.name.endswith("bias") else 1 + spec.is_expert
    return int(spec.is_expert) if spec.module in COLUMN else None


def local(plan: Plan, spec: ParamSpec) -> ParamSpec:
    """The parameter as a rank holds it: the same on every rank but for where it is cut."""
    parts = cuts(plan, spec, {})
    shape = list(spec.shape)
    for part in parts:
        shape[part.dim] = part.stop - part.start
    cut = tuple((part.dim, part.axis) for part in parts)
    partial = ("edp",) if spec.is_expert and plan.ep > 1 else spec.partial
    if any(part.copies > 1 for part in parts):
        partial = (*partial, "kv_copy")
    elif plan.tp > 1 and "tp" not in dict((axis, dim) for dim, axis in cut):
        partial = (*partial, "tp") if plan.sp or spec.module == "router" else partial
    return replace(spec, shape=tuple(shape), cut=cut, partial=partial)


def param_specs(plan: Plan) -> tuple[ParamSpec, ...]:
    """Every parameter of the plan's model, in forward order, tied weights once.

    Normal init with deviation 0.02; the two projections that write into the residual stream
    use 0.02/sqrt(2 layers) (GPT-2, Radford et al. 2019, section 2.3).
    """
    m = plan.model
    specs = [_weight("embed.tokens.weight", (m.vocab, m.hidden), "embed", m.tied)]
    if m.dialect == Dialect.GPT:
        specs += [_weight("embed.positions.weight", (plan.seq, m.hidden), "embed")]
    for i in range(m.layers):
        specs += _own(plan, f"layer{i}") if m.block else _layer(m, i)
    specs += _norm(m, "head.norm", "head")
    if not m.tied:
        specs += [_weight("head.out.weight", (m.vocab, m.hidden), "head")]
    return tuple(specs)


def _own(plan: Plan, unit: str) -> list[ParamSpec]:
    """The parameters of a layer that is the reader's own block."""
    return [
        ParamSpec(name=f"{unit}.block.{w.name}", shape=w.shape, unit=unit, std=w.std, fill=w.fill)
        for w in described(plan).weights
    ]


def _weight(
    name: str, shape: tuple[int, ...], unit: str, tied: bool = False, std: float = 0.02
) -> ParamSpec:
    return ParamSpec(name=name, shape=shape, unit=unit, std=std, tied_to="head" if tied else None)


def _norm(m: ModelShape, name: str, unit: str) -> list[ParamSpec]:
    ones = ParamSpec(name=f"{name}.weight", shape=(m.hidden,), unit=unit, fill=1.0)
    if m.dialect == Dialect.LLAMA:
        return [ones]
    return [ones, ParamSpec(name=f"{name}.bias", shape=(m.hidden,), unit=unit)]


def _linear(m: ModelShape, name: str, out_in: tuple[int, int], std: float) -> list[ParamSpec]:
    unit = name.split(".")[0]
    specs = [_weight(f"{name}.weight", out_in, unit, std=std)]
    if m.dialect == Dialect.GPT:
        specs += [ParamSpec(name=f"{name}.bias", shape=out_in[:1], unit=unit)]
    return specs


def _layer(m: ModelShape, i: int) -> list[ParamSpec]:
    at, d, kv, f = f"layer{i}", m.hidden, m.kv * m.head_dim, m.mlp
    into_residual = 0.02 / math.sqrt(2 * m.layers)
    specs = _norm(m, f"{at}.attn_norm", at)
    for name, rows in (("q", d), ("k", kv), ("v", kv)):
        specs += _linear(m, f"{at}.attn.{name}", (rows, d), 0.02)
    specs += _linear(m, f"{at}.attn.o", (d, d), into_residual)
    specs += _norm(m, f"{at}.mlp_norm", at)
    if not m.experts:
        return specs + _mlp(m, f"{at}.mlp", f)
    specs += [_weight(f"{at}.moe.router.weight", (m.experts, d), at)]
    shared = _mlp(m, f"{at}.moe.shared", m.shared_width) if m.shared_experts else []
    shared = [spec for spec in shared if spec.name.endswith("weight")]
    for name, shape, std in (("gate", (f, d), 0.02), ("up", (f, d), 0.02), ("down", (d, f), None)):
        if name != "gate" or m.dialect == Dialect.LLAMA:
            stack = (m.experts, *shape)
            every = std or into_residual
            specs += [_weight(f"{at}.moe.experts.{name}.weight", stack, at, std=every)]
    return specs + shared


def _mlp(m: ModelShape, name: str, f: int) -> list[ParamSpec]:
    specs = []
    if m.dialect == Dialect.LLAMA:
        specs += _linear(m, f"{name}.gate", (f, m.hidden), 0.02)
    specs += _linear(m, f"{name}.up", (f, m.hidden), 0.02)
    return specs + _linear(m, f"{name}.down", (m.hidden, f), 0.02 / math.sqrt(2 * m.layers))
