"""A whole training under NCCL's semantics: what hangs in line is found live, as check says it."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from parallel_core.cli.deadlock_command import command
from parallel_core.deadlock.finding import LEGAL, find_in_training, verdict
from parallel_core.deadlock.layouts import case_of_layout
from parallel_core.fields import PlanError
from parallel_core.parity.matrix import parse
from parallel_core.program import Lane

live = pytest.mark.live
SOON = 5.0  # seconds from the moment all ranks have met
LAYOUTS = {  # layout -> whether its messages in line with its tasks hang
    "pp=2,schedule=1f1b,microbatches=4,tied=false": True,
    "pp=2,schedule=gpipe,microbatches=4,tied=false": False,
    "pp=2,schedule=gpipe,microbatches=4,tied=true": True,  # both ends send their table first
    "dp=2,zero=3": False,
    "cp=2": False,
    "tp=2,sp=true": False,
    "dp=2,ep=2,experts=4": False,
}


def training(text, pool, **how):
    """What was found of a training, two steps of it."""
    return find_in_training(parse(text).plan, pool, steps=2, **how)


@live
@pytest.mark.parametrize("text", LAYOUTS)
def test_a_training_hangs_in_line_just_where_check_says_so(text, pool):
    """One lane a rank and strict messages, with the kernels of every run: the two verdicts are one,
    and what hangs hangs in the very messages that check names."""
    found = training(text, pool)
    assert (found.written != LEGAL) == (found.graph is not None) == LAYOUTS[text]
    if found.graph is None:
        assert found.ended == (0, 1) and len(found.losses) == 2
        return
    assert set(found.graph.circle) == {0, 1} and found.seconds < SOON and found.losses == ()
    for stand in found.graph.stands:
        words = stand.what
        assert f"rank {stand.rank} (compute) waits at {stand.op} {words} <" in found.written


@live
def test_what_hangs_in_line_trains_with_lanes_or_where_sends_return_at_once(pool):
    """The same losses by both, and GPipe's, which never hung: strictness changes no number."""
    tight, loose = (f"pp=2,schedule={s},microbatches=4,tied=false" for s in ("1f1b", "gpipe"))
    cured, buffered = training(tight, pool, cured=True), training(tight, pool, buffered=True)
    strict = training(loose, pool)
    assert cured.losses == buffered.losses == strict.losses and len(cured.losses) == 2
    assert cured.written == LEGAL != buffered.written
    notes = [f.trace.provenance.notes[0].split(",")[0] for f in (cured, buffered, strict)]
    assert notes == [
        "a lane for each direction",
        "sends return at once",
        "messages wait for each other",
    ]


@pytest.mark.parametrize("text", LAYOUTS)
def test_in_line_only_the_lanes_change(text):
    """The same instructions in the same order; check finds no other fault in them."""
    case = case_of_layout(parse(text).plan)
    before, after = case.cured(), case.careless()
    assert {i.lane for _, _, i in after} == {Lane.COMPUTE}
    moved = [replace(a, lane=b.lane) == b for (*_, a), (*_, b) in zip(after, before, strict=True)]
    assert all(moved) and verdict(before) == LEGAL
    assert verdict(after) == LEGAL or verdict(after).startswith("deadlock: ")


@live
def test_a_readers_own_order_shows_its_deadlock(tmp_path, pool, monkeypatch):
    """From a file, by the command: found, drawn, and named; the exit code is that of a finding."""
    monkeypatch.setattr(
        "parallel_core.cli.deadlock_command.Pool", lambda preload: nullcontext(pool)
    )
    file, svg = tmp_path / "mine.txt", tmp_path / "hang.svg"
    file.write_text("F0 F1 B0 B1\nF0 B0 F1 B1\n")
    said = CliRunner().invoke(command, [f"--file={file}", f"--svg={svg}", "--json"])
    assert said.exit_code == 0, said.output
    found = json.loads(said.stdout)
    assert found["live"]["circle"] == [0, 1] and found["live"]["losses"] == []
    assert {stand["what"] for stand in found["live"]["stands"]} == {"stage0 mb1", "stage1 mb0"}
    assert "rank 1 waits at send stage1 mb0" in "".join(ElementTree.parse(svg).getroot().itertext())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--layout=dp=1"], "waits for nobody"),
        (["--layout=dp=2,parameter_server=async"], "no order that could hang"),
        (["--layout=dp=2", "--case=send-send"], "give one of the two"),
        (["--layout=pp=2", "--cured", "--buffered"], "give one of the two"),
        (["--layout=pipeline"], "must be name=value"),
    ],
)
def test_a_training_that_cannot_be_asked_for_is_refused(words, says):
    """In one sentence, before anything starts."""
    said = CliRunner().invoke(command, words)
    assert isinstance(said.exception, PlanError) and says in str(said.exception)
