"""The measurement table: every figure comes off a run, every arrow is judged, none is assumed."""

from __future__ import annotations

import json
import math

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from parallel_core.cases import program_of
from parallel_core.cli.compare_command import command
from parallel_core.compare import curves, layouts, rounds
from parallel_core.compare.expected import CLAIMS, DOWN, SAME, UP, axes, findings
from parallel_core.compare.figures import FIGURES, figures
from parallel_core.compare.layouts import USUAL, Contender, Turns, contenders
from parallel_core.compare.rate import Rate, mfu
from parallel_core.compare.table import table
from parallel_core.fields import PlanError
from parallel_core.ledger import predicted_counts, total_wire_bytes, wire
from parallel_core.live import on_one_link
from parallel_core.plan import Plan
from parallel_core.sizes import value_bytes
from parallel_core.views import compare_curves, compare_table
from parallel_core.views.exposure import use

TINY = {"layers": 2, "hidden": 16, "heads": 2, "seq": 16, "global_batch": 4}
RATE = Rate("one core", 1e9, "made up for a test")


# -- what is compared ------------------------------------------------------------------------------


def test_all_layouts_train_the_same():
    """Whatever the layout, model, batch, type and seed are those of one process."""
    found = contenders(USUAL, {})
    assert [each.name for each in found] == list(USUAL)
    assert len({each.plan.single() for each in found}) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dp", "must be fields and values"),
        ("seq=3", "says what is trained"),
        ("dtype=float64", "says what is trained"),
        ("tpp=2", "is not a field"),
        ("dp=3", "must be a multiple"),
    ],
)
def test_a_layout_that_cannot_be_is_told(text, words):
    """One sentence that names the word and what would do."""
    with pytest.raises(PlanError, match=words):
        contenders([text], {})


def test_curves_may_choose_their_type():
    """What a table must share a curve may not."""
    (found,) = contenders(["dtype=float64"], {}, also=curves.ALSO)
    assert found.plan.dtype == "float64"


@given(st.integers(1, 12), st.integers(1, 12))
def test_every_layout_has_one_turn_a_round(count, many):
    """And over four rounds nobody is always first."""
    turns = list(rounds.order(count, many))
    assert len(turns) == many and all(sorted(turn) == list(range(count)) for turn in turns)
    if count > 1 and many > 1:
        assert len({turn[0] for turn in turns}) > 1


# -- the arrows, on figures made up ----------------------------------------------------------------


def judged(figure, ours, theirs, names=("dp=2", "dp=1")):
    """What becomes of the claims about `figure` where two layouts have these samples of it."""
    found = contenders(names, TINY)
    usual = {name: [1.0] * len(ours) for name in FIGURES}
    samples = {names[0]: {**usual, figure: ours}, names[1]: {**usual, figure: theirs}}
    return [each for each in findings(found, samples) if each.claim.figure == figure]


@pytest.mark.parametrize(
    ("ours", "theirs", "seen"),
    [
        ([2.0, 2.1], [1.0, 1.1], True),
        ([1.0, 1.1], [2.0, 2.1], False),
        ([0.9, 2.0], [1.0, 1.0], False),  # the rounds disagree
        ([1.0, 1.0], [1.0, 1.0], False),
    ],
)
def test_an_arrow_is_seen_where_every_round_says_so(ours, theirs, seen):
    """Up: the whole interval of the paired rounds above."""
    (found,) = judged("own_tokens_per_s", ours, theirs)
    assert (found.claim.arrow, found.seen, bool(found.because)) == (UP, seen, not seen)
    assert ("rounds disagree" in found.because) == (min(ours) < min(theirs) < max(ours))


def test_the_loss_is_the_same_within_rounding_and_not_beyond():
    """float32 allows a ten-thousandth; a layout that trains something else is found out."""
    assert [each.seen for each in judged("loss", [4.00001], [4.0])] == [True]
    (wrong,) = judged("loss", [4.01], [4.0])
    assert not wrong.seen and "4.01 nats where dp=1 has 4 nats" in wrong.because


def test_an_arrow_that_is_not_seen_says_where_the_time_went():
    """Its own figures, before and after; and that ranks shared cores, where they did."""
    (found,) = judged("own_step_ms", [9.0], [5.0], ("tp=2", "dp=1"))
    assert found.claim.arrow == DOWN and not found.seen
    assert "it is 9 ms where dp=1 has 5 ms" in found.because
    assert "computing went from 1 to 1 ms, exposed messages from 1 to 1 ms" in found.because


