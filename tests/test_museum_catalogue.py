"""The museum's catalogue is whole, and nothing but a visit can switch a bug on."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from parallel_core.cases import CASES
from parallel_core.cli.museum_command import command
from parallel_core.fields import PlanError
from parallel_core.museum.exhibit import WITNESSES
from parallel_core.museum.exhibits import EXHIBITS, ROOMS
from parallel_core.museum.request import OTHER, Visit
from parallel_core.plan import Plan, flat_fields
from parallel_core.request import Request

every_exhibit = pytest.mark.parametrize("name", EXHIBITS)
CORE = Path(__file__).parent.parent / "parallel_core"

# -- nothing else can switch a bug on --------------------------------------------------------------


def test_no_plan_and_no_request_has_a_field_for_a_bug():
    """What a URL, a command line or a job can say names no bug, and no kernels."""
    names = {*flat_fields(), *Request.of().args}
    assert not names & {"bug", "planted", "make", "museum", *EXHIBITS}
    for name in ("bug", "planted", "make"):
        with pytest.raises(PlanError):
            Plan.of(**{name: "loss-times-cp"})
        with pytest.raises(PlanError):
            Request.of(**{name: "loss-times-cp"})
    assert all("museum" not in case.live for case in CASES.values())


def test_only_the_museum_knows_its_switches():
    """In the core nothing outside of the folder imports them but its command; there is no
    environment variable and no global in them."""
    for path in CORE.rglob("*.py"):
        inside, text = path.parent.name == "museum", path.read_text()
        if not inside and path.name != "museum_command.py":
            assert "parallel_core.museum" not in text, path
        if inside:
            assert "import os" not in text and "getenv" not in text and "global " not in text
            loads = any(
                isinstance(node, ast.ImportFrom) and node.module == "parallel_core.museum.planted"
                for node in ast.walk(ast.parse(text))
            )
            assert not loads or path.name == "ranks.py"


def test_predicting_pages_never_load_the_switches():
    """The catalogue, a visit and its report are read without torch."""
    code = (
        "import sys, parallel_core.museum.report, parallel_core.cli.museum_command;"
        "assert 'torch' not in sys.modules;"
        "assert 'parallel_core.museum.planted' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_every_exhibit_has_a_switch_and_every_switch_is_shown():
    """The catalogue and the switches are the same list; a bug nobody knows is refused."""
    from parallel_core.kernels import TrainKernels
    from parallel_core.museum.planted import SWITCHES, planted

    assert set(SWITCHES) == set(EXHIBITS)
    with pytest.raises(PlanError, match="is no bug of the museum"):
        planted(TrainKernels, "off-by-one")
    made = planted(TrainKernels, "loss-times-cp")
    assert made.planted == "loss-times-cp" and not hasattr(TrainKernels, "planted")


# -- the catalogue, the command --------------------------------------------------------------------


@every_exhibit
def test_an_exhibit_is_whole(name):
    """Every sentence is there, its layouts are plans, its sources are public addresses."""
    exhibit = EXHIBITS[name]
    for words in (exhibit.wrong, exhibit.silent, exhibit.shows, exhibit.cure):
        assert words.endswith(".") and "  " not in words and len(words) > 30
    assert exhibit.plan().world_size in (2, 4) and exhibit.plan(**exhibit.asleep) != exhibit.plan()
    assert exhibit.sources and exhibit.notices <= set(WITNESSES)
    for source in exhibit.sources:
        assert source.url.startswith("https://github.com/") and source.said
    assert Visit(bug=name).command() == f"shardlab museum --bug {name}"
    assert Visit(bug=name).plan("sgd", OTHER).seed == 1


def test_the_command_lists_every_bug_and_loads_no_run():
    """By rooms; as JSON too."""
    said = CliRunner().invoke(command, [])
    assert said.exit_code == 0
    assert all(name in said.output for name in EXHIBITS)
    assert all(room in said.output for room in ROOMS)
    listed = json.loads(CliRunner().invoke(command, ["--json"]).output)
    assert [each["bug"] for each in listed] == list(EXHIBITS)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--steps", "3"], "name a --bug"),
        (["--asleep"], "name a --bug"),
        (["--bug", "expert-times-ep"], "the nearest value that works is experts-times-ep"),
    ],
)
def test_what_is_no_visit_is_refused_in_one_sentence(words, says):
    """An option of a visit without one, and a bug that is not shown."""
    said = CliRunner().invoke(command, words)
    assert isinstance(said.exception, PlanError) and says in str(said.exception)
