"""What `shardlab collective` starts: real processes, followed to their end, and the verdict.

The time is predicted first: two of the ranks pass messages to and fro, and the collective is laid
out over the link that this shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psutil

from parallel_core.collectives.costs import predicted
from parallel_core.collectives.forecast import forecast
from parallel_core.collectives.formulas import FORMULAS
from parallel_core.collectives.ramp import fit_plain
from parallel_core.collectives.report import CollectiveView
from parallel_core.collectives.request import WIDTHS, CollectiveRequest
from parallel_core.fields import PlanError, nearest_where
from parallel_core.launch import Pool
from parallel_core.quantities import bytes_text
from parallel_core.trace import Trace

Say = Callable[[str], None]

P2P, SHM = "parallel_core.collectives.live", "parallel_core.collectives.live_shared"
PING = "parallel_core.collectives.ping"
PROBED = tuple(1 << k for k in (3, 12, 16, 18, 20, 22))
"""Bytes of the messages that the link is fitted to."""
PROBE_S = 0.05  # seconds a size

THROUGH_MEMORY = ("one_shot", "two_shot")
SMALL = 1 << 15  # bytes up to which one stage less is worth more than fewer reads

EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""One unit in the last place, relative; integers have none."""

SILENCE_S = 600.0  # seconds: all ranks work out their promises at the end, and say nothing


def follow(request: CollectiveRequest, say: Say) -> tuple[dict[str, Any], Trace]:
    """Run `request` on a pool of this command's own; its report and its trace."""
    _must_fit(request.checked())
    view = CollectiveView(request)
    report = _run(view, request.order, P2P, say)
    return report | {"transport": "p2p"}, view.trace


def through_memory(asked: dict[str, Any], say: Say) -> tuple[dict[str, Any], Trace]:
    """Run an all-reduce through shared memory; `asked` are fields of a request.

    Without an algorithm, small buffers go in one shot, large ones in two. Raises PlanError for an
    op or algorithm that has no such form.
    """
    if asked["op"] != "all_reduce":
        raise PlanError("op", asked["op"], "does not run through shared memory", "all_reduce")
    size = asked.get("bytes", CollectiveRequest().bytes)
    asked = {"algorithm": THROUGH_MEMORY[size > SMALL]} | asked
    if asked["algorithm"] not in THROUGH_MEMORY:
        rule = f"is no algorithm through shared memory, which has {', '.join(THROUGH_MEMORY)}"
        raise PlanError("algorithm", asked["algorithm"], rule, "two_shot")
    request = CollectiveRequest(**asked)
    _must_fit(request.checked())
    view = CollectiveView(request)
    rest = {"elements": request.elements, "dtype": request.dtype, "repeats": request.repeats}
    order = (f"{SHM}:run", request.ranks, {"algorithm": request.algorithm, **rest})
    report = _run(view, order, SHM, say)
    nothing = [0] * request.ranks
    # what arrives in messages over a wire is read in place here
    reads = predicted(
        request.op,
        request.algorithm,
        request.group,
        request.elements,
        itemsize=WIDTHS[request.dtype],
    ).received
    report["messages"] = {"predicted": 0, "measured": 0}
    report["bytes_sent"] = {"predicted": nothing, "measured": nothing}
    provenance = replace(view.trace.provenance, backend="shared memory")
    report["provenance"]["badge"] = provenance.badge
    return report | {"transport": "shm", "bytes_read": {"predicted": list(reads)}}, view.trace


def _run(
    view: CollectiveView, order: tuple[str, int, dict[str, Any]], preload: str, say: Say
) -> dict[str, Any]:
    name = f"{view.program.name}, {view.request.ranks} ranks"
    say(f"{name}: starting")
    with Pool(preload=(preload, PING)) as pool:
        model = _predict(pool, view) if preload == P2P else None
        with pool.start(*order, silence_s=SILENCE_S) as run:
            say(f"{name}: running")
            for event in run.events():
                view.feed(event)
            report = view.finish(run.wait())
    return {**report, "model": model, "kept": _kept(view.request, report)}


def _predict(pool: Pool, view: CollectiveView) -> dict[str, Any]:
    """What the collective should take over the link between two ranks of this pool."""
    with pool.start(f"{PING}:ping", 2, {"sizes": list(PROBED), "seconds": PROBE_S}) as run:
        points = run.wait()[0]
    link = fit_plain([(point["bytes"], point["low"]) for point in points])
    seconds = forecast(view.request, link).seconds
    return {
        "seconds": seconds,
        "bandwidth": view.bandwidth(seconds),
        "alpha_s": link.alpha,
        "beta_bytes_s": link.beta,
        "badge": f"modelled: {link} (a ping-pong between two ranks), a core for every rank",
    }


def _kept(request: CollectiveRequest, report: dict[str, Any]) -> bool:
    """Whether every rank ended with what it was promised, to rounding, and alike to the bit."""
    allowed = request.ranks * EPSILON.get(request.dtype, 0.0)
    return bool(report["equal_on_all_ranks"] and report["max_rel_error"] <= allowed)


def _must_fit(request: CollectiveRequest) -> None:
    """PlanError with a size that fits, where this machine's memory cannot hold the buffers."""
    a_byte = _memory(request, 1 << 20) / (1 << 20)
    free = psutil.virtual_memory().available
    if request.bytes * a_byte > free:
        width = WIDTHS[request.dtype]
        fits = [width << k for k in range(40) if (width << k) * a_byte <= free]
        needed = bytes_text(request.bytes * a_byte)
        rule = f"needs about {needed} on {request.ranks} ranks where {bytes_text(free)} are free"
        raise PlanError("bytes", request.bytes, rule, nearest_where(request.bytes, fits))


def _memory(request: CollectiveRequest, nbytes: int) -> float:
    """Bytes that all ranks take for a buffer of so many.

    Input, output, what is under way and torch's two copies; then, chunk by chunk, a term as it is
    drawn, the promised sum, and the difference from it, in float64.
    """
    width, n = WIDTHS[request.dtype], request.ranks
    elements = nbytes / width
    chunk = elements / FORMULAS[request.op][request.algorithm].chunks(request.group)
    return n * (5 * nbytes + chunk * (2 * width + 48))
