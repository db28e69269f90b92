"""Who won a race, and by how much: one set of sentences for bars, player and page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from parallel_core.trace import Trace
from parallel_core.views.reading import Reading, Units
from parallel_core.views.stages import stages


def typical_step(trace: Trace) -> int:
    """The step of median duration, the first one (which warms up) left out if there are more."""
    steps = trace.steps[1:] or trace.steps
    return sorted(steps, key=lambda step: trace.only(step).makespan)[len(steps) // 2]


def spread(trace: Trace) -> float:
    """Milliseconds between the shortest step and the longest, the first left out if it can be."""
    steps = trace.steps[1:] or trace.steps
    lengths = [trace.only(step).makespan for step in steps]
    return (max(lengths) - min(lengths)) / 1e6


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Which of two runs won: names, milliseconds of the typical step, the most memory held.

    Memory is in bytes, or in microbatches in flight where `units` count those.
    """

    first: str
    second: str
    times: Mapping[str, float]
    peaks: Mapping[str, float]
    units: Units = field(default_factory=Units)

    @property
    def ratio(self) -> float:
        """How many times as fast the first is."""
        return self.times[self.second] / self.times[self.first]

    @property
    def lead(self) -> float:
        """Milliseconds between the two ends."""
        return self.times[self.second] - self.times[self.first]

    @property
    def words(self) -> str:
        """The result in one sentence."""
        if not self.lead:
            return f"{self.first} and {self.second} end together, with {self._memory}"
        early = self.units.time(self.lead * 1e6) if self.units.beats else f"{self.lead:.1f} ms"
        return (
            f"{self.first} ends its step {early} before {self.second}"
            f" ({self.ratio:.2f} times as fast), with {self._memory}"
        )

    @property
    def _memory(self) -> str:
        gap = self.peaks[self.first] - self.peaks[self.second]
        if not gap and self.units.microbatches:
            return "as many microbatches in flight"
        if not gap:
            return "the same peak of live tensors"
        return f"{self.units.held(abs(gap))} {'more' if gap > 0 else 'less'} at the memory peak"


NOISY = "Too noisy to call"
"""What is said of a race whose runs the machine decided."""


def result(runs: Mapping[str, Trace], reading: Reading, *, called: bool = True) -> str:
    """Who ends first and by how much, in one sentence; unless `called`, that nobody can tell."""
    if not called:
        return f"{NOISY}: the difference may be the machine's doing"
    return "; ".join(outcome.words for outcome in outcomes(runs, reading))


def outcomes(runs: Mapping[str, Trace], reading: Reading) -> list[Outcome]:
    """The first to end against each of the others, by their makespans."""
    units = Units.of(reading)
    times = {name: trace.makespan / 1e6 for name, trace in runs.items()}
    peaks = {name: _peak(trace, units) for name, trace in runs.items()}
    first, *others = sorted(times, key=lambda name: times[name])
    return [
        Outcome(first=first, second=name, times=times, peaks=peaks, units=units) for name in others
    ]


def _peak(trace: Trace, units: Units) -> float:
    most = max((span.memory for span in trace.spans), default=0)
    return most * stages(trace.spans).share if units.microbatches else most
