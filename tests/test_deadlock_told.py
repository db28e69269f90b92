"""A strict training followed by its events says what a run that was waited for says."""

from __future__ import annotations

import pytest

from parallel_core.analysis.wait_for import Stand, State
from parallel_core.deadlock.finding import BUFFERED, CURED, PASSING, STRICT, find_in_training
from parallel_core.deadlock.report import StrictView
from parallel_core.deadlock.request import StrictRun
from parallel_core.fields import PlanError
from parallel_core.pipeline.order import Order

ONE_F_ONE_B = Order.parse("F0 F1 B0 B1\nF0 B0 F1 B1")
GPIPE = Order.parse("F0 F1 B0 B1\nF0 F1 B0 B1")


def followed(asked, pool):
    """What the view of a run makes of its events, and how far it said to be after each."""
    view, far = StrictView(asked), []
    with pool.start(*asked.order) as run:
        for event in run.events():
            view.feed(event)
            far.append(view.done)
        run.wait(60)
    return view.finish(), far


@pytest.mark.live
@pytest.mark.parametrize("passing", PASSING)
@pytest.mark.parametrize("order", [ONE_F_ONE_B, GPIPE], ids=["1f1b", "gpipe"])
def test_what_is_followed_is_what_is_found(order, passing, pool):
    """The same verdicts, circle, losses and calls as finding.py, which starts a run itself."""
    asked = StrictRun.of_order(order, passing)
    told, far = followed(asked.checked(), pool)
    how = {"cured": passing == CURED, "buffered": passing == BUFFERED}
    found = find_in_training(asked.plan, pool, **how)
    assert (told.written, told.ran, told.losses) == (found.written, found.ran, found.losses)
    assert told.sentence == found.sentence and asked.program == found.program
    assert (told.graph is not None) == (order is ONE_F_ONE_B and passing == STRICT)
    calls = [[(s.rank, s.op, s.where, s.seq) for s in t.trace.spans] for t in (told, found)]
    assert calls[0] == calls[1]
    assert told.trace.provenance.notes == found.trace.provenance.notes
    assert far == [0.25, 0.5, 0.75, 1.0]


def test_a_legal_program_that_hung_has_its_calls_checked():
    """Where the kernels do not what was written, `check` is asked about what they did."""
    view = StrictView(StrictRun.of_order(GPIPE))
    meets = {"op": "send", "what": "m", "axis": "p2p", "number": 1, "t_post": 1, "t_met": 0}
    stands = []
    for rank in range(2):
        members, channel = (rank, 1 - rank), f"{rank} to {1 - rank}"
        posted = {channel: (1, "send")}
        stand = Stand(
            rank=rank, state=State.WAITS, op="send", what="m", channel=channel,
            members=members, number=1, posted=posted,
        )  # fmt: skip
        stands.append(stand.as_json())
    for rank in (1, 0):
        posts = [{**meets, "members": [rank, 1 - rank]}]
        view.feed({"rank": rank, "event": "deadlock", "stands": stands, "posts": posts})
    told = view.finish()
    assert told.legal and told.graph.circle == (0, 1)
    assert told.ran == "from rank 0 to rank 1 there are 1 more sends than receives"


def test_a_request_says_its_command_and_refuses_nonsense():
    """The flag of how messages pass, none for the usual; an order that cannot run is refused."""
    said = [StrictRun.of_order(GPIPE, passing).command("mine.txt") for passing in PASSING]
    base = "shardlab deadlock --file mine.txt"
    assert said == [base, f"{base} --buffered", f"{base} --cured"]
    with pytest.raises(PlanError, match="passing"):
        StrictRun.of_order(GPIPE, "soon")
    with pytest.raises(PlanError, match="cannot run"):
        StrictRun.of_order(Order.parse("B0 F0\nF0 B0"))
