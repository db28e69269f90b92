"""A microbatch on its way through pieces: what one hands on to the next, and past it.

Shapes: B, S, D; R rows sent to experts.

    act     x[B, S, D], or rows[R, D] where the next piece is experts or takes up what they made
    skip    what goes past the experts: the residual stream, the gates, the shared experts' part

    layer0 (route)  -- rows --> layer0.experts -- rows --> layer1 (join, route) ...
          \\--------------------- skip ---------------------/

Both ends of a piece are cut from autograd's graph: what comes in is a leaf, of what goes out the
graph's edge is kept, and a backward runs from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from parallel_core.dropout import Place
from parallel_core.model import Layer, Transformer
from parallel_core.moe import Routed, put_back, send
from parallel_core.pieces import EXPERTS, JOIN, ROUTE


@dataclass(frozen=True)
class Skip:
    """What goes past the experts: x[B, S, D], gates[R], the shared experts' [B, S, D] if any, and
    how the rows go."""

    x_bsd: Tensor
    gates_r: Tensor
    shared_bsd: Tensor | None
    routed: Routed
    shape: torch.Size

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Those that carry a gradient."""
        shared = () if self.shared_bsd is None else (self.shared_bsd,)
        return (self.x_bsd, self.gates_r, *shared)

    def leaf(self) -> Skip:
        """The same, cut from its graph, to be given a gradient."""
        made = [t.detach().requires_grad_() for t in self.tensors]
        return replace(self, x_bsd=made[0], gates_r=made[1], shared_bsd=(*made, None)[2])

    def detached(self) -> Skip:
        """The same without a graph."""
        made = [t.detach() for t in self.tensors]
        return replace(self, x_bsd=made[0], gates_r=made[1], shared_bsd=(*made, None)[2])


@dataclass(frozen=True)
class Flow:
    """What is under way inside a piece: its x, and what goes past the experts."""

    x: Tensor
    skip: Skip | None = None


@dataclass(frozen=True)
class Kept:
    """What a forward keeps for its backward: what came in, the ends of the graph, and whatever a
    kind of kernels adds in `more`."""

    x: Tensor
    ends: tuple[Any, ...]
    skip: Skip | None = None
    more: dict[str, Any] = field(default_factory=dict)


def edges(flow: Flow) -> tuple[Any, ...]:
    """The ends of the graph of what goes out."""
    every = (flow.x, *(flow.skip.tensors if flow.skip else ()))
    return tuple(get_gradient_edge(t) for t in every)


def run_part(model: Transformer, part: str, flow: Flow, place: Place, each: Sequence[int]) -> Flow:
    """One unit, or part of a layer, of what is under way; `each` are the rows of every expert that
    is here, where the part is experts."""
    unit, what = part.split(".")[0], part[part.find(".") :] if "." in part else ""
    if not what:
        return Flow(model.forward_unit(part, flow.x, place), flow.skip)
    layer = model.get_submodule(unit)
    assert isinstance(layer, Layer)
    with model.around_unit():
        if what == ROUTE:
            return _route(layer, flow.x, place)
        if what == EXPERTS:
            return Flow(layer.moe.experts(flow.x, each))
        assert what == JOIN and flow.skip is not None
        return Flow(_join(layer, flow.x, flow.skip, place))


def _route(layer: Layer, x_bsd: Tensor, place: Place) -> Flow:
    x_bsd = layer.attended(x_bsd, place)
    h_bsd = layer.enter(layer.mlp_norm(x_bsd))
    routed = layer.moe.route(h_bsd, place)
    rows = routed.rows
    # how rows go is handed on without the graph of its gates: that goes when its backward has run
    plain = replace(routed, rows=replace(rows, gates=rows.gates.detach()))
    skip = Skip(x_bsd, rows.gates, layer.moe.beside(h_bsd), plain, h_bsd.shape)
    return Flow(send(h_bsd, rows), skip)


def _join(layer: Layer, y_rd: Tensor, skip: Skip, place: Place) -> Tensor:
    rows = replace(skip.routed.rows, gates=skip.gates_r)
    h_bsd = layer.moe.leave(put_back(y_rd, rows, skip.shape, skip.shared_bsd))
    return layer.added(skip.x_bsd, h_bsd, place)


def gradients(x: Tensor, skip: Skip | None) -> tuple[Tensor, tuple[Tensor, ...]]:
    """What a backward has given to what came in: dx, and d of what went past the experts."""
    assert x.grad is not None
    past = () if skip is None else tuple(_given(t) for t in skip.tensors)
    return x.grad, past


def _given(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def watched(x: Tensor, skip: Skip | None) -> Iterator[Tensor]:
    """What came in, tensor by tensor."""
    yield x
    if skip is not None:
        yield from skip.tensors
