"""What the papers say a schedule costs: bubble time, activations, copies of the weights, messages.

Nouns. Times are of one microbatch through all stages of a rank: f forward, i the input half of the
backward, w the weight half, b = i + w the whole. A pair (F&B) is a forward and a backward that hide
each other's messages. Bubble time is a rank's idle time in a step; activations are microbatches
between their F and their W (or B) on the fullest rank; messages are in units of 1F1B's. All hold
for m large enough to fill the pipeline.

Mind the letter B. DeepSeek writes it for the whole backward, the zero-bubble papers for i alone:
`(p-1)(F+B-2W)` of the one and `(p-1)(F+B-W)` of the other are the same ZB-H1.

GPipe and 1F1B: Narayanan et al. 2021, arXiv:2104.04473, section 2.2. ZB-H1, ZB-H2, ZB-V: Qi et al.
2023, arXiv:2401.10241. V-Half, V-Min: Qi et al. 2024, arXiv:2405.15362. DualPipe, DualPipeV:
DeepSeek-AI 2024, arXiv:2412.19437, table 2, and github.com/deepseek-ai/DualPipe.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isclose


@dataclass(frozen=True, kw_only=True)
class Beat:
    """What one microbatch takes on a rank; a pair that hides nothing takes f + b.

    >>> Beat(f=1, i=1, w=1).pair
    3
    """

    f: float = 1.0
    i: float = 1.0
    w: float = 1.0
    overlapped: float | None = None

    @property
    def b(self) -> float:
        """The whole backward."""
        return self.i + self.w

    @property
    def pair(self) -> float:
        """F&B: a forward and a whole backward at once."""
        return self.f + self.b if self.overlapped is None else self.overlapped

    @property
    def even(self) -> bool:
        """Whether F, I and W take the same time, as the V's authors assume."""
        return isclose(self.f, self.i) and isclose(self.f, self.w)


def bubble_time_gpipe(p: int, t: Beat) -> float:
    """(p-1)(F+B): the last microbatch's way to the last rank, and the first's way back."""
    return (p - 1) * (t.f + t.b)


def bubble_time_1f1b(p: int, t: Beat) -> float:
    """GPipe's: another order of the same work.

    >>> bubble_time_1f1b(8, Beat(f=1, i=1, w=1))
    21
    """
    return bubble_time_gpipe(p, t)


def bubble_time_interleaved(p: int, t: Beat, v: int) -> float:
    """1F1B's over v: the pipeline fills in chunks, 1/v of a rank's stages each."""
    return bubble_time_1f1b(p, t) / v


def bubble_time_zb_h1(p: int, t: Beat) -> float:
    """(p-1)(F+I-W), ZB1P in the DualPipe report: W fills what I leaves.

    >>> bubble_time_zb_h1(8, Beat(f=1, i=1, w=1))
    7
    """
    return (p - 1) * (t.f + t.i - t.w)


def bubble_time_zb_h2(p: int, t: Beat) -> float:
    """(p-1)(F+I-2W), inside the ranks: fill and drain cancel if no barrier ends the step."""
    return (p - 1) * (t.f + t.i - 2 * t.w)


def bubble_time_zb_v(p: int, t: Beat) -> float | None:
    """0 inside the ranks if F = I = W; None otherwise, as nothing closed is published."""
    return 0.0 if t.even else None


def bubble_time_v_half(p: int, t: Beat) -> float | None:
    """About half of 1F1B's if F = I = W; None otherwise."""
    return bubble_time_1f1b(p, t) / 2 if t.even else None


def bubble_time_v_min(p: int, t: Beat) -> float | None:
    """About two thirds of 1F1B's if F = I = W; None otherwise (then it grows with m)."""
    return bubble_time_1f1b(p, t) * 2 / 3 if t.even else None


def bubble_time_dualpipe(p: int, t: Beat) -> float:
    """(p/2-1)(F&B + B - 3W), B whole.

    >>> bubble_time_dualpipe(8, Beat(f=1, i=1, w=1))
    6.0
    """
    return (p / 2 - 1) * (t.pair + t.b - 3 * t.w)


def bubble_time_dualpipe_v(p: int, t: Beat) -> float:
    """DualPipe's on 2p ranks; its stages are half as long as a rank's two together."""
    return bubble_time_dualpipe(2 * p, t) / 2


@dataclass(frozen=True, kw_only=True)
class Formulas:
    """A schedule's line. `peak(p, m, v)` is in microbatches; `messages(v)` times 1F1B's."""

    bubble: Callable[[int, Beat, int], float | None]
    peak: Callable[[int, int, int], float]
    copies: int = 1
    messages: Callable[[int], float] = lambda v: 1


def _fixed(bubble: Callable[[int, Beat], float | None]) -> Callable[[int, Beat, int], float | None]:
    """A bubble that knows no v."""
    return lambda p, t, v: bubble(p, t)


FORMULAS: dict[str, Formulas] = {
    "gpipe": Formulas(bubble=_fixed(bubble_time_gpipe), peak=lambda p, m, v: m),
    "1f1b": Formulas(bubble=_fixed(bubble_time_1f1b), peak=lambda p, m, v: p),
    "interleaved": Formulas(
        bubble=bubble_time_interleaved,
        peak=lambda p, m, v: p * (1 + (p - 1) / (p * v)),
        messages=lambda v: v,
    ),
    "zb-h1": Formulas(bubble=_fixed(bubble_time_zb_h1), peak=lambda p, m, v: p),
    "zb-h2": Formulas(bubble=_fixed(bubble_time_zb_h2), peak=lambda p, m, v: 2 * p - 1),
    "zb-v": Formulas(bubble=_fixed(bubble_time_zb_v), peak=lambda p, m, v: p, messages=lambda v: 2),
    "v-half": Formulas(
        bubble=_fixed(bubble_time_v_half),
        peak=lambda p, m, v: (p + 2) // 2,
        messages=lambda v: 2,
    ),
    "v-min": Formulas(
        bubble=_fixed(bubble_time_v_min),
        peak=lambda p, m, v: (p + 4) // 3,
        messages=lambda v: 2,
    ),
    "dualpipe": Formulas(bubble=_fixed(bubble_time_dualpipe), peak=lambda p, m, v: p + 1, copies=2),
    # one copy in two chunks: the published "2x" is of a single stage, on half as many devices
    "dualpipe-v": Formulas(
        bubble=_fixed(bubble_time_dualpipe_v),
        peak=lambda p, m, v: p + 0.5,
        messages=lambda v: 2,
    ),
}
"""By the schedules' names; the peaks of V-Half and V-Min are those of their authors' own table."""
