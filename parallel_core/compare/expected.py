"""The textbook's arrows, each held against what was measured: seen, or not seen here and why.

An arrow is a claim of one layout against another in the same table: more, less, or the same. It is
judged on the rounds, pair by pair: seen where the interval of the ratio lies wholly on its side.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from parallel_core.bench.measurement import Measurement
from parallel_core.compare.figures import FIGURES, OWN, WALL, Samples
from parallel_core.compare.layouts import ALONE, Contender
from parallel_core.plan import DType, Plan
from parallel_core.quantities import bytes_text

UP, DOWN, SAME = "↑", "↓", "="

AXES = ("dp", "tp", "cp", "pp", "ep")

ALIKE = {DType.FLOAT64: 1e-9, DType.FLOAT32: 1e-4, DType.BFLOAT16: 2e-2}
"""How far, relatively, losses may lie apart that rounding alone divides."""

SAME_BYTES = 0.02
"""The same share for bytes: padding."""


def axes(plan: Plan) -> tuple[str, ...]:
    """The axes over which a plan divides anything."""
    return tuple(axis for axis in AXES if plan.flat()[axis] > 1)


def alone(plan: Plan) -> bool:
    """Whether it is one process."""
    return plan.world_size == 1


def only(*wanted: str) -> Callable[[Plan], bool]:
    """Whether a plan divides over exactly these axes."""
    return lambda plan: axes(plan) == wanted


def plain_dp(plan: Plan) -> bool:
    """Whether it is data parallelism and nothing else."""
    return axes(plan) == ("dp",) and not plan.zero


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What is said of a layout that `of` picks, against one that `against` picks: `needs` is how
    to have that one in the table."""

    says: str
    figure: str
    arrow: str
    of: Callable[[Plan], bool]
    against: Callable[[Plan], bool]
    needs: str = ALONE
    same_ranks: bool = False


def _sharded(*stages: int) -> Callable[[Plan], bool]:
    return lambda plan: axes(plan) == ("dp",) and plan.zero in stages


def _scheduled(*names: str) -> Callable[[Plan], bool]:
    return lambda plan: axes(plan) == ("pp",) and plan.schedule in names


def _dp(says: str, figure: str, arrow: str, of: Callable[[Plan], bool]) -> Claim:
    """A claim against data parallelism alone on as many ranks."""
    return Claim(says=says, figure=figure, arrow=arrow, of=of, against=plain_dp,
                 needs="dp={ranks}", same_ranks=True)  # fmt: skip


def _one(says: str, figure: str, arrow: str, of: Callable[[Plan], bool]) -> Claim:
    """A claim against one process."""
    return Claim(says=says, figure=figure, arrow=arrow, of=of, against=alone)


_TP, _PP, _CP = only("tp"), only("pp"), only("cp")
_ZB = _scheduled("zb-h1", "zb-h2", "zb-v", "zb-auto", "dualpipe-v", "v-half", "v-min")
_OWN_SPEED, _SPEED, _STATE, _SENT = "own_tokens_per_s", "tokens_per_s", "state_bytes", "sent_bytes"

CLAIMS = (
    _one("data parallelism multiplies throughput", _OWN_SPEED, UP, plain_dp),
    _one("data parallelism multiplies throughput by the wall clock too", _SPEED, UP, plain_dp),
    _one("every data-parallel rank holds the whole state", _STATE, SAME, plain_dp),
    _dp("ZeRO divides the state", _STATE, DOWN, _sharded(1, 2, 3)),
    _dp("ZeRO's stages 1 and 2 send no more", _SENT, SAME, _sharded(1, 2)),
    _dp("ZeRO's stage 3 sends more", _SENT, UP, _sharded(3)),
    _one("tensor parallelism shortens the step", "own_step_ms", DOWN, _TP),
    _one("tensor parallelism divides the state", _STATE, DOWN, _TP),
    _dp("tensor parallelism communicates for more of the step", "comm_share", UP, _TP),
    Claim(says="with data parallelism beside it, tensor parallelism communicates for less of it",
          figure="comm_share", arrow=DOWN, of=only("dp", "tp"), against=_TP, needs="tp={ranks}",
          same_ranks=True),
    _one("a pipeline divides the state", _STATE, DOWN, _PP),
    _dp("a pipeline sends less than data parallelism", _SENT, DOWN, _PP),
    _one("a pipeline pays with a bubble", "utilisation", DOWN, _PP),
    Claim(says="cutting the backward in two fills the bubble", figure="utilisation", arrow=UP,
          of=_ZB, against=_scheduled("1f1b"), needs="pp={ranks}", same_ranks=True),
    Claim(says="1F1B lets activations go sooner than GPipe", figure="peak_bytes", arrow=DOWN,
          of=_scheduled("1f1b"), against=_scheduled("gpipe"), needs="pp={ranks},schedule=gpipe",
          same_ranks=True),
    _one("context parallelism divides activations", "peak_bytes", DOWN, _CP),
    _one("context parallelism leaves the state whole", _STATE, SAME, _CP),
    _dp("expert parallelism divides the state of the experts", _STATE, DOWN, only("dp", "ep")),
    _one("the loss does not know how a step was split", "loss", SAME,
         lambda plan: not alone(plan) and not plan.asynchronous),
)  # fmt: skip
"""What textbooks and surveys of these methods expect, as arrows."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A claim and what became of it. `ratio` is the layout's figure over the other's; None where
    the other's is zero or is not there. `because` says why an arrow was not seen."""

    claim: Claim
    layout: str
    against: str
    seen: bool
    ratio: Measurement | None = None
    because: str = ""

    @property
    def as_json(self) -> dict[str, Any]:
        """For a report."""
        return {
            "says": self.claim.says,
            "figure": self.claim.figure,
            "arrow": self.claim.arrow,
            "layout": self.layout,
            "against": self.against,
            "seen": self.seen,
            "ratio": None if self.ratio is None else asdict(self.ratio),
            "because": self.because,
        }


