"""Workers of different speeds on real ranks: who is old, who waits, and that the run says so."""

from __future__ import annotations

import pytest
from parameter_server_runs import Ran, asked, plan_of, run_all

from parallel_core.cli.summary import print_summary
from parallel_core.parameter_server_report import PACED
from parallel_core.program import Op
from parallel_core.trace import Trace

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def four(pool) -> dict[str, Ran]:
    """Runs of four workers, one of them slow."""
    straggling = plan_of("async", speeds="1,1,1,3", pace_ms=80)
    raw = asked(plan_of("async"), parity=False)
    return run_all(pool, {"straggler": asked(straggling, 16, parity=False), "raw": raw})


@pytest.fixture(scope="module")
def two(pool) -> dict[str, Ran]:
    """Runs of two workers, one of them slow."""
    plain = plan_of("async", dp=2, global_batch=4)
    bounded = plain.but(speeds="1,4", pace_ms=10, staleness_bound=1)
    return run_all(
        pool,
        {
            "bounded": asked(bounded, 5),
            "thrice": asked(plain.but(speeds="1,3", pace_ms=100), 6, parity=False),
            "waiting": asked(plain.but(pace_ms=100), 3, parity=False),
        },
    )


def test_a_straggler_is_old_and_the_others_young(four):
    """Three times slower, as the clock of this machine lets it be: 9 and 2.3, in the mean 3.

    What it is exactly follows from who pushed how often, which the run says itself.
    """
    ran = four["straggler"]
    found = ran.report["staleness"]
    assert found["total"] == found["expected_total"]
    assert found["mean"] == pytest.approx(3, abs=0.35)
    *others, straggler = found["by_worker"]
    first, end = found["settled"]
    settled = ran.report["replay_order"][first:end]
    own = settled.count(3)
    assert straggler == pytest.approx((len(settled) - own) / own, rel=0.3)
    assert 5.5 <= straggler <= 10 and all(1.7 <= other <= 3.2 for other in others)


def test_a_paced_gradient_takes_its_time_and_says_so(four):
    """From the server's word to the end of the backward: at least pace_ms times the speed."""
    ran = four["straggler"]
    assert PACED in ran.view.trace.provenance.badge
    begun = {s.mb: s.t_done for s in ran.spans("recv", "ticket")}
    for span in ran.spans("B", "embed"):
        least = 80e6 * (3 if span.rank == 3 else 1)
        assert span.t_done - begun[span.mb] >= least - 1e6
    assert PACED not in four["raw"].view.trace.provenance.badge


def a_gradient(trace: Trace, rank: int) -> float:
    """Milliseconds of F and B of the four units, in the mean over gradients."""
    spans = [span.duration for span in trace.by_rank[rank] if span.op in (Op.F, Op.B)]
    return 8 * sum(spans) / len(spans) / 1e6


def test_every_clock_knows_who_is_slow(two):
    """On a device of its own, and in the model, a gradient of the straggler takes three times.

    A machine that is busy stretches what it really computes, and sends while a worker would have
    slept: so on own devices only the least is sure.
    """
    view = two["thrice"].view
    own, model = view.own_device(), view.model()
    assert PACED in own.provenance.badge and "compute x 1, 3, 1 by rank" in model.provenance.badge
    fast, slow = (a_gradient(model, rank) for rank in (0, 1))
    assert slow / fast == pytest.approx(3, rel=0.01)
    assert a_gradient(own, 0) > 50 and a_gradient(own, 1) > 200


def test_the_server_sleeps_while_it_waits(two):
    """Whoever comes first wakes it; until then it takes no processor time."""
    waits = two["waiting"].spans("recv", "loss", 2)
    stood, spent = sum(s.duration for s in waits), sum(s.cpu_ns for s in waits)
    assert stood > 100e6
    assert spent < stood / 10


def test_the_bound_holds_on_real_ranks(pool, two):
    """The fast one stays at most one gradient ahead, though the other is four times slower."""
    ran, pushed = two["bounded"], [0, 0]
    order = ran.report["replay_order"]
    for worker in order:
        pushed[worker] += 1
        assert pushed[worker] - min(pushed) <= 2  # ahead by one when it began
    assert max(row["staleness"] for row in ran.report["staleness"]["updates"]) <= 3
    assert ran.parity["max_rel_error"] <= 1e-10
    assert ran.report["staleness"]["expected_mean"] is None
    again = run_all(pool, {"": asked(ran.view.plan, 5, replay_order=order, parity=False)})[""]
    assert again.report["digest"] == ran.report["digest"]


@pytest.mark.parametrize(("run", "says"), [("bounded", False), ("thrice", True)])
def test_the_summary_says_how_stale_and_what_theory_has_to_say_of_it(run, says, two, capsys):
    """W - 1 without a bound; with one there is no such number."""
    print_summary(two[run].view, two[run].report)
    words = capsys.readouterr().out
    assert "versions old on average" in words and ("W-1 = 1" in words) == says
