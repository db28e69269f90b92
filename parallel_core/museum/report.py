"""What a visit found: the curves of three trainings, and who of the witnesses would have noticed.

loss, gradient norm   notice if the bug moves the curve further than another seed does, on the
                      mean over steps
probe                 notices if the run is not one process's, beyond rounding (float64)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from parallel_core import provenance
from parallel_core.museum.exhibit import LOSS, NORM, PROBE, WITNESSES
from parallel_core.museum.request import OTHER, PLANTED, RIGHT, Visit
from parallel_core.replicas import Replicas
from parallel_core.trace import Provenance

if TYPE_CHECKING:
    from parallel_core.launch import Pool

BOUND = 1e-10
"""Relative error that rounding in float64 explains here."""

CURVES = {LOSS: "loss", NORM: "grad_norm"}
Row = Mapping[str, Any]


class MuseumView:
    """Follows a visit: feed it the events, then the results.

    `curves` are the metrics so far by optimizer and training.
    """

    def __init__(self, visit: Visit) -> None:
        self.visit = visit
        self.curves: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self._replicas: dict[tuple[str, str], Replicas] = {}
        self._at: dict[int, tuple[str, str]] = {}  # by rank: ranks are not in step

    def feed(self, event: Mapping[str, Any]) -> None:
        """Take one event of the run."""
        match event["event"]:
            case "training":
                key = (event["optimizer"], event["which"])
                self._at[event["rank"]] = key
                self._replicas.setdefault(key, Replicas(self.visit.plan(*key)))
                self.curves.setdefault(key, [])
            case "progress":
                kept = ("step", "loss", "grad_norm")
                self.curves[self._at[0]].append({name: event[name] for name in kept})
            case "replica":
                replicas = self._replicas[self._at[event["rank"]]]
                replicas.feed(event["step"], event["rank"], event["digest"])

    @property
    def done(self) -> int:
        """Steps so far, of all trainings together."""
        return sum(map(len, self.curves.values()))

    @property
    def steps(self) -> int:
        """Steps of all trainings together."""
        return self.visit.steps * len(self.visit.optimizers) * len(self.visit.trainings)

    def finish(self, results: Sequence[Sequence[Row]]) -> dict[str, Any]:
        """What `shardlab museum --bug NAME --json` prints."""
        visit, exhibit = self.visit, self.visit.exhibit
        first = results[0]
        found = {
            optimizer: self._judged(
                optimizer, {row["which"]: row for row in first if row["optimizer"] == optimizer}
            )
            for optimizer in visit.optimizers
        }
        plan = visit.plan(visit.optimizers[0], RIGHT)
        return {
            "exhibit": as_json(visit),
            "planted": next(row["planted"] for row in first if row["which"] == PLANTED),
            "layout": plan.layout,
            "world_size": plan.world_size,
            "steps": visit.steps,
            "optimizers": found,
            "provenance": provenance.as_json(badge_of(visit, first[0]))
            | {"title": exhibit.title, "note": note(visit)},
        }

    def _judged(self, optimizer: str, rows: Mapping[str, Row]) -> dict[str, Any]:
        """One optimizer's three trainings."""
        witnesses: dict[str, dict[str, Any]] = {
            name: _moved([[m[key] for m in rows[w]["metrics"]] for w in (RIGHT, PLANTED, OTHER)])
            for name, key in CURVES.items()
        }
        right, planted = (rows[which]["parity"] for which in (RIGHT, PLANTED))
        witnesses[PROBE] = {
            "right": right["max_rel_error"],
            "planted": planted["max_rel_error"],
            "errors": planted["errors"],
            "bound": BOUND,
            "notices": not planted["max_rel_error"] <= BOUND,
        }
        curves = {which: row["metrics"] for which, row in rows.items()}
        return {
            "curves": curves,
            "witnesses": witnesses,
            "noticed_by": [name for name in WITNESSES if witnesses[name]["notices"]],
            "forward_right": _same(curves[RIGHT][0]["loss"], curves[PLANTED][0]["loss"]),
            "tensors": {which: rows[which]["tensors"] for which in (RIGHT, PLANTED)},
            "replicas": {which: self._alike(optimizer, which) for which in (RIGHT, PLANTED)},
        }

    def _alike(self, optimizer: str, which: str) -> dict[str, Any] | None:
        """Whether ranks that should hold the same weights do; None where experts are among them,
        which are not the same."""
        if self.visit.plan(optimizer, which).ep > 1:
            return None
        return self._replicas[optimizer, which].report()


def _moved(curves: Sequence[Sequence[float]]) -> dict[str, Any]:
    """How far a curve lies from the right one, on the mean over steps, beside another seed's."""
    right, planted, other = curves
    bug, seed = (
        fmean(abs(x - y) for x, y in zip(curve, right, strict=True)) for curve in (planted, other)
    )
    return {
        "moved": bug,
        "seed_moves": seed,
        "relative": bug / fmean(map(abs, right)),
        "first": planted[0] / right[0],
        "last": planted[-1] / right[-1],
        "notices": not bug <= seed,
    }


def _same(one: float, other: float) -> bool:
    return abs(one - other) <= BOUND * abs(one)


def as_json(visit: Visit) -> dict[str, Any]:
    """The exhibit in words, JSON-ready."""
    told = asdict(replace(visit.exhibit, fields=dict(visit.exhibit.fields)))
    return {**told, "notices": [name for name in WITNESSES if name in visit.exhibit.notices]}


def note(visit: Visit) -> str:
    """What every badge of a visit says."""
    title = visit.exhibit.title
    return f"a bug is planted on purpose: {title[:1].lower()}{title[1:]}"


def badge_of(visit: Visit, row: Row) -> Provenance:
    """Where the figures of a visit come from; that there is a bug in them, in words."""
    plan = visit.plan(visit.optimizers[0], RIGHT)
    found = provenance.of_run(plan, row["backend"], row["versions"])
    return replace(found, title=visit.exhibit.title, notes=(*found.notes, note(visit)))


def follow(visit: Visit, pool: Pool, told: Any = None) -> dict[str, Any]:
    """Run a visit on real ranks and wait for its end; `told` is called with the view as it grows.

    Raises RunError for a rank that failed.
    """
    view = MuseumView(visit)
    with pool.start(*visit.checked().order) as going:
        for event in going.events():
            view.feed(event)
            if told is not None:
                told(view)
        return view.finish(going.wait())
