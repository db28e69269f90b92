"""What one layer keeps for its backward, as one formula in sbh.

    s tokens a sequence, b sequences, h width, a heads, g key/value heads, F MLP width, t ranks of a
    tensor-parallel group; everything else is bytes. At 16 bits:

    classic gpt     sbh(34 + 5as/h)                         dropout, scores written out
      tp            sbh(10 + 24/t + 5as/(ht))
      tp, sp        sbh(34/t + 5as/(ht))
      selective     the same without 5as/h                  sbh(10 + 24/t), sbh(34/t)
      full          sbh(2), under sp sbh(2/t)               the layer's input alone
    gpt here        the same and 8/h                        a LayerNorm's mean and 1/std
      fused         sbh(32 + 8/h + 4a/h)                    no dropout, one log-sum-exp a head
    llama here      sbh(22 + 8/h + 4g/a + 8F/h + 4a/h + 8/(ab))

With e bytes an element 34 is 16e + 2 and 5 is 2e + 1: sbh(66 + 9as/h) in float32. Korthikanti et
al. 2022, arXiv:2205.05198, section 4 and table 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from math import prod

from parallel_core.plan import Dialect, DType, Plan, Recompute

Term = tuple[str, str]
"""Letters above the line, letters below it: as/h is ("as", "h")."""

Terms = dict[Term, int]
"""How often each term occurs."""

ONE: Term = ("", "")


@dataclass(frozen=True)
class Formula:
    """sbh times a sum of terms."""

    terms: Terms

    @property
    def text(self) -> str:
        """As in the paper: "sbh(34 + 5as/h)"."""
        return f"sbh({' + '.join(_written(term, n) for term, n in self.terms.items())})"

    def bytes(self, **sizes: int) -> int:
        """Its value where every letter has a size. An `assert` fails if it is no whole number.

        >>> Formula({ONE: 34, ("as", "h"): 5}).bytes(s=2048, b=1, h=12288, a=96)
        2868903936
        """
        value = Fraction(0)
        for (above, below), n in self.terms.items():
            value += Fraction(n * _product(above, sizes), _product(below, sizes))
        value *= _product("sbh", sizes)
        assert value.denominator == 1, f"{self.text} is {value} bytes at {sizes}"
        return int(value)


def _product(letters: str, sizes: dict[str, int]) -> int:
    return prod(sizes[letter] for letter in letters)


def _written(term: Term, n: int) -> str:
    above, below = term
    under = f"({below})" if len(below) > 1 else below
    return f"{n}{above}/{under}" if below else f"{n}{above}"


@dataclass(frozen=True, kw_only=True)
class Block:
    """The terms of a layer by what tensor parallelism does to them.

    `outside` is kept whole, or cut along the sequence under sequence parallelism; `inside` is cut
    over the ranks; `core` is of that what selective recomputation drops; `fixed` is never cut.
    `inlet` is the layer's input, which full recomputation keeps.
    """

    outside: Terms
    inside: Terms
    core: Terms
    inlet: int
    fixed: Terms = field(default_factory=dict)

    def formula(self, *, tp: bool = False, sp: bool = False, recompute: str = "none") -> Formula:
        """What is kept of it under a layout."""
        if recompute == Recompute.FULL:
            return Formula(dict(_cut({ONE: self.inlet}, sp)))
        terms: Terms = {}
        core = self.core if recompute == Recompute.NONE else {}
        for part, cut in ((self.outside, sp), (self.inside, tp), (core, tp), (self.fixed, False)):
            for term, n in _cut(part, cut):
                terms[term] = terms.get(term, 0) + n
        return Formula(terms)


def _cut(terms: Terms, cut: bool) -> Iterator[tuple[Term, int]]:
    for (above, below), n in terms.items():
        yield (above, below + "t" if cut else below), n


def classic(element: int = 2) -> Block:
    """The paper's block: as many key/value heads as heads, an MLP of 4h, GELU, dropout."""
    e = element
    return Block(
        outside={ONE: 4 * e + 2}, inside={ONE: 12 * e}, core={("as", "h"): 2 * e + 1}, inlet=e
    )


def block_of(plan: Plan) -> Block:
    """The block that the plan's dialect, attention and dropout make, as it is here."""
    m, e = plan.model, DType(plan.dtype).bytes
    w, masks = max(e, 4), int(m.dropout > 0)
    core = {("a", "h"): w} if m.fused else {("as", "h"): e + masks * (e + 1)}
    if m.dialect == Dialect.GPT:
        four = m.mlp == 4 * m.hidden
        mlp: Terms = {ONE: 12 * e} if four else {ONE: 4 * e, ("F", "h"): 2 * e}
        outside = {ONE: 4 * e + 2 * masks, ("", "h"): 4 * e}
        return Block(outside=outside, inside=mlp, core=core, inlet=e)
    held = e if plan.mixed else 0  # the 16-bit input beside the norm's float32 copy
    return Block(
        outside={ONE: 2 * w + 4 * e + held, ("", "h"): 2 * w},
        inside={ONE: 2 * e, ("g", "a"): 2 * e, ("F", "h"): 4 * e},
        core=core,
        inlet=e,
        fixed={("", "ab"): 4 * e},  # cos and sin of the rotary positions
    )


def laid_out(plan: Plan, block: Block, unit: str = "layer0") -> Formula:
    """A block's formula under the plan's tp, sp and what it recomputes in `unit`."""
    return block.formula(tp=plan.tp > 1, sp=plan.sp, recompute=plan.recompute_in(unit))


def sizes_of(plan: Plan) -> dict[str, int]:
    """What the letters stand for; g counts a head as often as ranks hold it."""
    m = plan.model
    sizes = {"s": plan.seq, "b": plan.rows_per_microbatch, "h": m.hidden, "a": m.heads}
    return sizes | {"g": max(m.kv, plan.tp), "F": m.mlp, "t": plan.tp}
