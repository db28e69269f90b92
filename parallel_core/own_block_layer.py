"""A reader's block in the model: its file opened, the block made and put into a layer.

Importing this is what lets a process open blocks (own_block.py); model.py does, and no page.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from parallel_core.dropout import Place
from parallel_core.fields import PlanError
from parallel_core.own_block import NONE, in_words
from parallel_core.plan import Plan


class OwnLayer(nn.Module):
    """The unit "layer<i>" around a reader's block: x[B, S, D] -> [B, S, D]."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.block = made(plan, getattr(torch, plan.dtype))

    def forward(self, x_bsd: Tensor, place: Place) -> Tensor:
        """The block's; where the rows stand is nothing to it."""
        out: Tensor = self.block(x_bsd)
        return out


def made(plan: Plan, dtype: torch.dtype) -> nn.Module:
    """A new block in `dtype`, from the fields of the model that its constructor names."""
    block = plan.model.block or ""
    build = _class(block)
    given = fields_of(plan)
    asked = inspect.signature(build).parameters.values()
    unknown = [p.name for p in asked if p.default is p.empty and p.name not in given
               and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]  # fmt: skip
    if unknown:
        refuse(plan, f"asks for {unknown[0]}, and the model has {', '.join(given)}")
    with torch.random.fork_rng(devices=[]), told(plan):
        torch.manual_seed(0)
        module = build(**{p.name: given[p.name] for p in asked if p.name in given})
    if not isinstance(module, nn.Module):
        refuse(plan, "makes no torch.nn.Module")
    if any(weight.is_complex() for weight in (*module.parameters(), *module.buffers())):
        refuse(plan, "holds complex numbers, which no type of a plan has")
    whole: nn.Module = module.to(dtype)
    return whole


def fields_of(plan: Plan) -> dict[str, int]:
    """What a block's constructor may ask for, by name; the defaults filled in."""
    m = plan.model
    return {
        "hidden": m.hidden,
        "heads": m.heads,
        "kv_heads": m.kv,
        "head_dim": m.head_dim,
        "ffn": m.mlp,
        "layers": m.layers,
        "vocab": m.vocab,
        "seq": plan.seq,
    }


@lru_cache(maxsize=16)
def _class(block: str) -> Callable[..., Any]:
    """The class of "/path/file.py:Class@digest"; one that is not there, or fails, is told."""
    where, _, name = block.rpartition("@")[0].rpartition(":")
    own = f"own_block_{block.rpartition('@')[2]}"
    spec = importlib.util.spec_from_file_location(own, where)
    assert spec is not None and spec.loader is not None
    module = sys.modules[own] = importlib.util.module_from_spec(spec)  # a dataclass looks it up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the reader's file does
        rule = _raised("cannot be opened", error)
        raise PlanError("block", in_words(block), rule, NONE) from error
    found = getattr(module, name, None)
    if not callable(found):
        raise PlanError("block", in_words(block), f"names no class: there is no {name}", NONE)
    made_of: Callable[..., Any] = found
    return made_of


def refuse(plan: Plan, rule: str) -> NoReturn:
    """PlanError: why the plan's block cannot be used."""
    raise PlanError("block", in_words(plan.model.block or ""), rule, NONE)


@contextmanager
def told(plan: Plan) -> Iterator[None]:
    """What the reader's code raises inside, as a PlanError's sentence."""
    try:
        yield
    except (Exception, SystemExit) as error:
        refuse(plan, _raised("fails in its trial", error))


def _raised(what: str, error: BaseException) -> str:
    words = " ".join(str(error).split())[:160]
    return f"{what}: {type(error).__name__}: {words}"
