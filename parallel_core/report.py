"""A run as its owner follows it: events in, a growing Trace out, and at the end the whole report.

The same object serves the command line, the web page and a notebook. It knows the plan, so it can
expand what the ranks noted and lay the prediction beside it; it never loads torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from parallel_core import provenance
from parallel_core import values as v
from parallel_core.activations.expert_rows import LoadOf
from parallel_core.activations.saved import piece_bytes
from parallel_core.cases import program_of
from parallel_core.cost import Link
from parallel_core.ledger import (
    Counts,
    peak_state_bytes,
    predicted_counts,
    predicted_memory,
    total_wire_bytes,
    wire,
)
from parallel_core.outline import FOLLOWED, Held, agreement
from parallel_core.peak import predicted_peak
from parallel_core.pieces import pieces
from parallel_core.plan import Plan
from parallel_core.program import Program
from parallel_core.recording import Expander
from parallel_core.replay import fit_link, fitted_rate, model_cost, replay
from parallel_core.replicas import Replicas
from parallel_core.routing_record import RoutingRecord
from parallel_core.simulate import simulate
from parallel_core.sizes import value_bytes
from parallel_core.trace import Span, Trace


class RunView:
    """Follows one run of `plan`: feed it the events, then the results."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.program = plan, program_of(plan)
        self.metrics: list[dict[str, Any]] = []
        self.gauge: list[Held] = []
        self.status = "starting"
        self.routing = RoutingRecord(plan)
        self._replicas = Replicas(plan)
        self._spans: list[Span] = []
        self._expander = Expander(self.program)
        self._provenance = provenance.of_run(plan, {"name": "starting"}, {})

    def feed(self, event: Mapping[str, Any]) -> None:
        """Take one event of the run."""
        match event["event"]:
            case "notes":
                self._spans += self._expander.spans(event["rank"], event["notes"])
            case "progress":
                self.status = "training"
                kept = ("step", "loss", "grad_norm", "tokens_per_s")
                self.metrics.append({key: event[key] for key in kept})
            case "gauge":
                self.gauge += [Held(event["rank"], *row) for row in event["rows"]]
            case "routing":
                self.routing.feed(event["rank"], event["rows"])
            case "replica":
                self._replicas.feed(event["step"], event["rank"], event["digest"])
            case "parity":
                self.status = "comparing with one process"

    @property
    def trace(self) -> Trace:
        """The measured trace so far."""
        order = sorted(self._spans, key=lambda s: (s.rank, s.step, s.t_start))
        return Trace(tuple(order), self._provenance, self.plan.world_size, tuple(self.metrics))

    def finish(self, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The report of a finished run, the object that `shardlab run --json` prints."""
        first = results[0]
        self.status = "done"
        self._provenance = provenance.of_run(self.plan, first["backend"], first["versions"])
        steps = len(first["metrics"])
        return {
            "layout": {**self.plan.flat(), "world_size": self.plan.world_size},
            "steps": self.metrics,
            "ledger": ledger(
                self.plan, results, self._times(steps), self.program, routing=self.routing
            ),
            "experts": self.routing.report(),
            "replicas": self._replicas.report(),
            "outline": self._agreement(),
            "parity": first.get("parity"),
            "trace": self._about_trace(),
            "provenance": provenance.as_json(self._provenance),
        }

    def _times(self, steps: int) -> int:
        """How often the program ran."""
        return steps

    def _about_trace(self) -> dict[str, Any]:
        trace = self.trace
        return {"spans": len(trace.spans), "makespan_ms": trace.makespan / 1e6, "file": None}

    def _agreement(self) -> dict[str, Any] | None:
        """Measured memory against the outline of the same run, instruction by instruction."""
        if not self.gauge:
            return None
        routed = self.routing.loads_of()
        found = agreement(self.plan, self.program, self.trace, self.gauge, routed=routed)
        return {
            "what": "bytes by kind, on the device, after each compute instruction",
            "equal": found.exact,
            "within_a_message": found.open_,
            "differences": list(found.differences[:10]),
        }

    def own_device(self, link: Link | None = None) -> Trace:
        """The run replayed as if each rank had a device to itself; `link` as in replay.replay."""
        return replay(self.plan, self.program, self.trace, link=link)

    def model(self) -> Trace:
        """One step as the FLOP and alpha-beta model lays it out, both fitted from this run."""
        trace = self.trace
        link = fit_link(trace, self.program)
        cost = model_cost(self.plan, rate=fitted_rate(self.plan, trace), link=link)
        return simulate(self.program, cost)


def predict(plan: Plan) -> Trace:
    """One step of a plan before anything ran: FLOPs over an assumed rate, an assumed link."""
    return simulate(program_of(plan), model_cost(plan))


def ledger(
    plan: Plan,
    results: Sequence[Mapping[str, Any]],
    steps: int,
    program: Program | None = None,
    *,
    routing: RoutingRecord | None = None,
) -> dict[str, Any]:
    """Predicted beside measured, on the wire and in memory (ledger.py says the shape).

    `program` ran `steps` times; by default the plan's step. Where tokens travel to experts, how
    they split is taken from `routing`.
    """
    program, size, n_of = program or program_of(plan), value_bytes(plan), plan.mesh.degree
    counts = predicted_counts(program, size, steps)
    if plan.ep > 1 and routing is not None and routing.rows:
        counts = routing.corrected(counts, size(v.rows(0, 0)))
    scalars = predicted_counts(program, size, steps, control=True)
    measured = [_counts(result["counts"]) for result in results]
    control = [_counts(result["control"]) for result in results]
    table = wire(measured, n_of)
    held = {kind: [r["memory"][kind] for r in results] for kind in ("params", "grads", "optimizer")}
    predicted = predicted_memory(plan, stepped=steps > 0)
    return {
        "wire": {
            "predicted": wire(counts, n_of),
            "measured": table,
            "measured_total_bytes": total_wire_bytes(table),
        },
        "memory": {
            "predicted": predicted,
            "measured": held,
            "peak": _peaks(results),
            **_predicted_peaks(plan, program, routing),
            "peak_state_bytes": max(result["peak_state_bytes"] for result in results),
            "weight_copies": {
                "predicted": weight_copies(program),
                "measured": [result["weight_copies"] for result in results],
            },
        },
        "checks": {
            "kernel_bytes_written": sum(result["kernel_wire_bytes"] for result in results),
            "predicted_peak_state_bytes": peak_state_bytes(predicted),
        },
        "activations": _activations(plan, results),
        "comm_buffers": _comm_buffers(results),
        "control": {
            "predicted": wire(scalars, n_of),
            "measured": wire(control, n_of),
            "what": "scalars: the loss, the tally of loss and norm, a server's tickets",
        },
    }


def _peaks(results: Sequence[Mapping[str, Any]]) -> dict[str, list[int]] | None:
    """The most bytes that were alive at a moment, by kind; None where nobody counted."""
    counted = [result["peak"] for result in results if result.get("peak")]
    if len(counted) < len(results):
        return None
    return {kind: [peak.get(kind, 0) for peak in counted] for kind in (*FOLLOWED, "total")}


def _predicted_peaks(
    plan: Plan, program: Program, routing: RoutingRecord | None
) -> dict[str, dict[str, list[int]]]:
    """The most bytes by kind; where routers said which rows go where, for these rows, and for even
    ones beside it."""
    even = predicted_peak(plan, program)
    routed = routing.loads_of() if routing else None
    if routing is None or routed is None:
        return {"predicted_peak": even}
    found = predicted_peak(plan, program, routed=routed, steps=routing.steps)
    return {"predicted_peak": found, "predicted_peak_even": even}


def weight_copies(program: Program) -> list[int]:
    """Per rank the most versions of one piece's weights that are alive after an instruction."""
    most = []
    for holds, instrs in zip(program.holds, program.ranks, strict=True):
        alive = Counter(value.at[0] for value in holds if value.name == "w")
        peak = max(alive.values(), default=0)
        for instr in instrs:
            alive.update(value.at[0] for value in instr.writes if value.name == "w")
            alive.subtract(value.at[0] for value in instr.frees if value.name == "w")
            peak = max([peak, *alive.values()])
        most.append(peak)
    return most


def _counts(rows: Sequence[Sequence[Any]]) -> Counts:
    return {(axis, op): (count, total) for axis, op, count, total in rows}


def _activations(plan: Plan, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What pieces keep, beside what was measured in a forward after the run. How many rows its
    experts got is taken from that forward; `even` are the bytes of even loads."""
    even = {p.name: piece_bytes(plan, p.units) for p in pieces(plan)}
    loads = _loads_measured(plan, results)
    predicted: dict[str, int] = {}
    measured: dict[str, int] = {}
    differences = []
    for rank, result in enumerate(results):
        routed = loads(rank, 0) if loads else None
        for piece in pieces(plan):
            if piece.name not in result["activations"]:
                continue
            want, got = piece_bytes(plan, piece.units, routed), result["activations"][piece.name]
            first = piece.name not in measured
            if first:
                predicted[piece.name], measured[piece.name] = want, got
            if want != got and (first or loads):  # without experts ranks keep as much
                why = "not in the formula"
                differences.append(
                    {"unit": piece.name, "rank": rank, "bytes": got - want, "why": why}
                )
    return {
        "what": "bytes one microbatch keeps for its backward, by unit or stage",
        "predicted": predicted,
        "measured": measured,
        "differences": differences,
        **({"even": even} if loads else {}),
    }


def _loads_measured(
    plan: Plan, results: Sequence[Mapping[str, Any]]
) -> Callable[[int, int], LoadOf] | None:
    """Rows of the forward that was measured."""
    record = RoutingRecord(plan)
    for rank, result in enumerate(results):
        record.feed(rank, result.get("routed", ()))
    return record.loads_of()


def _comm_buffers(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Gradients are reduced in place, so the lab itself keeps no message buffers under dp."""
    stray = [result["unaccounted"] for result in results]
    return {
        "what": "tensors alive after the last step that are neither state nor batch",
        "predicted": [0] * len(results),
        "measured": stray,
        "differences": [
            {"rank": rank, "bytes": size, "why": "held by something outside the training state"}
            for rank, size in enumerate(stray)
            if size
        ],
        "not_counted": "buffers inside gloo or NCCL, which torch cannot see",
    }
