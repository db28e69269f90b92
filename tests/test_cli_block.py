"""A block of one's own in every command that offers --block: each opens it, or says why not."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from math import prod
from pathlib import Path

import pytest
from click.testing import CliRunner

from parallel_core import own_block
from parallel_core.cli import COMMANDS, shardlab
from parallel_core.fields import PlanError
from parallel_core.launch import RunError
from parallel_core.plan import Plan

SAMPLE = f"{Path(__file__).parent / 'own_block_sample.py'}:Block"


def test_memory_tries_a_readers_block_out():
    """What its layers keep is what the trial found; of rows a textbook names there are none."""
    words = ("--block", SAMPLE, "--dp", "2", "--zero", "3", "--pp", "2", "--json")
    line = [sys.executable, "-m", "parallel_core.cli", "memory", *words]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    own_block.admit(found["plan"])
    tried = own_block.described(Plan.of(**found["plan"]))
    layer = found["units"]["layer0"]
    assert layer["bytes"] == tried.saved > 0
    assert "classic" not in layer and "formula" not in layer
    assert found["params"] > 4 * sum(prod(w.shape) for w in tried.weights)
    assert [row["ranks"] for row in found["ranks"]] == [2, 2]


def _offering() -> list[tuple[str, ...]]:
    """The commands with a --block, by name."""
    found: list[tuple[str, ...]] = []
    for name in COMMANDS:
        command = importlib.import_module(f"parallel_core.cli.{name}_command").command
        under = getattr(command, "commands", {})
        each = {(name,): command} | {(name, sub): c for sub, c in under.items()}
        found += [n for n, c in each.items() if any("--block" in p.opts for p in c.params)]
    return found


def test_it_is_known_who_offers_a_block():
    """A further command with --block has its place here, and in the test below."""
    assert _offering() == [
        *[("run",), ("parity",), ("memory",), ("compare",)],
        *[("bench", "bubble"), ("bench", "recorder")],
    ]


@pytest.mark.parametrize("offering", _offering(), ids="-".join)
def test_every_command_that_offers_a_block_opens_it(offering, monkeypatch):
    """Asked for a class that its file has not, it says so: the file was read, and not refused."""
    monkeypatch.delitem(sys.modules, own_block.LAYER, raising=False)  # as where a command begins
    words = [*offering, "--block", SAMPLE.replace(":Block", ":Absent")]
    words += ["dp=1"] if offering == ("compare",) else []  # its usual layouts cut the lab's block
    with pytest.raises((PlanError, RunError), match="names no class: there is no Absent"):
        CliRunner().invoke(shardlab, words, catch_exceptions=False)


def test_without_that_it_would_be_refused(monkeypatch):
    """Where nothing has opened a block, a plan of one is not even made: so each command must."""
    monkeypatch.delitem(sys.modules, own_block.LAYER, raising=False)
    monkeypatch.setattr(own_block, "admit", lambda fields: None)
    for words in (["memory"], ["bench", "recorder"], ["bench", "bubble"]):
        with pytest.raises(PlanError, match="is code, which only a run opens"):
            CliRunner().invoke(shardlab, [*words, "--block", SAMPLE], catch_exceptions=False)


def test_memory_refuses_what_is_no_block():
    with pytest.raises(PlanError, match="names no file that is here"):
        CliRunner().invoke(
            shardlab, ["memory", "--block", "nowhere.py:Block"], catch_exceptions=False
        )