def test_a_claim_with_nothing_to_hold_it_against_says_what_to_add():
    """It is not passed over in silence."""
    found = contenders(["pp=2"], TINY)
    samples = {"pp=2": {name: [1.0] for name in FIGURES}}
    said = {each.claim.says: each.because for each in findings(found, samples)}
    assert 'add "pp=2,schedule=gpipe"' in said["1F1B lets activations go sooner than GPipe"]
    assert 'add "dp=2"' in said["a pipeline sends less than data parallelism"]


def test_the_usual_layouts_put_almost_every_claim_to_the_test():
    """Each has somebody it is about and somebody against, but those of ZeRO-1, 2 and experts."""
    found = contenders(USUAL, {})
    samples = {each.name: {name: [1.0] for name in FIGURES} for each in found}
    told = list(findings(found, samples))
    assert all("nothing to hold it against" not in each.because for each in told)
    silent = {claim.says for claim in CLAIMS} - {each.claim.says for each in told}
    assert silent == {
        "ZeRO's stages 1 and 2 send no more",
        "expert parallelism divides the state of the experts",
    }


# -- runs ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(pool):
    """Four layouts of a tiny model, two rounds."""
    found = contenders(["dp=1", "dp=2", "dp=2,zero=3", "pp=2"], TINY)
    turns, told = Turns(steps=3, rounds=2), []
    runs = rounds.measure(found, turns, pool, lambda words, share: told.append(share))
    assert told == sorted(told) and told[0] == 0 and told[-1] <= 1
    return found, table(found, runs, turns, RATE), runs


@pytest.mark.live
def test_every_figure_of_every_layout_is_there_and_true(report):
    """Sums that must hold between figures that are measured apart."""
    found, made, _ = report
    for who, row in zip(found, made["rows"], strict=True):
        mine = {name: one["median"] for name, one in row["figures"].items()}
        assert set(mine) == set(FIGURES) and all(map(math.isfinite, mine.values()))
        assert mine["perplexity"] == pytest.approx(math.exp(mine["loss"]))
        assert mine["compute_ms"] <= mine["own_step_ms"] * 1.001
        counts = predicted_counts(program_of(who.plan), value_bytes(who.plan), 1)
        sent = total_wire_bytes(wire(counts, who.plan.mesh.degree)) / who.plan.world_size
        assert mine["sent_bytes"] == pytest.approx(sent)
    assert made["rows"][0]["figures"]["utilisation"]["median"] == pytest.approx(100)


@pytest.mark.live
def test_the_figures_of_a_run_fit_together(report):
    """Speed is tokens over time by either clock; computing and bare messages fit into a step, and
    of a pipeline the wait for a neighbour is neither."""
    found, _, runs = report
    for who in found:
        for run in on_one_link(runs[who.name]):
            mine = figures(run, RATE)
            for clock in ("", "own_"):
                both = mine[f"{clock}tokens_per_s"] * mine[f"{clock}step_ms"]
                assert both == pytest.approx(1e3 * who.plan.tokens_per_step)
            step, work = mine["own_step_ms"], mine["compute_ms"]
            assert work + mine["exposed_ms"] <= step * 1.001
            assert mine["utilisation"] == pytest.approx(100 * work / step, rel=0.02)
            assert mine["mfu"] == pytest.approx(100 * mfu(who.plan, step / 1e3, RATE.peak))
            assert mine["peak_bytes"] == max(
                span.memory for row in run.trace.by_rank for span in row
            )
            waiting = 100 * use(run.own).comm / step
            assert mine["comm_share"] <= waiting
            assert who.plan.pp == 1 or mine["comm_share"] < 0.9 * waiting


@pytest.mark.live
def test_what_does_not_depend_on_the_machine_is_as_the_textbook_says(report):
    """State, bytes and losses; ZeRO-3 sends half as much again."""
    _, made, _ = report
    told = {(each["says"], each["layout"]): each for each in made["expectations"]}
    for key in (
        ("every data-parallel rank holds the whole state", "dp=2"),
        ("ZeRO divides the state", "dp=2,zero=3"),
        ("ZeRO's stage 3 sends more", "dp=2,zero=3"),
        ("a pipeline divides the state", "pp=2"),
        ("the loss does not know how a step was split", "dp=2"),
        ("the loss does not know how a step was split", "pp=2"),
    ):
        assert told[key]["seen"], told[key]
    more = told["ZeRO's stage 3 sends more", "dp=2,zero=3"]["ratio"]["median"]
    assert more == pytest.approx(1.5, rel=0.01)


