"""ParamSpec: one parameter, its place in the model and how it is spread over the mesh.

Init, reduction, clipping, saving, resharding and the ledger read only this table; no feature
decides for itself which gradients are summed.

A *unit* is the piece of the model that one F or B instruction runs: "embed", "layer0" ...,
"head". A tied head uses the embedding's parameter, so that gradient is complete only after the
backward of "embed": it is listed once, in unit "embed", with `tied_to="head"`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
