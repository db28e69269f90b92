"""The bug museum: every bug is red under the probe, silent in the loss, off unless asked for."""

from __future__ import annotations

import json
from collections import defaultdict
from contextlib import nullcontext

import pytest
from click.testing import CliRunner

from parallel_core.cli.museum_command import command
from parallel_core.museum.exhibit import LOSS, PROBE, WITNESSES
from parallel_core.museum.exhibits import EXHIBITS
from parallel_core.museum.report import BOUND, MuseumView, follow, note
from parallel_core.museum.request import PLANTED, RIGHT, Visit
from parallel_core.museum.words import divergence, witness_rows, wrong_tensors

STEPS = 6  # the gradient norm needs a few to part from another seed's by twice
SILENT = 0.01
"""The share by which no bug moves the mean loss under AdamW."""

FACTORS = {"microbatches-undivided": 4, "loss-times-cp": 2}
"""Bugs that are one factor on every gradient."""

every_exhibit = pytest.mark.parametrize("name", EXHIBITS)


# -- live: one run of every exhibit, and of its twin -----------------------------------------------


@pytest.fixture(scope="module")
def reports(pool):
    """The reports by exhibit and optimizer; grouped by world size."""
    waiting = defaultdict(list)
    for name in EXHIBITS:
        visits = [Visit(bug=name, steps=STEPS, optimizer="adamw")]
        if name in FACTORS:
            visits.append(Visit(bug=name, steps=3, optimizer="sgd"))
        waiting[visits[0].order[1]] += visits
    found = {}
    for ranks, visits in waiting.items():
        views = [MuseumView(visit) for visit in visits]
        at = {}
        asked = {"requests": [visit.order[2]["request"] for visit in visits]}
        with pool.start("museum_targets:visit_all", ranks, asked) as run:
            for event in run.events():
                if event["event"] == "visit":
                    at[event["rank"]] = event["number"]
                else:
                    views[at[event.get("rank", 0)]].feed(event)
            results = run.wait(timeout=120)
        for number, (visit, view) in enumerate(zip(visits, views, strict=True)):
            report = view.finish([result[number] for result in results])
            found.setdefault(visit.bug, {})[visit.optimizer] = report
    return found


@pytest.mark.live
@every_exhibit
def test_the_probe_is_red_with_the_bug_and_green_without(name, reports):
    """The twin equals one process, the run with the bug is orders away."""
    for optimizer, report in reports[name].items():
        found = report["optimizers"][optimizer]
        probe = found["witnesses"][PROBE]
        assert probe["right"] <= BOUND < 1e-3 < probe["planted"]
        assert report["planted"] == name, "the run says which bug is in it"
        assert PROBE in found["noticed_by"]


@pytest.mark.live
@every_exhibit
def test_just_the_suspected_tensors_are_wrong(name, reports):
    """No other gradient is off, and each of those is; the worst of all is the probe's error."""
    exhibit = EXHIBITS[name]
    found = reports[name]["adamw"]["optimizers"]["adamw"]
    wrong = {row["name"] for row in wrong_tensors(found)}
    every = [row["name"] for row in found["tensors"][PLANTED]]
    assert wrong == {tensor for tensor in every if exhibit.suspected(tensor)}
    errors = found["witnesses"][PROBE]["errors"]
    assert max(row["error"] for row in wrong_tensors(found)) == pytest.approx(errors["gradients"])


@pytest.mark.live
@every_exhibit
def test_the_loss_says_nothing_under_adamw(name, reports):
    """It moves by less than one in a hundred, and by less than another seed moves it."""
    loss = reports[name]["adamw"]["optimizers"]["adamw"]["witnesses"][LOSS]
    assert loss["relative"] < SILENT and loss["moved"] < loss["seed_moves"]


@pytest.mark.live
@every_exhibit
def test_an_exhibit_says_truly_who_notices(name, reports):
    """What its card claims is what the run found."""
    found = reports[name]["adamw"]["optimizers"]["adamw"]
    assert set(found["noticed_by"]) == EXHIBITS[name].notices


@pytest.mark.live
def test_factors_are_hidden_by_adamw_and_shown_by_sgd(reports):
    """The same factor on every gradient: AdamW's loss moves a ten-thousandth of SGD's."""
    for name, factor in FACTORS.items():
        both = {o: each["optimizers"][o] for o, each in reports[name].items()}
        moved = {o: found["witnesses"][LOSS]["moved"] for o, found in both.items()}
        assert moved["adamw"] < 1e-4 * moved["sgd"]
        found = both["sgd"]
        assert LOSS in found["noticed_by"]
        assert [row["factor"] for row in found["tensors"][PLANTED]] == pytest.approx(
            [factor] * len(found["tensors"][PLANTED])
        )
        assert f"each {factor} times the right one and else the same" in divergence(found)


