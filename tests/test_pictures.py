"""The picture in a builder's docstring is the order that its program runs."""

from __future__ import annotations

import importlib
import re

import pytest

from parallel_core import data
from parallel_core.plan import Plan
from parallel_core.program import Lane

FILES = {"naive": "naive", "bucketed": "bucketed", "step": "bucketed"}  # file -> method


@pytest.mark.parametrize("name", FILES)
def test_the_picture_in_its_docstring_is_true(name):
    """First line: the plan; then a list of labels a lane (mb0 is left out of a lone microbatch)."""
    text = importlib.import_module(f"parallel_core.data.{name}").__doc__
    head = re.search(r"^    (layers=.*)$", text, re.M)
    plan = Plan.of(
        dp_method=FILES[name], **{k: float(v) for k, v in re.findall(r"(\w+)=(\S+)", head[1])}
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
