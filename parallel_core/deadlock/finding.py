"""The owner's side of a deadlock: start the ranks, hear where they stand, say what `check` says.

Two verdicts on one program: what `check` says of it before anything runs, and what the ranks found
when they stood. They differ where what runs is not what was written: then `check` is asked again,
about the calls that the ranks really made.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from parallel_core.analysis.stuck import POSTED, stuck
from parallel_core.analysis.wait_for import Stand, WaitFor
from parallel_core.check import check
from parallel_core.deadlock.layouts import case_of_layout
from parallel_core.deadlock.programs import CASES, Case
from parallel_core.launch import Pool
from parallel_core.mesh import Mesh
from parallel_core.plan import Plan
from parallel_core.program import Instr, Lane, Op, Program, ProgramError, Value
from parallel_core.trace import Kind, Provenance, Span, Trace

RANKS = "parallel_core.deadlock.ranks"
TRAINING = "parallel_core.deadlock.training"
STRICT, BUFFERED, CURED = "strict", "buffered", "cured"
PASSING = {
    STRICT: "messages wait for each other, as NCCL's do",
    BUFFERED: "sends return at once",
    CURED: "a lane for each direction, gloo's own messages",
}
"""How messages may be passed, and what is said of it."""

LIMIT_S = 4.0
"""Seconds after which the owner gives up on ranks that say nothing."""

TRAINING_LIMIT_S = 60.0
"""The same of a training, whose ranks compute."""

Posts = Sequence[Sequence[Mapping[str, Any]]]
"""Per rank its calls, as deadlock.rendezvous.Post."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What `check` says of a case, and what happened when it ran.

    `graph` is where every rank stood (None: nobody found anything), `ended` the ranks that came
    to their end, `seconds` how long the run took once its ranks had met. `written` and `ran` are
    the words of `check` on the program and on the calls that were made; `ran` is empty where it
    was not asked. `trace` holds the calls, those that never met marked as in a flight record.
    `losses` are those of a training that came to its end, a step each.
    """

    case: Case
    program: Program
    written: str
    graph: WaitFor | None
    ended: tuple[int, ...]
    seconds: float
    ran: str
    trace: Trace
    losses: tuple[float, ...] = ()

    @property
    def sentence(self) -> str:
        """What happened, in one sentence."""
        if self.graph is not None:
            return self.graph.sentence
        size = self.program.mesh.size
        if len(self.ended) == size:
            return f"all {size} ranks came to their end"
        hung = ", ".join(str(rank) for rank in range(size) if rank not in self.ended)
        return f"ranks {hung} had not ended after {self.seconds:.1f} s, and nothing says why"

    @property
    def blame(self) -> tuple[str, ...]:
        """What the record of the calls says by group: who stands in which, who never came."""
        return tuple(hang.sentence for hang in stuck(self.trace))


def find(
    case: str,
    pool: Pool,
    *,
    cured: bool = False,
    buffered: bool = False,
    limit_s: float = LIMIT_S,
) -> Finding:
    """Run a case on real ranks and say what was found; no rank of it is left.

    Raises ValueError for a case that is not in the table.
    """
    if case not in CASES:
        raise ValueError(f"there is no case {case!r}; choose one of {', '.join(CASES)}")
    return _found(
        CASES[case],
        pool,
        f"{RANKS}:play",
        {"case": case, "cured": cured, "buffered": buffered},
        limit_s=limit_s,
    )


def find_in_training(
    plan: Plan,
    pool: Pool,
    *,
    steps: int = 1,
    cured: bool = False,
    buffered: bool = False,
    limit_s: float = TRAINING_LIMIT_S,
) -> Finding:
    """Train by `plan` with its messages in line, and say what was found; no rank of it is left.

    Raises PlanError as layouts.case_of_layout does.
    """
    args = {"plan": plan.flat(), "steps": steps, "cured": cured, "buffered": buffered}
    return _found(case_of_layout(plan), pool, f"{TRAINING}:train", args, limit_s=limit_s)


def _found(
    chosen: Case, pool: Pool, target: str, args: Mapping[str, Any], *, limit_s: float
) -> Finding:
    """Run a target whose ranks tell as deadlock.ranks.tell does."""
    program = chosen.cured() if args["cured"] else chosen.careless()
    with pool.start(target, program.mesh.size, args) as run:
        heard = list(islice(run.events(), 1))  # a cold pool loads torch first: that does not count
        begun = time.monotonic()
        with contextlib.suppress(TimeoutError):
            run.wait(limit_s)
        seconds = time.monotonic() - begun
    heard += run.events()
    told = {event["rank"]: event for event in heard if event["event"] != "begun"}
    graph = graph_of(told)
    posts = [told[r]["posts"] if r in told else [] for r in range(program.mesh.size)]
    written = verdict(program)
    surprised = graph is not None and written == LEGAL
    return Finding(
        case=chosen,
        program=program,
        written=written,
        graph=graph,
        ended=tuple(sorted(r for r, event in told.items() if event["event"] == "ended")),
        seconds=seconds,
        ran=verdict(what_ran(program.mesh, posts)) if surprised else "",
        trace=record(posts, chosen.name, _note(target, args)),
        losses=tuple(told.get(0, {}).get("losses", ())),
    )


LEGAL = "legal: every message meets, and every rank reaches its end"


def verdict(program: Program) -> str:
    """The words of `check` on a program."""
    try:
        check(program)
    except ProgramError as error:
        return str(error)
    return LEGAL


def what_ran(mesh: Mesh, posts: Posts) -> Program:
    """The calls that were made, as a program of messages alone."""
    ranks = []
    for rank, mine in enumerate(posts):
        instrs = []
        for index, post in enumerate(mine):
            op, pair = Op(post["op"]), post["axis"] == "p2p"
            value = (Value("message", (index,)),)
            instr = Instr(
                op=op,
                where=post["what"],
                lane=Lane.COMPUTE,
                axis=None if pair else post["axis"],
                peer=next(p for p in post["members"] if p != rank) if pair else None,
                reads=() if op == Op.RECV else value,
                writes=value if op == Op.RECV else (),
            )
            instrs.append(instr)
        ranks.append(tuple(instrs))
    holds = tuple(tuple(v for i in instrs for v in i.reads) for instrs in ranks)
    keeps = tuple(tuple(v for i in instrs for v in (*i.reads, *i.writes)) for instrs in ranks)
    return Program(mesh, tuple(ranks), holds, keeps, "what ran")


def record(posts: Posts, title: str, note: str) -> Trace:
    """The calls as a trace; those that never met last until the record ends."""
    times = [post[t] for mine in posts for post in mine for t in ("t_post", "t_met")]
    end = max(times, default=0)
    spans = [
        Span(
            rank=rank,
            step=0,
            index=index,
            lane=Lane.COMM.value,
            op=post["op"],
            where=post["what"] if post["t_met"] else POSTED,
            t_post=post["t_post"],
            t_start=post["t_post"],
            t_done=post["t_met"] or end,
            axis=None if post["axis"] == "p2p" else post["axis"],
            peers=tuple(post["members"]),
            seq=post["number"],
        )
        for rank, mine in enumerate(posts)
        for index, post in enumerate(mine)
    ]
    machine = f"{len(posts)} ranks on {os.cpu_count()} cores"
    source = Provenance(
        kind=Kind.MEASURED, title=title, backend="gloo", machine=machine, notes=(note,)
    )
    return Trace(tuple(spans), source, len(posts))


def _note(target: str, args: Mapping[str, Any]) -> str:
    """How messages were passed, for the badge."""
    if args["buffered"]:
        return PASSING[BUFFERED]
    return PASSING[CURED if args["cured"] and target.startswith(TRAINING) else STRICT]


def graph_of(told: Mapping[int, Mapping[str, Any]]) -> WaitFor | None:
    """Where the ranks stood, as the lowest one that found out saw it; each knows its own wait."""
    found = {r: event["stands"] for r, event in told.items() if event["event"] == "deadlock"}
    if not found:
        return None
    rows = found[min(found)]
    return WaitFor(tuple(Stand.of(found.get(r, rows)[r]) for r in range(len(rows))))
