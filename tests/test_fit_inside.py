"""The link that a run is replayed over is fitted to the messages inside its tasks as well."""

import pytest

from parallel_core.cases import program_of
from parallel_core.cost import Link
from parallel_core.plan import Plan
from parallel_core.replay import fit_link, model_cost
from parallel_core.simulate import simulate

LINK = Link(alpha=1e-4, beta=1e8)
LAYOUTS = ({"tp": 2}, {"tp": 4}, {"tp": 2, "sp": True}, {"tp": 2, "sp": True, "overlap_tp": True})


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_the_link_of_a_simulated_run_is_found_again(layout):
    """Nearly all bytes of a tensor-parallel step travel inside tasks."""
    plan = Plan.of(layers=2, **layout)
    program = program_of(plan)
    found = fit_link(simulate(program, model_cost(plan, link=LINK)), program)
    assert found.alpha == pytest.approx(LINK.alpha, rel=0.01)
    assert found.beta == pytest.approx(LINK.beta, rel=0.01)
