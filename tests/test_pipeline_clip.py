"""Clipping in a pipeline: one norm over all stages, every weight counted once."""

from __future__ import annotations

import pytest
from pipeline_runs import dressed, run_all

from parallel_core.plan import Plan, PlanError

CLIP = 0.05
PLAIN = {"clip": CLIP, "optimizer": "sgd", "lr": 0.5}  # AdamW would not notice a wrong factor


@pytest.mark.live
def test_a_clipped_pipeline_trains_the_model_of_one_process(pool):
    """A stage a rank, two of them, a copy of every weight or of a tied table alone: no norm is
    counted twice, and it is large enough to clip."""
    plans = [
        dressed(schedule, 2, 4, dress, **PLAIN)
        for schedule in ("1f1b", "zb-v", "dualpipe")
        for dress in (0, 1)
    ]
    for ran in run_all(pool, plans):
        norms = [row["grad_norm"] for row in ran.results[0]["metrics"]]
        assert min(norms) > 2 * CLIP, "nothing would be clipped"
        assert ran.parity["max_rel_error"] <= 1e-10, (ran.plan, ran.parity)
        assert "parameters" in ran.parity["counted"]


def test_no_clipping_where_stages_are_updated_alone():
    """PipeDream never has all gradients at once: refused, not ignored."""
    with pytest.raises(PlanError, match="needs the norm of all stages at once") as error:
        Plan.of(pp=2, schedule="pipedream", microbatches=4, clip=CLIP)
    assert error.value.nearest == "none"
