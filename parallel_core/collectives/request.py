"""One collective as a reader asks for it, ready for a Pool or for the simulator."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from parallel_core.collectives import ALGORITHMS, build
from parallel_core.collectives.group import Group
from parallel_core.fields import PlanError, choice, nearest_where, validate, whole
from parallel_core.machine import most_ranks
from parallel_core.program import Program

WIDTHS = {
    "float32": 4,
    "float64": 8,
    "bfloat16": 2,
    "float16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
}
"""Element types and their bytes."""

TARGET = "parallel_core.collectives.live:run"


@dataclass(frozen=True, kw_only=True)
class CollectiveRequest:
    """A collective over one buffer of `bytes` bytes a rank.

    What a whole buffer is depends on the op as in nccl-tests: the input of a broadcast, reduce,
    all-reduce, reduce-scatter, scatter and all-to-all, the output of a gather and all-gather.

    >>> CollectiveRequest(op="all_reduce", algorithm="ring", bytes=4096).elements
    1024
    """

    op: str = choice("all_reduce", ALGORITHMS, "which collective")
    algorithm: str = choice(
        "ring", dict.fromkeys(a for table in ALGORITHMS.values() for a in table), "how it moves"
    )
    ranks: int = whole(4, 2, 65536, "how many ranks take part")
    root: int = whole(0, 0, 65535, "the rank that broadcasts, scatters, gathers or reduces")
    node: int = whole(2, 1, 1024, "ranks a node (hierarchical)")
    segments: int = whole(1, 1, 1024, "pieces a pipelined algorithm cuts its messages into")
    bytes: int = whole(1 << 20, 0, 1 << 40, "size of the buffer, bytes")
    dtype: str = choice("float32", WIDTHS, "element type")
    repeats: int = whole(5, 1, 10000, "how often it runs; the first run warms up")

    def __post_init__(self) -> None:
        validate(self)
        if self.algorithm not in ALGORITHMS[self.op]:
            there = ", ".join(ALGORITHMS[self.op])
            rule = f"is no algorithm of {self.op}, which has {there}"
            raise PlanError("algorithm", self.algorithm, rule, next(iter(ALGORITHMS[self.op])))
        if self.root >= self.ranks:
            rule = f"must be below ranks={self.ranks}"
            raise PlanError("root", self.root, rule, self.ranks - 1)
        if self.bytes % WIDTHS[self.dtype]:
            width = WIDTHS[self.dtype]
            rule = f"must be a multiple of the {width} bytes of one {self.dtype}"
            raise PlanError("bytes", self.bytes, rule, self.bytes // width * width)

    def checked(self) -> CollectiveRequest:
        """The same request, if this machine bears it live; raises PlanError if not."""
        if self.ranks > most_ranks():
            rule = f"is more ranks than this machine bears live ({most_ranks()})"
            raise PlanError("ranks", self.ranks, rule, nearest_where(self.ranks, [most_ranks()]))
        return self

    @property
    def elements(self) -> int:
        """Elements of the buffer."""
        return self.bytes // WIDTHS[self.dtype]

    @property
    def group(self) -> Group:
        """The ranks, and the parts they play."""
        return Group(self.ranks, root=self.root, node=self.node, segments=self.segments)

    @property
    def program(self) -> Program:
        """The messages, as data; CollectiveError where the algorithm does not allow the ranks."""
        return build(self.op, self.algorithm, self.group)

    @property
    def order(self) -> tuple[str, int, dict[str, Any]]:
        """Target, world size and arguments, as Pool.start and Jobs.submit take them."""
        what = {"op": self.op, "algorithm": self.algorithm, "group": asdict(self.group)}
        rest = {"elements": self.elements, "dtype": self.dtype, "repeats": self.repeats}
        return TARGET, self.ranks, {"what": what, **rest}

    def flat(self) -> dict[str, Any]:
        """Every field by name, JSON-ready."""
        return asdict(self)
