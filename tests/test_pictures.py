"""The picture in a builder's docstring is the order that its program runs."""

from __future__ import annotations

import re

import pytest

from parallel_core import data
from parallel_core.data import bucketed, naive, step
from parallel_core.plan import Plan
from parallel_core.program import Lane

BUILDERS = {"naive": naive, "bucketed": bucketed, "bucketed by itself": step}


@pytest.mark.parametrize("name", BUILDERS)
def test_the_picture_in_its_docstring_is_true(name):
    """First line: the plan; then one list of labels a lane (mb0 is left out of a lone microbatch)."""
    text = BUILDERS[name].__doc__
    head = re.search(r"^    (layers=.*)$", text, re.M)
    plan = Plan.of(
        dp_method=name.split()[0], **{k: float(v) for k, v in re.findall(r"(\w+)=(\S+)", head[1])}
    )
    program = data.program(plan).ranks[0]
    for lane in Lane:
        picture = re.search(rf"^    {lane.value} +((?:.*\n)(?:     .*\n)*)", text, re.M)
        drawn = [part.strip() for part in re.split(r",\s*", picture[1].strip())] if picture else []
        alone = plan.microbatches == 1
        ran = [
            i.label.removesuffix(" mb0") if alone else i.label for i in program if i.lane == lane
        ]
        assert drawn == ran
