"""`collective`: what to type to see a collective on real processes.

    from parallel_core.live_collectives import collective, link

    four = collective("all_reduce", "ring", ranks=4, bytes=2**20)
    four                          # in a notebook: the player
    four.best, four.sent, four.report

    print(collective("reduce_scatter", "ring", integers=[[1, 2], [30, 40]]))   # numbers spelled out

    four.show(link().plain)       # with the model's outlines, from this machine's own link

`link` is that of live_link.py. Runs share the warm pool of parallel_core.live, which belongs to
this process and ends with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from parallel_core.collectives.clock import collective_cost
from parallel_core.collectives.group import CollectiveError
from parallel_core.collectives.names import chunk_sizes, chunks
from parallel_core.collectives.promise import layouts
from parallel_core.collectives.report import CollectiveView
from parallel_core.collectives.request import WIDTHS, CollectiveRequest
from parallel_core.cost import Link
from parallel_core.live import pool
from parallel_core.live_link import LiveLink, link
from parallel_core.program import Value
from parallel_core.quantities import bytes_text, time_text
from parallel_core.simulate import simulate
from parallel_core.trace import Trace
from parallel_core.views.player import Shown, show

__all__ = ["LiveCollective", "LiveLink", "collective", "link", "predicted_trace"]

INTEGERS = "parallel_core.collectives.integers:run"


def collective(
    op: str, algorithm: str, *, integers: Sequence[Sequence[int]] | None = None, **flat: Any
) -> LiveCollective:
    """Run a collective on real processes and wait for the end; `flat` are a request's fields.

    With `integers`, a list of equal length for each rank, those are what is moved and added (once,
    as int64): each list is that rank's whole buffer, of which an op takes the chunks that it holds
    at the start. Raises PlanError or CollectiveError for what cannot be run, RunError for a rank
    that failed, each one sentence.
    """
    if integers is not None:
        flat |= _fitting(integers)
    request = CollectiveRequest(op=op, algorithm=algorithm, **flat).checked()
    view = CollectiveView(request)
    target, ranks, args = request.order
    if integers is not None:
        target, args = INTEGERS, {"what": args["what"], "integers": [list(row) for row in integers]}
    with pool().start(target, ranks, args) as going:
        for event in going.events():
            view.feed(event)
        results = going.wait()
    return LiveCollective(view, view.finish(results), tuple(results))


def _fitting(integers: Sequence[Sequence[int]]) -> dict[str, Any]:
    lengths = {len(row) for row in integers}
    if len(lengths) != 1:
        raise CollectiveError(
            f"integers has lists of {', '.join(map(str, sorted(lengths))) or 'no'} numbers; every"
            " rank needs one, all of one length"
        )
    size = WIDTHS["int64"] * lengths.pop()
    return {"ranks": len(integers), "bytes": size, "dtype": "int64", "repeats": 1}


Buffer = tuple[int | None, ...]
"""A rank's whole buffer, None where the op gives it nothing."""


