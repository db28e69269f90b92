"""Is the bubble what was predicted? Each schedule is run, replayed and forecast, side by side.

    replayed    the run again, as if every rank had a device to itself: each task as long as it
                was itself (replay.py), step by step
    predicted   the same program, each task as long as the median of its rank, stage and op
                (pipeline_forecast.py)

Both over the one link fitted from the run, so that only the uneven times of tasks part them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from parallel_core.analysis.bubble import bubble
from parallel_core.bench import Say
from parallel_core.bench.measurement import Measurement, Report
from parallel_core.bench.pipeline import DEFAULTS
from parallel_core.cases import PRELOAD, TRAIN
from parallel_core.fields import PlanError, validate, whole
from parallel_core.launch import Pool
from parallel_core.pipeline import SCHEDULES
from parallel_core.pipeline_forecast import forecast
from parallel_core.plan import Plan
from parallel_core.replay import fit_link, replay
from parallel_core.report import RunView

WITHIN = 2.0
"""Points of bubble fraction that prediction and replay may stand apart."""


@dataclass(frozen=True, kw_only=True)
class Runs:
    """How long each schedule runs."""

    steps: int = whole(8, 1, 10_000, "steps that are replayed, a schedule")
    warmup: int = whole(2, 0, 1000, "steps before them")

    def __post_init__(self) -> None:
        validate(self)


def plans_of(**flat: Any) -> tuple[list[Plan], dict[str, str]]:
    """A plan for each schedule (or the one given), and of those that do not fit the reason.

    Raises PlanError where none fits.
    """
    given = {**DEFAULTS, **flat}
    names = [given.pop("schedule")] if "schedule" in given else list(SCHEDULES)
    plans: list[Plan] = []
    refused: dict[str, PlanError] = {}
    for name in names:
        try:
            plans.append(Plan.of(**given, schedule=name))
        except PlanError as error:
            refused[name] = error
    if not plans:
        raise refused[names[-1]]
    return plans, {name: str(error) for name, error in refused.items()}


def measure(plans: list[Plan], refused: Mapping[str, str], chosen: Runs, say: Say) -> Report:
    """Run every plan, and say how far its replayed bubble is from the predicted one."""
    rows: dict[str, Measurement] = {}
    with Pool(preload=PRELOAD) as pool:
        for plan in plans:
            say(f"{plan.layout}: running")
            view = RunView(plan)
            args = {"plan": plan.flat(), "steps": chosen.warmup + chosen.steps, "parity": False}
            with pool.start(TRAIN, plan.world_size, args) as run:
                for event in run.events():
                    view.feed(event)
                view.finish(run.wait())
            rows |= rows_of(plan, view, after=chosen.warmup)
    settings = {
        "plan": plans[0].flat(),
        "steps": chosen.steps,
        "warmup": chosen.warmup,
        "refused": dict(refused),
    }
    notes = (
        "bubble: idle time as a share of all ranks' time, on the own-device clock",
        "predicted: from the run's median F, B, I and W of each rank and stage; one number a run",
        "points: replayed minus predicted, a sample a step",
        *(f"{name} was left out: {why}" for name, why in refused.items()),
    )
    title = f"pp={plans[0].pp}, m={plans[0].microbatches}, {plans[0].model.dialect}"
    return Report("bubble", title, rows, settings, notes, tuple(_doubts(rows)))


def rows_of(plan: Plan, view: RunView, *, after: int) -> dict[str, Measurement]:
    """Of the steps from number `after` on: both bubbles in percent, and the points between."""
    steps = [view.trace.only(step) for step in view.trace.steps if step >= after]
    whole_run = replace(view.trace, spans=tuple(span for step in steps for span in step.spans))
    link = fit_link(whole_run, view.program)
    predicted = 100 * bubble(forecast(plan, view.program, whole_run, link=link)).bubble_fraction
    replayed = [
        100 * bubble(replay(plan, view.program, step, link=link)).bubble_fraction for step in steps
    ]
    return {
        f"{plan.schedule}: replayed": Measurement.of(replayed, "%"),
        f"{plan.schedule}: predicted": Measurement.of([predicted], "%"),
        f"{plan.schedule}: apart": Measurement.of([r - predicted for r in replayed], "points"),
    }


def _doubts(rows: Mapping[str, Measurement]) -> Iterator[str]:
    for name, row in rows.items():
        if row.unit == "points" and abs(row.median) > WITHIN:
            yield f"{name} by {row.median:.1f} points, more than {WITHIN:g}"