@pytest.mark.live
def test_the_table_reads_and_says_what_it_rests_on(report):
    """Rows for print, one a layout; the formula; JSON that round-trips."""
    _, made, _ = report
    assert json.loads(json.dumps(made)) == made
    for names in (compare_table.SPEED, compare_table.PRICE):
        rows = compare_table.rows(made, names)
        assert [row["layout"] for row in rows] == ["dp=1", "dp=2", "dp=2,zero=3", "pp=2"]
        assert all(len(row) == len(names) + 1 for row in rows)
    assert "1e+09 FLOP/s a device (made up for a test)" in compare_table.mfu_words(made)
    assert [len(trace.x) for trace in compare_table.bars(made, ["x"]).data] == [4, 4, 4]
    recap = {row["layout"]: row for row in compare_table.recap(made)}
    assert "weights before every use" in recap["dp=2,zero=3"]["synchronises"]
    assert recap["dp=1"]["synchronises"] == "never (0 messages a step)"
    assert recap["dp=1"]["batch"].startswith("any (1 microbatch of")
    assert "(4 messages a step)" in recap["pp=2"]["synchronises"]  # 4 microbatches, there or back
    here = [row["here"] for row in compare_table.expectations(made)]
    assert all(said == "seen" or said.startswith("not seen here, because ") for said in here)


@pytest.mark.live
def test_layouts_coincide_in_float64_and_bfloat16_departs(pool):
    """40 steps of real ranks: rounding alone within a type, eight bits beyond it."""
    words = ["dtype=float64", "dp=2,zero=3,dtype=float64", "pp=2,dtype=float64", "dtype=bfloat16"]
    found = contenders(words, {**curves.SMALL, **TINY}, also=curves.ALSO)
    losses = curves.measure(found, 40, pool, lambda words, share: None)
    made = curves.report(found, losses)
    first, sharded, pipeline, short = made["lines"]
    assert all(len(line["losses"]) == 40 for line in made["lines"])
    assert first["apart"]["most"] == 0
    for line in (sharded, pipeline):
        assert line["apart"]["most"] < 1e-12
    assert 1e-4 < short["apart"]["most"] < 0.5
    assert "gradients in float64" in sharded["reduction"]
    assert "float32 (a master copy)" in short["reduction"]
    assert "In float64, 3 layouts stay within" in compare_curves.in_words(made)
    assert len(compare_curves.losses(made["lines"], ["x"]).data) == 4
    gaps = compare_curves.distances(made["lines"], ["x"]).data
    assert len(gaps) == 3 and all(min(line.y) >= compare_curves.LEAST for line in gaps)


# -- the command -----------------------------------------------------------------------------------


@pytest.mark.live
def test_the_command_prints_one_object():
    """`shardlab compare --json`, on a pool of its own."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
    turns = ["--rounds=1", "--steps=2", "--json"]
    done = CliRunner().invoke(command, ["dp=1", "dp=2", *flags, *turns])
    assert done.exit_code == 0, done.output
    made = json.loads(done.stdout)
    assert [row["name"] for row in made["rows"]] == ["dp=1", "dp=2"]
    assert made["mfu"]["peak"] > 1e8 and made["rows"][1]["figures"]["mfu"]["median"] > 0


@pytest.mark.live
def test_the_command_shows_curves():
    """And in print, with the sentence."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
    layout = ["dtype=float64", "dp=2,dtype=float64", "--curves", "--steps=3"]
    done = CliRunner().invoke(command, [*layout, *flags])
    assert done.exit_code == 0 and "In float64, 2 layouts stay within" in done.output


def test_names_of_axes_and_arrows_are_those_of_the_plan():
    """Every claim names a figure there is, and one of three arrows."""
    assert {claim.figure for claim in CLAIMS} <= set(FIGURES)
    assert {claim.arrow for claim in CLAIMS} == {UP, DOWN, SAME}
    assert axes(Plan.of(dp=2, tp=2)) == ("dp", "tp")
    assert layouts.read("tp=2, dp=2") == {"tp": "2", "dp": "2"}
    assert Contender("dp=1", Plan.of()).plan.world_size == 1
