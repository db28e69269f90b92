"""The topologies there are, and how a reader names one.

    ring:8    mesh:8    torus:4x4x4    fat-tree:64,oversubscription=2    two-level:4x8,nics=1

Sizes are ranks; of a two-level cluster, nodes times ranks in a node.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from parallel_core.fields import PlanError, nearest_where, shown
from parallel_core.hardware.fat_tree import FatTree
from parallel_core.hardware.links import WIRES, Wire
from parallel_core.hardware.topology import Mesh, Topology
from parallel_core.hardware.torus import Ring, Torus
from parallel_core.hardware.two_level import TwoLevel

MOST = 16384
"""Ranks of the largest topology that is built."""

MOST_DIMENSIONS = 5


@dataclass(frozen=True)
class _Asked:
    """What was typed, taken apart: sizes and options; `text` is all of it."""

    text: str
    kind: str
    sizes: tuple[int, ...]
    wire: Wire
    across: Wire
    options: dict[str, int] = field(default_factory=dict)

    def refuse(self, rule: str, nearest: str) -> PlanError:
        """The sentence for a topology that cannot be."""
        return PlanError("topology", shown(self.text), rule, nearest)


def topology(text: str, *, wire: Wire | None = None, across: Wire | None = None) -> Topology:
    """The topology that `text` names, of cables `wire`; `across` joins nodes (two-level).

    Without a wire: TPU v5p ICI for rings and tori, NVLink 4 for a mesh and inside nodes, InfiniBand
    NDR elsewhere. Raises PlanError with the nearest text that works.
    """
    kind, rest = _kind(text)
    build, default, sizes = KINDS[kind]
    far = across or WIRES["infiniband-ndr"]
    asked = _Asked(text, kind, (), wire or WIRES[default], far)
    parts = [part.strip() for part in rest.split(",")]
    found = _sizes(asked, parts[0], sizes)
    options = dict(_option(asked, part, found) for part in parts[1:])
    return build(_Asked(text, kind, found, asked.wire, far, options))


def _kind(text: str) -> tuple[str, str]:
    typed, colon, rest = text.strip().lower().partition(":")
    if typed in KINDS and colon:
        return typed, rest
    kind = difflib.get_close_matches(typed, KINDS, n=1, cutoff=0.0)[0]
    rule = f"must be one of {', '.join(KINDS)}, a colon and the size"
    raise PlanError("topology", shown(text), rule, _EXAMPLES[kind])


def _sizes(asked: _Asked, text: str, count: tuple[int, int]) -> tuple[int, ...]:
    """The numbers between the x's."""
    low, high = count
    example = _EXAMPLES[asked.kind]
    if not re.fullmatch(r"[0-9]{1,9}(x[0-9]{1,9})*", text, re.ASCII):
        raise asked.refuse(f"needs its size in whole numbers, as in {example}", example)
    sizes = tuple(map(int, text.split("x")))
    if not low <= len(sizes) <= high:
        many = f"{low}" if low == high else f"{low} to {high}"
        raise asked.refuse(f"takes {many} size{'s' if high > 1 else ''}, not {len(sizes)}", example)
    total = math.prod(sizes)
    most = 1024 if asked.kind == "mesh" else MOST
    if min(sizes) < 1 or not 2 <= total <= most:
        near = _clamped(sizes, most)
        rule = f"must have 2 to {most:,} ranks"
        raise asked.refuse(rule, f"{asked.kind}:{'x'.join(map(str, near))}")
    return sizes


def _clamped(sizes: tuple[int, ...], most: int) -> list[int]:
    """`sizes` with the last cut down, or the first raised, until there are 2 to `most` ranks."""
    near: list[int] = []
    for size in sizes:
        near.append(max(1, min(size, most // math.prod(near))))
    if math.prod(near) < 2:
        near[0] = 2
    return near


def _option(asked: _Asked, part: str, sizes: tuple[int, ...]) -> tuple[str, int]:
    """One `name=number` after the comma."""
    name, _, value = part.partition("=")
    known = _OPTIONS.get(asked.kind, ())
    plain = f"{asked.kind}:{'x'.join(map(str, sizes))}"
    if name not in known:
        words = f"knows {' and '.join(known)}" if known else "takes no options"
        raise asked.refuse(f"{words}, not {shown(name)}", plain)
    if not re.fullmatch(r"[0-9]{1,9}", value, re.ASCII) or int(value) < 1:
        raise asked.refuse(f"needs a whole number from 1 for {name}", f"{plain},{name}=1")
    return name, int(value)


def _fat_tree(asked: _Asked) -> Topology:
    ranks, options = asked.sizes[0], asked.options
    divisors = [k for k in range(1, ranks + 1) if ranks % k == 0]
    # as many leaves as hosts on a leaf, so that all switches are about alike
    leaf = options.get("leaf", next(k for k in divisors if k * k >= ranks))
    if leaf not in divisors:
        near = f"fat-tree:{ranks},leaf={nearest_where(leaf, divisors)}"
        raise asked.refuse(f"needs a leaf that divides {ranks}", near)
    over = options.get("oversubscription", 1)
    steps = [k for k in range(1, leaf + 1) if leaf % k == 0]
    if over not in steps:
        best = nearest_where(over, steps)
        near = f"fat-tree:{ranks},leaf={leaf},oversubscription={best}"
        raise asked.refuse(f"needs an oversubscription that divides the leaf's {leaf} hosts", near)
    return FatTree(ranks, asked.wire, leaf=leaf, oversubscription=over)


def _two_level(asked: _Asked) -> Topology:
    nodes, per_node = asked.sizes
    nics = asked.options.get("nics", per_node)
    fits = [k for k in range(1, per_node + 1) if per_node % k == 0]
    if nics not in fits:
        near = f"two-level:{nodes}x{per_node},nics={nearest_where(nics, fits)}"
        raise asked.refuse(f"needs a number of nics that divides {per_node}", near)
    return TwoLevel(nodes, per_node, asked.wire, across=asked.across, nics=nics)


_Kind = tuple[Callable[[_Asked], Topology], str, tuple[int, int]]

KINDS: dict[str, _Kind] = {
    "ring": (lambda a: Ring(a.sizes[0], a.wire), "ici-v5p", (1, 1)),
    "mesh": (lambda a: Mesh(a.sizes[0], a.wire), "nvlink4", (1, 1)),
    "torus": (lambda a: Torus(a.sizes, a.wire), "ici-v5p", (1, MOST_DIMENSIONS)),
    "fat-tree": (_fat_tree, "infiniband-ndr", (1, 1)),
    "two-level": (_two_level, "nvswitch4", (2, 2)),
}
"""Kind -> how it is built, the wire it has unless told otherwise, fewest and most sizes."""

_OPTIONS = {"fat-tree": ("leaf", "oversubscription"), "two-level": ("nics",)}

_EXAMPLES = {
    "ring": "ring:8",
    "mesh": "mesh:8",
    "torus": "torus:4x4",
    "fat-tree": "fat-tree:64,oversubscription=2",
    "two-level": "two-level:4x8",
}
