"""Bring your own block: a reader's transformer block in the place of the lab's.

    my_block.py                                     shardlab run --block my_block.py:Block --dp 4

    class Block(nn.Module):
        def __init__(self, hidden, heads): ...      named as fields of the model, or `seq`
        def forward(self, x): ...                   x[B, S, hidden] -> [B, S, hidden]

Embedding and head stay the lab's; every layer is a block. Its parameters are found by walking and
drawn anew by the lab, each with the deviation (or the constant) that the block gave it: then any
layout starts from the same model; `shardlab parity --block` holds it to that in every layout. What
the block keeps for its backward and its FLOPs are measured in a trial forward, where the lab's own
block has formulas. It works under data parallelism, every ZeRO stage, pipelines whose backward is
whole, and full recomputation.

A block is code, so it is opened only in a process that computes (own_block_layer.py is loaded
there): a page that is handed a plan with a block says so, and runs nothing. The plan holds the
file's digest, so that all ranks, and whoever repeats a run, have the same code.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parallel_core.fields import PlanError, shown

if TYPE_CHECKING:
    from parallel_core.plan import Plan

LAYER, TRIAL = "parallel_core.own_block_layer", "parallel_core.own_block_trial"
"""What opens a block, where it is loaded; and what tries one out."""

NONE = "none"
DIGITS = 12


@dataclass(frozen=True)
class Weight:
    """One parameter of a block: its name there, its shape, and how it begins: normal with
    deviation `std`, or `fill` everywhere."""

    name: str
    shape: tuple[int, ...]
    std: float | None
    fill: float


@dataclass(frozen=True)
class Described:
    """What a trial forward of one microbatch found: `saved` are the bytes kept with its input,
    `behind` those that it keeps more where it stands behind another block; `flops` of a forward."""

    weights: tuple[Weight, ...]
    saved: int
    behind: int
    flops: float


def resolved(text: str) -> str:
    """The block as a plan holds it: "/path/file.py:Class@digest". PlanError says what is wrong."""
    where, _, name = text.rpartition(":")
    name, _, digest = name.partition("@")
    file = Path(where).expanduser()
    if not where.endswith(".py") or not name.isidentifier():
        _refuse(text, 'must be a file and a class in it, as in "my_block.py:Block"')
    if LAYER not in sys.modules:
        _refuse(text, "is code, which only a run opens: `shardlab run`, `parity`, `compare` or"
                " parallel_core.live")  # fmt: skip
    if not file.is_file():
        _refuse(text, "names no file that is here")
    found = hashlib.sha256(file.read_bytes()).hexdigest()[:DIGITS]
    if digest not in ("", found):
        _refuse(text, f"is not the file that was asked for: its digest is {found} by now")
    return f"{file.resolve()}:{name}@{found}"


def _refuse(text: str, rule: str) -> None:
    raise PlanError("block", shown(text), rule, NONE)


def admit(fields: Mapping[str, Any]) -> None:
    """Load what opens blocks, if these fields of a plan name one: for whoever starts a run."""
    if fields.get("block") is not None:
        importlib.import_module(LAYER)


def in_words(block: str) -> str:
    """A block in a title: its file and class.

    >>> in_words("/home/me/my_block.py:Block@0123456789ab")
    'my_block.py:Block'
    """
    return Path(block.partition("@")[0]).name


def described(plan: Plan) -> Described:
    """The plan's block, tried out once. PlanError for one that cannot be split over ranks."""
    trial: Any = importlib.import_module(TRIAL)
    found: Described = trial.describe(plan)
    return found


def attention_flops(plan: Plan) -> float:
    """What a forward of the block computes beside the products with its matrices."""
    found, tokens = described(plan), plan.tokens_here
    products = sum(w.shape[0] * w.shape[1] for w in found.weights if len(w.shape) == 2)
    return found.flops - 2.0 * tokens * products
