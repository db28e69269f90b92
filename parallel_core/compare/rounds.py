"""The runs of a comparison: in every round each layout has a turn, in another order each time.

    round 0   A B C D        round 1   C D A B        round 2   D C B A ...

What drifts (heat, a neighbour's load) then hits all alike: no layout is always first or last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from parallel_core.compare.layouts import Contender, Turns
from parallel_core.launch import Pool
from parallel_core.live import LiveRun
from parallel_core.parameter_server_report import view_of
from parallel_core.request import Request

Say = Callable[[str, float], None]
"""Told what is being done, and the share of all that is behind, 0 to 1."""


def order(count: int, rounds: int) -> Iterator[list[int]]:
    """Whose turn it is, a round at a time: turned by half each round, every other pair backwards.

    >>> list(order(4, 3))
    [[0, 1, 2, 3], [2, 3, 0, 1], [3, 2, 1, 0]]
    """
    for number in range(rounds):
        start = count // 2 if number % 2 else 0
        turn = [(start + i) % count for i in range(count)]
        yield turn[::-1] if number % 4 > 1 else turn


def measure(
    found: Sequence[Contender], turns: Turns, pool: Pool, say: Say
) -> dict[str, list[LiveRun]]:
    """The runs of every contender, one a round; RunError for a rank that failed.

    Interrupting ends the run that is going, and with it the comparison.
    """
    runs: dict[str, list[LiveRun]] = {each.name: [] for each in found}
    behind, all_steps = 0, len(found) * turns.rounds * turns.steps
    for number, turn in enumerate(order(len(found), turns.rounds)):
        for at in turn:
            words = f"round {number + 1} of {turns.rounds}: {found[at].name}"

            def told(done: int, words: str = words, before: int = behind) -> None:
                say(words, (before + done) / all_steps)

            runs[found[at].name].append(once(found[at], turns.steps, pool, told))
            behind += turns.steps
    return runs


def once(who: Contender, steps: int, pool: Pool, told: Callable[[int], None]) -> LiveRun:
    """One turn, from the same start as every other: the same weights, the same data."""
    request = Request(plan=who.plan, steps=steps, parity=False)
    view = view_of(who.plan)
    told(0)
    with pool.start(*request.order) as run:
        for event in run.events():
            view.feed(event)
            told(len(view.metrics))
        return LiveRun(view, view.finish(run.wait()))
