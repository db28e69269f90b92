"""ParamSpec: one parameter, its place in the model and how it is spread over the mesh.

Init, reduction, clipping, saving, resharding and the ledger read only this table; no feature
decides for itself which gradients are summed.

A *unit* is the smallest part of the model that an instruction runs: "embed", "layer0" ..., "head".
A tied head uses the embedding's parameter, so that gradient is complete only after the backward
of "embed": it is listed once, in unit "embed", with `tied_to="head"`.

A *piece* is what one F or B instruction runs: a unit, or in a pipeline a stage, which is several.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

from parallel_core.pipeline.lower import stage_name
from parallel_core.pipeline.stages import split
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


def units(model: ModelShape) -> tuple[str, ...]:
    """The units in forward order: "embed", "layer0", ..., "head"."""
    return ("embed", *(f"layer{i}" for i in range(model.layers)), "head")


@dataclass(frozen=True)
class Piece:
    """What one F or B runs: its name in instructions, its units, their parameters."""

    name: str
    units: tuple[str, ...]
    specs: tuple[ParamSpec, ...]

    @property
    def numel(self) -> int:
        """Elements of its parameters."""
        return sum(spec.numel for spec in self.specs)


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

    @property
    def real(self) -> int:
        """How many of them are elements of the parameter."""
        return max(min(self.stop, self.end) - self.start, 0)


def cut(plan: Plan, spec: ParamSpec, me: int) -> Cut | None:
    """What rank `me` of a tensor-parallel group holds of a whole parameter; None for all of it.

    A vocabulary that does not divide is padded with words that no text has. Where there are fewer
    key/value heads than ranks, neighbours hold the same one: its gradient is the sum of theirs.
    Under sequence parallelism a whole parameter's is such a sum as well.
    """
    *_, module, kind = spec.name.split(".")
    if plan.tp == 1 or module not in COLUMN | ROW or (module in ROW and kind == "bias"):
        return None
    dim = 1 if module in ROW else 0
    copies = plan.kv_copies if module in ("k", "v") else 1
    size = -(-spec.shape[dim] // (plan.tp // copies))  # a vocabulary is padded
    at = me // copies
    return Cut(dim, at * size, (at + 1) * size, spec.shape[dim], copies)


def local(plan: Plan, spec: ParamSpec) -> ParamSpec:
    """The parameter as a rank holds it: the same on every rank but for where it is cut."""
    part = cut(plan, spec, 0)
    if part is None:
        return replace(spec, partial=(*spec.partial, "tp")) if plan.sp else spec
    shape = list(spec.shape)
    shape[part.dim] = part.stop - part.start
    partial = (*spec.partial, "kv_copy") if part.copies > 1 else spec.partial
    return replace(spec, shape=tuple(shape), cut=((part.dim, "tp"),), partial=partial)


@lru_cache(maxsize=256)
def pieces(plan: Plan) -> tuple[Piece, ...]:
    """The pieces of a plan in forward order: its units, or the stages of its pipeline.

    Their parameters have the shapes that a rank holds.
    """
    specs, every = [local(plan, spec) for spec in param_specs(plan)], units(plan.model)
    runs: dict[str, tuple[str, ...]] = {}
    if plan.pp == 1:
        runs = {unit: (unit,) for unit in every}
    else:
        at = 1
        counts = split(plan.model.layers, plan.pipeline.stages, plan.stage_layers)
        for s, count in enumerate(counts):
            first = every[:1] if s == 0 else ()
            last = every[-1:] if s == len(counts) - 1 else ()
            runs[stage_name(s)] = (*first, *every[at : at + count], *last)
            at += count
    return tuple(
        Piece(name, run, tuple(s for s in specs if s.unit in run)) for name, run in runs.items()
    )


def held_pieces(plan: Plan, rank: int) -> tuple[int, ...]:
    """The numbers of the pieces whose weights `rank` holds."""
    if plan.pp == 1:
        return tuple(range(len(pieces(plan))))
    return plan.pipeline.held[plan.mesh.coordinate(rank)["pp"]]


def copies_table(plan: Plan, rank: int) -> bool:
    """Whether a rank runs a tied head without the embedding, and so keeps a copy of its table."""
    mine = held_pieces(plan, rank)
    return plan.model.tied and 0 not in mine and len(pieces(plan)) - 1 in mine


def table_spec(plan: Plan) -> ParamSpec:
    """The embedding's table."""
    return pieces(plan)[0].specs[0]


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
        specs += _layer(m, i)
    specs += _norm(m, "head.norm", "head")
    if not m.tied:
        specs += [_weight("head.out.weight", (m.vocab, m.hidden), "head")]
    return tuple(specs)


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
    if m.dialect == Dialect.LLAMA:
        specs += _linear(m, f"{at}.mlp.gate", (f, d), 0.02)
    specs += _linear(m, f"{at}.mlp.up", (f, d), 0.02)
    return specs + _linear(m, f"{at}.mlp.down", (d, f), into_residual)
