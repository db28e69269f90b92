"""Every bench in one report: none is lost to another that fails, and the page says everything."""

from __future__ import annotations

import inspect
import json
import re

import click
import pytest
from click.testing import CliRunner

from parallel_core.bench import BENCHES
from parallel_core.bench.all import QUICK, failed, gather
from parallel_core.bench.measurement import Measurement, Report
from parallel_core.cli import bench_all, bench_command
from parallel_core.views.bench_page import _place, page

GOOD = Report(
    "dp",
    "a <bench>",
    {"ours / peer": Measurement.of([1.0, 1.1], "x"), "ours": Measurement.of([2.0], "ms")},
    notes=("a note",),
    warnings=("a doubt",),
)


def make(name, options):
    """A bench that is over at once; that of ZeRO fails."""

    def bench(say):
        say("half way")
        if name == "zero":
            raise RuntimeError("rank 1 failed\nin step 3")
        return GOOD

    return bench


def gathered(*args):
    done = CliRunner().invoke(bench_all.everything(make), list(args))
    return done


def test_a_bench_that_fails_does_not_lose_the_others():
    """Its sentence stands in the place of its report; the exit code tells."""
    done = gathered("--json")
    made = json.loads(done.stdout)
    assert done.exit_code == 1 and list(made["benches"]) == list(BENCHES)
    assert made["benches"]["zero"]["failed"] == "RuntimeError: rank 1 failed in step 3"
    assert failed(made) == ["zero"]
    assert all("rows" in each for name, each in made["benches"].items() if name != "zero")
    assert {"machine", "versions", "date", "load_average", "load_average_after"} <= set(made)


def test_what_is_done_is_kept_after_every_bench(tmp_path):
    """An interrupted gathering leaves what it had."""
    seen = []

    def reported(name, options, say):
        if name == "c":
            raise KeyboardInterrupt
        return GOOD.as_json()

    with pytest.raises(KeyboardInterrupt):
        gather("abc", reported, print, done=lambda whole: seen.append(list(whole["benches"])))
    assert seen == [["a"], ["a", "b"]]
    done = gathered("--only", "dp,start", "--save", str(tmp_path / "x" / "b.json"))
    assert done.exit_code == 0
    assert list(json.loads((tmp_path / "x" / "b.json").read_text())["benches"]) == ["dp", "start"]


def test_progress_names_the_bench_and_how_many_there_are():
    """One line a word of the bench."""
    said = []
    gather(["dp"], lambda name, options, say: say("half way") or GOOD.as_json(), said.append)
    assert said == ["1 of 1, dp: starting", "1 of 1, dp: half way"]


def test_quick_options_are_taken_by_every_bench():
    """A misspelt option of a quick bench would raise here, before anything runs."""
    assert set(QUICK) == set(BENCHES)
    for name, options in QUICK.items():
        assert callable(bench_command._bench(name, dict(options)))
    given = []
    gather(QUICK, lambda name, options, say: given.append(options) or {}, print, quick=True)
    assert given == list(QUICK.values())
    assert inspect.isfunction(gather)


def test_a_name_that_is_no_bench_is_told():
    """With those that are."""
    done = gathered("--only", "dpp")
    assert done.exit_code == 2 and "no such bench" in done.output
    with pytest.raises(click.UsageError):
        bench_all.chosen("dpp")


def test_the_page_needs_nothing_and_says_everything(tmp_path):
    """No script, no address; strangers' text is escaped; failures, doubts and notes are on it."""
    file = tmp_path / "b.html"
    gathered("--only", "dp,zero", "--html", str(file))
    text = file.read_text()
    assert "<script" not in text and not re.search(r"(src|href)=\"http", text)
    assert "default-src 'none'" in text and "a &lt;bench&gt;" in text
    for words in (
        "Failed: RuntimeError",
        "a note",
        "a doubt",
        "1.05 x",
        "1 to 1.1",
        "load average",
    ):
        assert words in text
    assert text.count("<svg") == 1  # of the ratio alone


def test_a_ratio_is_drawn_where_it_belongs():
    """1 in the middle, twice and half as far from it, what is beyond at the end."""
    middle = _place(1.0)
    assert _place(2.0) - middle == pytest.approx(middle - _place(0.5))
    assert _place(100.0) == _place(4.0) and _place(1e-12) == _place(0.25)


def test_the_page_of_an_unfinished_gathering_says_so():
    """`--html` is written after each bench too."""
    whole = gather(["dp"], lambda name, options, say: make(name, {})(say).as_json() | LOAD, print)
    del whole["load_average_after"]
    assert "not finished" in page(whole)


LOAD = {"load_average": [0.5, 0.5, 0.5]}
