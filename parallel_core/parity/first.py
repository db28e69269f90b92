"""Where a run first departs from the truth: its step, its unit, its tensor, its ranks.

What happens in a step is put in the order in which it happens, and the first thing that is wrong is
named; all before it was right on every rank.

    forward     what embed, layer0, ... hand on, in turn; then the loss
    backward    from the head down: the gradient that reaches a unit, then those of its parameters
    norm        of all gradients together
    update      the weights after the step
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from parallel_core.params import param_specs, units
from parallel_core.plan import Plan

TOLERANCE = 1e-9
"""Relative; rounding in float64 leaves 1e-13 after three steps of these models."""

Row = Mapping[str, Any]
Results = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """The first thing that is wrong. `phase` is forward, backward, norm or update, `tensor` what is
    compared, `unit` the part of the model whose work it is; `error` is relative to the largest
    entry. `part` is what these ranks hold of it, where others hold another; `numbers` are (ours,
    truth) of a single number. `why` is what the numbers prove beyond that, "" for nothing;
    `sentence` says all of it.
    """

    step: int
    phase: str
    unit: str
    tensor: str
    ranks: tuple[int, ...]
    error: float
    microbatch: int | None = None
    part: str = ""
    numbers: tuple[float, float] | None = None
    why: str = ""

    @property
    def sentence(self) -> str:
        """The divergence in one sentence."""
        mb = "" if self.microbatch is None else f", microbatch {self.microbatch}"
        held = f" ({self.part})" if self.part else ""
        begin = f"step {self.step}, {self.phase} of {self.unit}{mb}: {self.tensor} is"
        if self.numbers:
            return f"{begin} {self.numbers[0]:.10g} where one process has {self.numbers[1]:.10g}"
        return (
            f"{begin} wrong on"
            f" {_ranks(self.ranks)}{held}, by {self.error:.2g} of its largest entry"
            + (f"; {self.why}" if self.why else "")
        )

    def as_json(self) -> dict[str, Any]:
        """Its fields, and the sentence."""
        return asdict(self) | {"sentence": self.sentence}


@dataclass(frozen=True, kw_only=True)
class _Event:
    """One thing that happens in a step, as every rank had it."""

    phase: str
    unit: str
    tensor: str
    rows: Sequence[tuple[int, Row]]  # with their rank


def first(plan: Plan, results: Results, tolerance: float = TOLERANCE) -> Divergence | None:
    """The first divergence in what parity.ranks told of every rank; None where all is right."""
    for step in range(len(results[0]["losses"])):
        for event in _events(plan, results, step):
            wrong = [(rank, row) for rank, row in event.rows if not row["error"] <= tolerance]
            if wrong:
                return _told(plan, step, event, wrong)
    return None


def _events(plan: Plan, results: Results, step: int) -> Iterator[_Event]:
    every = units(plan.model)
    passed = _grouped(results, "units", step, "unit")
    tensors = _grouped(results, "tensors", step, "name")
    names: dict[str, list[str]] = {unit: [] for unit in every}
    for spec in param_specs(plan):
        names[spec.unit].append(spec.name)
    for unit in every[:-1]:
        rows = passed.get(("forward", unit), [])
        yield _Event(phase="forward", unit=unit, tensor=f"what {unit} hands on", rows=rows)
    told = [(rank, result["losses"][step]) for rank, result in enumerate(results)]
    yield _Event(phase="forward", unit=every[-1], tensor="the loss", rows=told)
    above = ""
    for unit in reversed(every):
        rows = passed.get(("backward", unit), [])
        what = f"the gradient that reaches {unit}"
        yield _Event(phase="backward", unit=above, tensor=what, rows=rows)
        for name in names[unit]:
            rows = tensors.get(("gradient", name), [])
            what = f"the gradient of {name}"
            yield _Event(phase="backward", unit=unit, tensor=what, rows=rows)
        above = unit
    norms = [(rank, result["norms"][step]) for rank, result in enumerate(results)]
    yield _Event(phase="norm", unit="the whole model", tensor="the gradient norm", rows=norms)
    for unit in every:
        for name in names[unit]:
            rows = tensors.get(("parameter", name), [])
            yield _Event(phase="update", unit=unit, tensor=name, rows=rows)


def _grouped(
    results: Results, what: str, step: int, by: str
) -> dict[tuple[str, str], list[tuple[int, Row]]]:
    """The rows of a step, with their rank, by kind and name."""
    found: dict[tuple[str, str], list[tuple[int, Row]]] = {}
    for rank, result in enumerate(results):
        for row in result[what]:
            if row["step"] == step:
                found.setdefault((row["kind"], row[by]), []).append((rank, row))
    return found


def _told(plan: Plan, step: int, event: _Event, wrong: Sequence[tuple[int, Row]]) -> Divergence:
    worst = max(wrong, key=lambda pair: pair[1]["error"])[1]
    first_mb = min((row["mb"] for _, row in wrong if "mb" in row), default=None)
    ranks = sorted({rank for rank, row in wrong if row.get("mb") == first_mb})
    parts = {_part(row) for _, row in wrong}
    return Divergence(
        step=step,
        phase=event.phase,
        unit=event.unit,
        tensor=event.tensor,
        ranks=tuple(ranks),
        error=worst["error"],
        microbatch=first_mb,
        part=parts.pop() if len(parts) == 1 and len(ranks) < plan.world_size else "",
        numbers=(worst["ours"], worst["truth"]) if "ours" in worst else None,
        why=_why(plan, event, wrong),
    )


def _part(row: Row) -> str:
    """Which part of the whole parameter a row speaks of, in words; "" for all of it."""
    said = [f"{a} to {b - 1} of dim {dim}, over {axis}" for dim, a, b, axis in row.get("cut", ())]
    return " and ".join(said)


def _why(plan: Plan, event: _Event, wrong: Sequence[tuple[int, Row]]) -> str:
    """What the numbers prove: a factor, or a sum that was left out."""
    factors = {None if (t := row.get("times")) is None else round(t, 6) for _, row in wrong}
    if len(factors) == 1 and (times := factors.pop()) is not None and times != 1:
        return f"it is {times:g} times the truth"
    if "sum" not in wrong[0][1] or event.phase != "backward":
        return ""
    for axis in plan.mesh.names:
        if plan.mesh.degree(axis) > 1 and _sums(plan, axis, event.rows, wrong):
            return f"the parts of the ranks along {axis} add up to the truth: nobody summed them"
    return ""


def _sums(
    plan: Plan,
    axis: str,
    rows: Sequence[tuple[int, Row]],
    wrong: Sequence[tuple[int, Row]],
) -> bool:
    """Whether along an axis the ranks hold the same elements, and theirs add up to the truth."""
    told: dict[tuple[int, Any], Row] = {(rank, _where(row)): row for rank, row in rows}
    for rank, row in wrong:
        others = [told.get((peer, _where(row))) for peer in plan.mesh.group(rank, axis)]
        if any(other is None or "sum" not in other for other in others):
            return False
        ours = [other["sum"][0] for other in others if other is not None]
        size = max(abs(x) for x in (*ours, row["sum"][1]))
        if abs(sum(ours) - row["sum"][1]) > 1e-9 * size:
            return False
    return True


def _where(row: Row) -> tuple[Any, ...]:
    cut = tuple(tuple(part) for part in row.get("cut", ()))
    return (row.get("mb"), row.get("start"), row.get("numel"), cut)


def _ranks(ranks: Sequence[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"