@dataclass(frozen=True, eq=False)
class LiveCollective:
    """A finished collective. A notebook shows it as the player, print as a line or, with integers,
    as a table."""

    view: CollectiveView
    report: dict[str, Any]  # what `shardlab collective --json` prints
    results: tuple[dict[str, Any], ...]  # by rank, as the ranks returned them

    @property
    def request(self) -> CollectiveRequest:
        """What was run."""
        return self.view.request

    @cached_property
    def trace(self) -> Trace:
        """The run of median length (measured)."""
        return self.view.typical()

    @cached_property
    def seconds(self) -> tuple[float, ...]:
        """Each run's time on its slowest rank; the warm-up left out where there are more."""
        times = [r["seconds"]["ours"] for r in self.results]
        each = tuple(max(run) for run in zip(*times, strict=True))
        return each[1:] or each

    @property
    def best(self) -> float:
        """The fastest run: on a shared machine the others measure the neighbours too."""
        return min(self.seconds)

    @property
    def sent(self) -> tuple[int, ...]:
        """Bytes that left each rank, counted in the run."""
        return tuple(self.report["bytes_sent"]["measured"])

    @property
    def before(self) -> tuple[Buffer, ...]:
        """Every rank's integers at the start; () for a run without."""
        return self._buffers("inputs")

    @property
    def after(self) -> tuple[Buffer, ...]:
        """Every rank's integers at the end, None where it gets none; () for a run without."""
        return self._buffers("outputs")

    @property
    def sums(self) -> str:
        """Every addition as it was made, a line each: `r2 step0   part[1,2] = 11 + 21 = 32`."""
        lines = [
            f"r{rank} {row['step']}   {row['value']} = {_sum(row)}"
            for rank, result in enumerate(self.results)
            for row in result.get("sums", ())
        ]
        return "\n".join(sorted(lines, key=lambda line: int(line.split()[1].removeprefix("step"))))

    def model(self, link: Link, *, overlap: bool = False) -> Trace:
        """The same program as the simulator lays it out over `link` (modelled)."""
        return predicted_trace(self.request, link, overlap=overlap)

    def show(self, link: Link | None = None) -> Shown:
        """The player on the median run, with the model's outlines over it if a link is given."""
        return show(self.trace, model=None if link is None else self.model(link))

    def _buffers(self, which: str) -> tuple[Buffer, ...]:
        return tuple(self._buffer(result[which]) for result in self.results if which in result)

    def _buffer(self, values: Mapping[str, Sequence[int]]) -> Buffer:
        """Every value at its place: its chunk's, or in what an all-to-all brought its source's."""
        count = chunks(self.view.program)
        sizes = chunk_sizes(self.request.elements, count)
        named = {Value.parse(name): numbers for name, numbers in values.items()}
        brought = len({value.at[0] for value in named}) == 1 < len(named)
        placed = {value.at[brought]: numbers for value, numbers in named.items()}
        return tuple(x for c in range(count) for x in placed.get(c, [None] * sizes[c]))

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return self.show()._repr_mimebundle_() if self.trace.spans else {"text/plain": repr(self)}

    def __str__(self) -> str:
        return _table(self) if self.before else repr(self)

    def __repr__(self) -> str:
        request = self.request
        return (
            f"{request.op} by {request.algorithm}, {request.ranks} ranks,"
            f" {bytes_text(request.bytes)}: {time_text(1e9 * self.best)} at best of"
            f" {len(self.seconds)}, {bytes_text(max(self.sent))} sent by the busiest rank"
        )


def predicted_trace(request: CollectiveRequest, link: Link, *, overlap: bool = False) -> Trace:
    """A collective that need not have run, over one link; with `overlap` a step pays one alpha.

    Raises CollectiveError where the algorithm does not allow so many ranks.
    """
    width, program = WIDTHS[request.dtype], request.program
    cost = collective_cost(program, request.bytes, link, itemsize=width, overlap=overlap)
    return simulate(program, cost, rendezvous=True)


def _sum(row: Mapping[str, Any]) -> str:
    """`11 + 21 = 32`, or lists of numbers where a chunk has several."""
    *parts, result = [x[0] if len(x) == 1 else x for x in (*row["operands"], row["result"])]
    return f"{' + '.join(map(str, parts))} = {result}"


def _table(done: LiveCollective) -> str:
    """What every rank held before and holds after; a dot where the op gives it nothing."""
    op = done.request.op
    cells = [[_words(done.before[r]), _words(done.after[r])] for r in range(done.request.ranks)]
    width = max(len(word) for row in cells for side in row for word in side)
    rows = [" -> ".join(" ".join(f"{w:>{width}}" for w in side) for side in row) for row in cells]
    head = f"{op} by {done.request.algorithm}: {layouts()[op]}"
    return "\n".join([head, *(f"r{rank}   {row}" for rank, row in enumerate(rows))])


def _words(buffer: Buffer) -> list[str]:
    return ["." if number is None else str(number) for number in buffer]