def findings(found: Sequence[Contender], figures: Mapping[str, Samples]) -> Iterator[Finding]:
    """Every claim about every layout it is made of."""
    for claim in CLAIMS:
        for ours in found:
            if claim.of(ours.plan):
                other = next((c for c in found if _fits(claim, ours, c)), None)
                yield _missing(claim, ours) if other is None else judge(claim, ours, other, figures)


def _fits(claim: Claim, ours: Contender, other: Contender) -> bool:
    sized = ours.plan.world_size == other.plan.world_size or not claim.same_ranks
    return other is not ours and sized and claim.against(other.plan)


def _missing(claim: Claim, ours: Contender) -> Finding:
    needs = claim.needs.format(ranks=ours.plan.world_size)
    because = f'there is nothing to hold it against; add "{needs}"'
    return Finding(claim=claim, layout=ours.name, against=needs, seen=False, because=because)


def judge(
    claim: Claim, ours: Contender, other: Contender, figures: Mapping[str, Samples]
) -> Finding:
    """One claim of one layout against another."""
    mine, theirs = (figures[each.name][claim.figure] for each in (ours, other))
    ratio = None
    if min(map(abs, theirs)) > 0:
        ratio = Measurement.of([a / b for a, b in zip(mine, theirs, strict=True)], "x")
    gap = Measurement.of([a - b for a, b in zip(mine, theirs, strict=True)], "")
    seen = _seen(claim, gap, ratio, ALIKE[DType(ours.plan.dtype)])
    because = "" if seen else _because(claim, gap, (ours, other), figures)
    return Finding(
        claim=claim, layout=ours.name, against=other.name, seen=seen, ratio=ratio, because=because
    )


def _seen(claim: Claim, gap: Measurement, ratio: Measurement | None, alike: float) -> bool:
    if claim.arrow == UP:
        return gap.low > 0
    if claim.arrow == DOWN:
        return gap.high < 0
    near = alike if claim.figure == "loss" else SAME_BYTES
    apart = gap if ratio is None else ratio
    middle = 0.0 if ratio is None else 1.0
    return max(abs(apart.low - middle), abs(apart.high - middle)) <= near


def _because(
    claim: Claim,
    gap: Measurement,
    pair: tuple[Contender, Contender],
    figures: Mapping[str, Samples],
) -> str:
    ours, other = pair
    parts = []
    if claim.arrow != SAME and gap.low <= 0 <= gap.high and gap.low < gap.high:
        parts.append("the rounds disagree")
    figure = FIGURES[claim.figure]
    mine, theirs = (_middle(figures, each, claim.figure) for each in pair)
    parts.append(f"it is {shown(claim.figure, mine)} where {other.name} has"
                 f" {shown(claim.figure, theirs)}")  # fmt: skip
    cores = os.cpu_count() or 1
    if figure.clock == WALL and ours.plan.world_size > cores:
        parts.append(f"{ours.plan.world_size} ranks share {cores} cores here")
    if figure.clock in (OWN, WALL):
        parts.append(_times(pair, figures))
    return "; ".join(parts)


def _times(pair: tuple[Contender, Contender], figures: Mapping[str, Samples]) -> str:
    """Where the time of a step went, in both."""
    said = [
        f"{words} {_middle(figures, pair[1], name):.3g} to {_middle(figures, pair[0], name):.3g} ms"
        for name, words in (
            ("compute_ms", "on own devices computing went from"),
            ("exposed_ms", "exposed messages from"),
        )
    ]
    return ", ".join(said)


def _middle(figures: Mapping[str, Samples], who: Contender, figure: str) -> float:
    return Measurement.of(figures[who.name][figure], "").median


def shown(figure: str, value: float) -> str:
    """A figure's value as a reader meets it."""
    unit = FIGURES[figure].unit
    if unit == "bytes":
        return bytes_text(value)
    digits = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{digits} {unit}".rstrip()
