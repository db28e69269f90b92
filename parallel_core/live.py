"""`run`: the first thing to type. A real run, from a notebook cell or a script.

    from parallel_core.live import run

    four = run(dp=4, steps=5)      # four processes, one model, real text
    four                           # in a notebook: the player
    four.losses, four.use(), four.parity

The fields are those of `shardlab run`. The first call starts a warm pool, later ones reuse it; it
belongs to this process and ends with it.
"""

from __future__ import annotations

import atexit
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib import import_module
from typing import Any

from parallel_core import own_block
from parallel_core.cases import PRELOAD
from parallel_core.cost import Link
from parallel_core.launch import Pool
from parallel_core.parameter_server_report import view_of
from parallel_core.plan import Plan
from parallel_core.replay import fit_link, fit_link_of
from parallel_core.report import RunView
from parallel_core.request import Request
from parallel_core.trace import Trace
from parallel_core.views.exposure import Use, use
from parallel_core.views.marks import typical_step
from parallel_core.views.player import Shown, show
from parallel_core.views.race import Contest


def run(*, quiet: bool = False, **flat: Any) -> LiveRun:
    """Train on real processes and wait for the end; `flat` are the fields of a plan and a Request.

    A bar shows how far it is, unless `quiet`. Interrupting the cell ends the run. Raises
    PlanError for fields that cannot be run here and RunError for a rank that failed, each one
    sentence.
    """
    own_block.admit(flat)
    request = Request.of(**flat).checked()
    view = view_of(request.plan)
    with _bar(request, quiet) as advance, pool().start(*request.order) as going:
        for event in going.events():
            view.feed(event)
            advance(view)
        report = view.finish(going.wait())
    return LiveRun(view, report)


@dataclass(frozen=True, eq=False)
class LiveRun:
    """A finished run. In a notebook it displays itself as the player, one typical step of it."""

    view: RunView
    report: dict[str, Any]  # what `shardlab run --json` prints
    link: Link | None = None  # of the replay; None for the one fitted from this run

    @property
    def plan(self) -> Plan:
        """What was run."""
        return self.view.plan

    @cached_property
    def trace(self) -> Trace:
        """What happened, by this machine's clock (measured)."""
        return self.view.trace

    @cached_property
    def own(self) -> Trace:
        """The same as if every rank had a device to itself (replayed)."""
        return self.view.own_device(self.link)

    @cached_property
    def model(self) -> Trace:
        """One step as the cost model lays it out, fitted from this run (modelled)."""
        return self.view.model()

    @property
    def losses(self) -> list[float]:
        """The loss of every step, nats a token."""
        return [float(row["loss"]) for row in self.report["steps"]]

    @property
    def parity(self) -> float | None:
        """max |parallel - single| over the gradients; None if it was not asked for."""
        found = self.report["parity"]
        return None if found is None else float(found["max_abs_error"])

    @property
    def wire_bytes(self) -> int:
        """Bytes that left all ranks together, counted in the run."""
        return int(self.report["ledger"]["wire"]["measured_total_bytes"])

    def use(self, *, own: bool = True) -> Use:
        """Compute and communication of a step, on the own-device clock or (own=False) the wall."""
        return use(self.own if own else self.trace)

    def show(self, step: int | None = None) -> Shown:
        """The player on one step (default: the one of median duration), both clocks, the model."""
        chosen = typical_step(self.trace) if step is None else step
        return show(self.trace, own=self.own, model=self.model, step=chosen)

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return self.show()._repr_mimebundle_() if self.trace.spans else {"text/plain": repr(self)}

    def __repr__(self) -> str:
        losses = f", loss {self.losses[0]:.4f} to {self.losses[-1]:.4f}" if self.losses else ""
        parity = "" if self.parity is None else f", max |parallel - single| = {self.parity:.3g}"
        return f"{self.plan.layout}: {len(self.losses)} steps{losses}{parity}"


def on_one_link(runs: Sequence[LiveRun]) -> list[LiveRun]:
    """The same runs, each replayed over the one link fitted to all of them, so that they compare.

    Over a link of its own each run would carry what the machine happened to do just then.
    """
    link = fit_link_of([(run.trace, run.view.program) for run in runs])
    return [replace(run, link=link) for run in runs]


def contest(**runs: LiveRun) -> Contest:
    """Two runs by name, on both clocks, the replays over one link: for views.race."""
    level = dict(zip(runs, on_one_link(list(runs.values())), strict=True))
    return Contest(
        wall={name: run.trace for name, run in runs.items()},
        own={name: run.own for name, run in level.items()},
        link=fit_link_of([(run.trace, run.view.program) for run in runs.values()]),
        alone={name: fit_link(run.trace, run.view.program) for name, run in runs.items()},
    )


@cache
def pool() -> Pool:
    """The warm pool of this process, made at the first call and closed when it exits."""
    made = Pool(preload=PRELOAD)
    atexit.register(made.close)
    return made


Advance = Callable[[RunView], None]


@contextmanager
def _bar(request: Request, quiet: bool) -> Iterator[Advance]:
    """A bar that follows a RunView: HTML in a notebook, rich in a terminal, gone at the end."""
    if quiet:
        yield lambda view: None
    elif "ipykernel" in sys.modules:
        yield from _notebook_bar(request.steps)
    else:
        yield from _terminal_bar(request.steps)


def _words(view: RunView) -> str:
    loss = f", loss {view.metrics[-1]['loss']:.4f}" if view.metrics else ""
    return f"{view.plan.layout}: {view.status}{loss}"


def _notebook_bar(steps: int) -> Iterator[Advance]:
    ipython: Any = import_module("IPython.display")
    handle = ipython.display(ipython.HTML("starting"), display_id=True)

    def advance(view: RunView) -> None:
        bar = f'<progress max="{max(steps, 1)}" value="{len(view.metrics)}"></progress>'
        handle.update(ipython.HTML(f"{bar} {_words(view)}"))

    yield advance
    handle.update(ipython.HTML(""))


def _terminal_bar(steps: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting", total=max(steps, 1))

        def advance(view: RunView) -> None:
            progress.update(task, completed=len(view.metrics), description=_words(view))

        yield advance
