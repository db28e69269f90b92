"""What machine, when, which code: the facts that a run's badge shows."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from parallel_core import __version__, own_block
from parallel_core.plan import Plan, Recompute
from parallel_core.trace import Kind, Provenance


def of_run(plan: Plan, backend: dict[str, Any], versions: dict[str, str]) -> Provenance:
    """The provenance of a run that just happened; `backend` has its name, a note, and of a run on
    several nodes their `clocks` (trace.NodeOffset)."""
    ranks = f"{plan.world_size} ranks" if plan.world_size > 1 else "1 rank"
    notes = (backend["note"],) if backend.get("note") else ()
    return Provenance(
        kind=Kind.MEASURED,
        title=title(plan),
        backend=backend["name"] if plan.world_size > 1 else "one process",
        machine=f"{ranks} on {os.cpu_count()} cores ({platform.machine()} {platform.system()})",
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        commit=commit(),
        seed=plan.seed,
        versions={"shardlab": __version__, "python": platform.python_version(), **versions},
        plan=plan.flat(),
        notes=notes,
        clocks=tuple(backend.get("clocks", ())),
    )


def title(plan: Plan) -> str:
    """What a run was: its layout, its model, and what it did to hide messages or to keep less.

    >>> title(Plan.of(tp=2, sp=True, overlap_tp=True, recompute="full", offload=True))
    'tp=2 + sp, llama, gathers overlapped, recompute full, offload'
    """
    every = f" every {plan.recompute_every}" if plan.recompute_every > 1 else ""
    said = {
        "gathers overlapped": plan.tp > 1 and plan.overlap_tp,
        "hops not overlapped": plan.cp > 1 and not plan.overlap_cp,
        f"recompute {plan.recompute}{every}": plan.recompute != Recompute.NONE,
        "offload": plan.offload,
    }
    more = (words for words, holds in said.items() if holds)
    block = plan.model.block
    model = plan.model.dialect if block is None else own_block.in_words(block)
    return ", ".join((plan.layout, model, *more))


@cache
def commit() -> str:
    """The short hash of the checkout this runs from; empty in a wheel."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return ""
    done = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    )
    return done.stdout.strip()


def as_json(provenance: Provenance) -> dict[str, Any]:
    """The JSON form used by `--json`."""
    return {
        "kind": provenance.kind.value,
        "badge": provenance.badge,
        "backend": provenance.backend,
        "machine": provenance.machine,
        "date": provenance.date,
        "commit": provenance.commit,
        "seed": provenance.seed,
        "versions": provenance.versions,
    }
