"""`shardlab parity`: what it lists, whose block it takes, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from parallel_core import own_block
from parallel_core.cli import parity_command
from parallel_core.fields import PlanError
from parallel_core.parity.axes import by_kind
from parallel_core.parity.matrix import cells, parse
from parallel_core.parity.sweep import Outcome, State

WORLD = 8
SAMPLE = f"{Path(__file__).parent / 'own_block_sample.py'}:Block"


@pytest.fixture(scope="module")
def every():
    return cells(WORLD)


# ---------------------------------------------------------------------------- a reader's own block


def test_a_readers_block_has_the_same_matrix():
    """Every cell is there; what needs a slice of the block is refused, and nothing else is."""
    own_block.admit({"block": SAMPLE})
    every = cells(WORLD, SAMPLE)
    assert [c.parts for c in every if len(c.parts) < 3] == [
        c.parts for c in cells(WORLD) if len(c.parts) < 3
    ]
    able = [cell for cell in every if cell.plan]
    assert all("own_block_sample.py:Block@" in cell.plan.model.block for cell in able)
    assert {name for cell in able for name in cell.parts} == {
        *(way.name for way in by_kind()["dp"]),
        *("naive", "gpipe", "1f1b", "interleaved", "pipedream", "full", "accumulate"),
    }
    assert any(len(cell.parts) == 4 for cell in able)
    for cell in able[::7]:
        assert parse(cell.layout).plan == cell.plan
        shorter = ",".join(w for w in cell.layout.split(",") if not w.startswith("block="))
        assert not shorter or parse(shorter, SAMPLE).plan == cell.plan


# ---------------------------------------------------------------------------- the command


def _call(*words):
    return CliRunner().invoke(parity_command.command, words)


def test_the_list_runs_nothing_and_has_every_cell(every, monkeypatch):
    """`--list` names each layout, in JSON with the text that runs it and the reason it is not."""
    monkeypatch.setattr(parity_command, "Pool", None)
    told = json.loads(_call("--list", "--json").output)["cells"]
    assert [cell["name"] for cell in told] == [cell.name for cell in every]
    assert all(bool(cell["layout"]) != bool(cell["message"]) for cell in told)
    assert "zero-2 + sp" in _call("--list").output


def test_anything_off_ends_with_code_1(monkeypatch):
    """A red cell is told with its layout, and the command fails; without one it does not."""
    cell = parse("dp=2")

    def fake(state):
        return lambda every, pool: iter([Outcome(cell=cell, state=state, message="step 0, it is")])

    monkeypatch.setattr(parity_command, "sweep", fake(State.OFF))
    red = _call("--layout", "dp=2")
    assert red.exit_code == 1 and "step 0, it is" in red.output and "--layout dp=2" in red.output
    monkeypatch.setattr(parity_command, "sweep", fake(State.EQUAL))
    assert _call("--layout", "dp=2").exit_code == 0
    monkeypatch.setattr(parity_command, "sweep", fake(State.REFUSED))
    none = _call("--layout", "dp=2")
    assert none.exit_code == 1 and "nothing was compared" in none.output


def test_what_was_found_before_an_interrupt_is_shown(monkeypatch):
    """The whole matrix takes minutes: ended early, it says how far it came."""

    def sweep(every, pool):
        yield Outcome(cell=every[0], state=State.EQUAL, errors={"loss": 1e-15})
        raise KeyboardInterrupt

    monkeypatch.setattr(parity_command, "sweep", sweep)
    done = _call("--only", "alone", "--world", "2")
    assert done.exit_code != 0 and "1 of 1 layouts equal one process" in done.output
    assert "layouts had their turn" in done.output


def test_layouts_that_are_all_refused_are_told_with_their_reasons(every):
    """Also where a sample of them is asked for; naming layouts and choosing some do not mix."""
    long = max((cell for cell in every if cell.plan is None), key=lambda cell: len(cell.name))
    told = _call("--only", long.name, "--sample", "3")
    assert told.exit_code == 1 and long.refused in told.output
    assert _call("--layout", "dp=2", "--only", "tp").exit_code == 2


BAD = """
from torch import nn
class Block(nn.Linear):
    def __init__(self, hidden):
        super().__init__(hidden, 2)
"""


@pytest.mark.parametrize(
    ("layout", "says"),
    [("dp=2,dtype=float32", "rounds more"), ("dp=2,parameter_server=sync", "truth of its own")],
)
def test_what_cannot_be_held_against_one_process_to_the_last_bits_is_told(layout, says):
    """Before it runs, rather than called off for its rounding."""
    error = _call("--layout", layout).exception
    assert isinstance(error, PlanError) and says in str(error)


def test_the_command_takes_a_readers_block(tmp_path):
    """By its own option, and in the text of a layout that it printed before."""
    told = json.loads(_call("--block", SAMPLE, "--list", "--json").output)["cells"]
    (text,) = {cell["layout"] for cell in told if cell["name"] == "zero-3 + 1f1b"}
    assert "own_block_sample.py:Block@" in text and "zero=3" in text
    assert "1 layouts" in _call("--layout", text, "--list").output
    gone = _call("--block", "nowhere.py:Block", "--list").exception
    assert isinstance(gone, PlanError) and "names no file" in str(gone)
    (tmp_path / "bad.py").write_text(BAD)
    bad = _call("--block", f"{tmp_path / 'bad.py'}:Block", "--list").exception
    assert isinstance(bad, PlanError) and "must keep the shape" in str(bad)
