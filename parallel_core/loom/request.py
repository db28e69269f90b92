"""One product as a reader asks for it, ready for a Pool, the simulator or the page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import psutil

from parallel_core.check import check
from parallel_core.fields import PlanError, choice, nearest_where, switch, validate, whole
from parallel_core.loom.by_hand import ACTS
from parallel_core.loom.layout import Layout
from parallel_core.loom.weave import PATTERNS, Weave, weave
from parallel_core.machine import PROCESS_BYTES, most_ranks
from parallel_core.quantities import bytes_text

TARGET = "parallel_core.loom_live:run"
NUMBERS = {"integers": 8, "normal": 4}
"""What the matrices are filled with, and bytes of an element: float64 holds integers exactly."""

MOST_INTEGERS = 1 << 16
"""Elements of a matrix up to which integers are drawn, one by one."""

MOST_SHOWN = 256
"""Elements of a matrix up to which a run hands back its numbers."""


@dataclass(frozen=True)
class LoomRequest:
    """X[n,k] @ W[k,m], or act(X[n,k] @ A[k,m]) @ B[m,d], cut over `ranks`.

    >>> LoomRequest(layout="column-row", k=8).sizes
    {'n': 4, 'k': 8, 'm': 8, 'd': 8}
    """

    layout: str = choice("column-row", PATTERNS, "how the weights are cut")
    ranks: int = whole(4, 2, 1024, "tensor-parallel ranks")
    n: int = whole(4, 1, 65536, "rows of X: tokens")
    k: int = whole(4, 1, 65536, "columns of X: the width that goes in")
    m: int = whole(8, 1, 65536, "columns of W, or of A: the width inside")
    d: int | None = whole(None, 1, 65536, "columns of B: the width that comes out; none: k")
    act: str = choice("relu", ACTS, "the nonlinearity between two products")
    sp: bool = switch(False, "sequence parallel: outside the region X and Z are cut by rows")
    backward: bool = switch(False, "the gradients' way back as well")
    numbers: str = choice("integers", NUMBERS, "what the matrices are filled with")
    repeats: int = whole(3, 1, 1000, "how often it runs; the first run warms up")
    seed: int = whole(0, 0, 2**31 - 1, "what the numbers are drawn from")

    def __post_init__(self) -> None:
        validate(self)
        for layout in self.weave.layouts.values():
            if layout.cut is not None:
                self._divides(layout)
        if self.numbers == "integers":
            for name, rows, columns in self._matrices():
                if rows * columns > MOST_INTEGERS:
                    rule = f"draws them one by one, and {name} has {rows * columns:,} elements"
                    raise PlanError("numbers", self.numbers, rule, "normal")

    def _divides(self, layout: Layout) -> None:
        dim = layout.dims[layout.cut or 0]
        size, ranks = self.sizes[dim], self.ranks
        if size % ranks:
            near = max(size // ranks, 1) * ranks
            name = "k" if dim == "d" and self.d is None else dim
            rule = f"must be a multiple of ranks={ranks}, since {layout} cuts it"
            raise PlanError(name, size, rule, near)

    def _matrices(self) -> Iterator[tuple[str, int, int]]:
        for layout in {one.name: one for one in self.weave.layouts.values()}.values():
            yield layout.name, self.sizes[layout.dims[0]], self.sizes[layout.dims[1]]

    @property
    def sizes(self) -> dict[str, int]:
        """What every letter of a layout stands for."""
        return {"n": self.n, "k": self.k, "m": self.m, "d": self.d or self.k}

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return NUMBERS[self.numbers]

    @cached_property
    def weave(self) -> Weave:
        """The checked program."""
        made = weave(self.layout, self.ranks, sequence=self.sp, backward=self.backward)
        check(made.program)
        return made

    @property
    def shown(self) -> bool:
        """Whether the matrices are small enough to be shown number by number."""
        return all(rows * columns <= MOST_SHOWN for _, rows, columns in self._matrices())

    @property
    def needed_bytes(self) -> int:
        """What a live run takes at most: every rank's values, and on one rank all of them whole."""
        sizes, width = self.sizes, self.itemsize
        held = 0
        for layout in self.weave.layouts.values():
            rows, columns = layout.shape(sizes, self.ranks)
            held += rows * columns * width * self.ranks
        drawn = max(rows * columns for _, rows, columns in self._matrices()) * width * self.ranks
        single = 3 * sum(rows * columns for _, rows, columns in self._matrices()) * width
        return held + drawn + single + PROCESS_BYTES * self.ranks

    def checked(self) -> LoomRequest:
        """The same request, if this machine bears it live; raises PlanError if not."""
        if self.ranks > most_ranks():
            rule = f"is more ranks than this machine bears live ({most_ranks()})"
            raise PlanError("ranks", self.ranks, rule, nearest_where(self.ranks, [most_ranks()]))
        free = psutil.virtual_memory().available
        if self.needed_bytes > free:
            needs = f"needs about {bytes_text(self.needed_bytes)} where {bytes_text(free)} are free"
            raise PlanError("n", self.n, needs, max(self.n // 2 // self.ranks, 1) * self.ranks)
        return self

    @property
    def order(self) -> tuple[str, int, dict[str, Any]]:
        """Target, world size and arguments, as Pool.start and Jobs.submit take them."""
        return TARGET, self.ranks, {"request": self.flat()}

    def flat(self) -> dict[str, Any]:
        """Every field by name, JSON-ready."""
        return asdict(self)

    def command(self) -> str:
        """The command line that runs the same."""
        usual, said = LoomRequest(), [f"shardlab loom --layout {self.layout} --ranks {self.ranks}"]
        for name in ("n", "k", "m", "d", "act", "numbers", "repeats", "seed"):
            value = getattr(self, name)
            said += [f"--{name} {value}"] if value != getattr(usual, name) else []
        said += [f"--{name}" for name in ("sp", "backward") if getattr(self, name)]
        return " ".join(said)
