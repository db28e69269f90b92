"""A model whose attention spans the ranks of a context-parallel group.

Everything but attention looks at one token at a time, so a layer needs nothing but another way to
attend: to keys and values that other ranks hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from parallel_core.context.attention import attention
from parallel_core.context.context import Context

if TYPE_CHECKING:
    from parallel_core.comm import Comm
    from parallel_core.dropout import Place
    from parallel_core.plan import Plan

Attend = Callable[..., Tensor]
"""q[B, H, S/cp, K], k and v[B, G, S/cp, K] and their place to a[B, H, S/cp, K]."""


class Units(Protocol):
    """A model of units by name."""

    @property
    def units(self) -> dict[str, nn.Module]:
        """The units that are here."""
        ...


def install(model: Units, plan: Plan, comm: Comm) -> None:
    """Have every layer attend by the plan's method."""
    context = Context(comm, plan.context, method=plan.cp_method, overlap=plan.overlap_cp)

    def across(attn: Any) -> Attend:
        def attend(q_bhsk: Tensor, k_bgtk: Tensor, v_bgtk: Tensor, place: Place) -> Tensor:
            here = context
            if plan.model.dropout:
                here = replace(context, factor=partial(attn.factor, place))
            return attention(q_bhsk, k_bgtk, v_bgtk, here)

        return attend

    for unit in model.units.values():
        layer: Any = unit
        if hasattr(layer, "attn"):
            layer.attn.attend = across(layer.attn)