@pytest.mark.live
def test_a_mistake_in_the_forward_is_told_from_one_behind_it(reports):
    """The first loss gives two of them away, at the far digits; replicas give away three."""
    first = {n: r["adamw"]["optimizers"]["adamw"] for n, r in reports.items()}
    assert {n for n, found in first.items() if not found["forward_right"]} == {
        "positions-contiguous",
        "stages-seeded-alike",
    }
    parted = {
        name
        for name, found in first.items()
        if (told := found["replicas"][PLANTED]) is not None and not told["equal"]
    }
    assert parted == {"context-unsummed", "bucket-early"}
    for found in first.values():
        assert (found["replicas"][RIGHT] or {"equal": True})["equal"]


@pytest.mark.live
def test_every_badge_says_that_a_bug_is_planted(reports):
    """In words, with its name."""
    for name, each in reports.items():
        badge = each["adamw"]["provenance"]["badge"]
        assert badge.startswith("measured: gloo") and "a bug is planted on purpose: " in badge
        assert note(Visit(bug=name)) in badge


@pytest.mark.live
def test_off_by_default_and_asleep_where_the_code_is_right(pool):
    """train() as everybody calls it, with the usual kernels handed over, and with a bug on the
    layout where it sleeps: the same losses, gradients and weights, to the bit."""
    awake = "loss-times-cp"
    plans = [(exhibit.plan(**exhibit.asleep), name) for name, exhibit in EXHIBITS.items()]
    bugs = defaultdict(list)  # bugs that sleep on one layout share its right trainings
    for plan, name in [*plans, (EXHIBITS[awake].plan(), awake)]:
        bugs[json.dumps(plan.flat()), plan.world_size].append(name)
    cases = defaultdict(list)
    for (flat, ranks), names in bugs.items():
        cases[ranks] += [[json.loads(flat), way] for way in ("plain", "made", *names)]
    for ranks, some in cases.items():
        with pool.start("museum_targets:prints", ranks, {"cases": some}) as run:
            for told in run.wait(timeout=120):
                plain = None
                for (flat, way), found in zip(some, told, strict=True):
                    plain = found if way == "plain" else plain
                    is_awake = way == awake and flat["cp"] > 1
                    assert (plain == found) != is_awake, way


# -- the command --------------------------------------------------------------------------------


@pytest.mark.live
def test_the_command_runs_one_and_tells_in_json(pool, monkeypatch):
    """Exit code 0 where the probe tells the two apart; on ranks that are warm already."""
    monkeypatch.setattr("parallel_core.launch.Pool", lambda preload: nullcontext(pool))
    words = ["--bug", "norms-unsummed", "--steps", "2", "--optimizer", "adamw", "--json"]
    said = CliRunner().invoke(command, words, standalone_mode=False)
    assert said.return_value == 0, said.output
    report = json.loads(said.stdout)
    assert report["planted"] == "norms-unsummed"
    assert report["optimizers"]["adamw"]["noticed_by"] == [PROBE]


@pytest.mark.live
@pytest.mark.parametrize(("words", "code"), [([], 0), (["--asleep"], 1)])
def test_the_exit_code_says_whether_it_came_as_told(words, code, reports, monkeypatch):
    """A red probe is what a bug promises that is awake, and what one that sleeps does not."""
    red = reports["norms-unsummed"]["adamw"]
    monkeypatch.setattr("parallel_core.cli.museum_command._live", lambda visit: red)
    asked = ["--bug", "norms-unsummed", "--json", *words]
    assert CliRunner().invoke(command, asked, standalone_mode=False).return_value == code


@pytest.mark.live
def test_a_visit_to_a_sleeping_bug_finds_nothing(pool):
    """The bug is in the run, and says so; nobody notices, since the code is right there."""
    visit = Visit(bug="norms-unsummed", steps=2, optimizer="adamw", asleep=True)
    report = follow(visit, pool)
    found = report["optimizers"]["adamw"]
    assert report["planted"] == "norms-unsummed" and found["noticed_by"] == []
    assert found["witnesses"][LOSS]["moved"] == 0 and not wrong_tensors(found)
    assert divergence(found) == "Of 21 gradients of the first step none are wrong."
    assert visit.command().endswith("--steps 2 --optimizer adamw --asleep")


@pytest.mark.live
def test_the_probe_that_judges_is_the_one_of_every_run(reports):
    """A witness table has the three witnesses, and says no where nothing moved."""
    found = reports["experts-times-ep"]["adamw"]["optimizers"]["adamw"]
    rows = witness_rows(found)
    assert [row["witness"] for row in rows] == list(WITNESSES)
    assert [row["notices"] for row in rows] == ["no", "no", "yes"]
