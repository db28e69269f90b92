"""The collective studio's page: asks first, tells what cannot be, runs for real, races."""

from __future__ import annotations

import re
from functools import partial

import pages
import pytest
from pages import button, charts, fragments, headings, payloads, until, words
from screens import studio, studio_controls, studio_runs

from parallel_core.cli import collective_command
from parallel_core.collectives import CollectiveError, Group, algorithms, build
from parallel_core.collectives.request import CollectiveRequest
from parallel_core.trace import Kind

open_page = partial(pages.open_page, "studio")
skipped = partial(pages.skipped, "studio")
no_run_is_left = pages.no_run_is_left  # the fixture, for this file


def shown(at):
    """The payload of the one studio on the page."""
    (found,) = payloads(at)
    return found


def test_the_answer_stays_hidden_until_the_reader_has_guessed():
    """Before: the question. After: the model's scene at once, the curve, and how far off."""
    at = open_page()
    assert "how many times S" in words(at) and not headings(at)
    assert not at.get("bidi_component") and not at.get("plotly_chart")
    at.number_input(key="studio.number").set_value(3.0).run()
    button(at, "Lock my guess").click().run()
    assert headings(at) == ["The scene", "What it costs"]
    assert "You said 3 × S; it is 1.5 × S." in words(at) and "2 times too high" in words(at)
    scene = shown(at)["scenes"][0]
    assert (scene["kind"], scene["n"], len(scene["messages"])) == (Kind.MODELLED, 4, 24)
    assert scene["least"] == [1.5 * 2**20, "2(n-1)/n S"]


@pytest.mark.parametrize(("op", "algorithm"), list(algorithms()))
def test_every_algorithm_of_the_table_has_its_scene(op, algorithm):
    """Nothing but the table is needed: each opens by its address and draws all of its messages."""
    at = skipped(op=op, algorithm=algorithm, bytes="64KiB")
    assert not at.error
    program = build(op, algorithm, Group(4))
    sends = sum(instr.op == "send" for _, _, instr in program)
    assert len(shown(at)["scenes"][0]["messages"]) == sends
    assert f"shardlab collective {op} --algorithm {algorithm}" in " ".join(
        code.value for code in at.code
    )


def test_ranks_that_an_algorithm_refuses_are_told_with_what_works():
    """Recursive doubling among six: one sentence; one press takes four ranks."""
    at = open_page(op="all_gather", algorithm="doubling", ranks=6)
    assert "n must be a power of two; n=6 is none, 4 and 8 are the nearest." in at.error[0].value
    assert not at.get("bidi_component")
    button(at, "Use 4 ranks").click().run()
    assert not at.error and at.number_input(key="ranks").value == 4
    with pytest.raises(CollectiveError):
        build("all_gather", "doubling", Group(6))


def test_a_refused_rival_is_told_too():
    """The race needs both: nodes of two need an even number of ranks."""
    at = open_page(ranks=5, against="hierarchical")
    assert "full nodes" in at.error[0].value
    button(at, "Use 4 ranks").click().run()
    assert not at.error


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"op": "shuffle"}, "op=shuffle is no choice here"),
        ({"algorithm": "tree", "op": "all_to_all"}, "algorithm=tree is no choice here"),
        ({"ranks": "many"}, "must be a whole number"),
        ({"ranks": "4000"}, "must be from 2 to 32 on this page"),
        ({"bytes": "1XiB"}, "must be a number and a unit"),
        ({"bytes": "1022"}, "must be a multiple of the 4 bytes of one float32"),
        ({"root": "7"}, "must be below ranks=4"),
        ({"network": "<b>"}, "is no choice here"),
    ],
)
def test_nonsense_in_the_url_is_one_sentence(query, says):
    """Never taken, never dropped without a word."""
    at = open_page(**query)
    assert not at.exception
    assert says in at.error[0].value.replace("\\", "")


def test_a_size_that_does_not_divide_is_mended_by_one_press():
    """The nearest multiple of the element's width."""
    at = open_page(bytes="1022")
    button(at, "Use bytes=1020").click().run()
    assert not at.error and not at.exception
    assert at.selectbox(key="bytes").value == "1020"


def test_a_torus_is_drawn_as_one_and_its_links_are_waited_for():
    """The network's own layout; messages take its links; the badge names it."""
    at = skipped(op="all_to_all", algorithm="direct", ranks=8, network="torus", link="ici-v5p")
    data = shown(at)
    scene = data["scenes"][0]
    assert (data["layout"], scene["fabric"]["shape"]) == ("grid", [4, 2])
    assert any(len(row[-1]) > 2 for row in scene["messages"])
    assert "torus:4x2 of TPU v5p ICI" in scene["badge"]
    assert "Your runs are not drawn" in words(at)
    lines = next(code.value for code in at.code if "shardlab" in code.value).splitlines()
    assert lines[1].endswith("--simulate --topology torus:4x2 --link ici-v5p")
    known = {option for param in collective_command.command.params for option in param.opts}
    assert set(re.findall(r"--\w+", lines[1])) <= known


@pytest.mark.parametrize("network", [name for name in studio_controls.NETWORKS if name[0] != "a"])
def test_every_network_fits_every_number_of_ranks(network):
    """Primes too: a torus of one row, nodes of one rank."""
    for ranks in (2, 3, 6, 7, 16):
        request = CollectiveRequest(ranks=ranks)
        wire = studio_controls.WIRES["nvlink4"]
        assert studio_controls._network(network, request, wire).ranks == ranks


def test_a_layout_in_the_url_is_kept():
    """A teacher can hand out a position: layout and choices stand in the address."""
    assert shown(skipped(layout="mesh"))["layout"] == "mesh"
    assert shown(skipped(layout="<b>"))["layout"] == "ring"
    assert shown(skipped(algorithm="tree"))["layout"] == "tree"


def test_two_algorithms_race_on_one_clock_and_their_lines_cross():
    """Modelled at once: two scenes, the difference in words, the crossover on the curve."""
    at = skipped(algorithm="tree", against="ring", ranks=8)
    data = shown(at)
    assert [scene["title"] for scene in data["scenes"]] == ["tree", "ring"]
    assert "times as fast" in data["race"] and headings(at)[0] == "The race"
    texts = [note["text"] for note in charts(at)[0]["layout"]["annotations"]]
    (cross,) = [text for text in texts if "cross at" in text]
    assert cross.startswith("tree and ring cross at ")


def test_quoted_curves_are_drawn_as_quoted_with_their_error():
    """Eight B200, dotted and named; what one line is off by stands beside it."""
    at = skipped(quoted="true")
    names = {trace.get("name"): trace for trace in charts(at)[0]["data"]}
    assert names["8 B200, NCCL (quoted)"]["line"]["dash"] == "dot"
    assert "No single line fits NCCL" in words(at)


def test_a_barrier_moves_nothing_and_the_page_says_so():
    """Its question is how many messages; it has no curve."""
    at = skipped(op="barrier")
    assert "**Answer:** 8 messages." in words(at)
    assert "size does not matter" in words(at) and not charts(at)


def test_the_command_line_carries_what_is_not_usual():
    """Options at their defaults are left out."""
    request = CollectiveRequest(op="reduce", algorithm="tree", root=2, dtype="int64", bytes=800)
    assert studio.command(request) == (
        "shardlab collective reduce --algorithm tree --ranks 4 --bytes 800 --root 2 --dtype int64"
    )


@pytest.mark.live
def test_a_race_runs_on_real_processes_and_keeps_its_word():
    """One press, two runs: measured scenes in true time, the promise, torch, bytes to the byte;
    a link to it opens on the runs; runs of small and large buffers fit the machine's link."""
    at = open_page(ranks=2, bytes="64KiB", against="naive")
    button(at, "Race ring against naive").click().run()
    at = until(at, lambda page: len(page.session_state["studio.kept"]) == 2)
    at = at.run()
    data = shown(at)
    assert [scene["kind"] for scene in data["scenes"]] == [Kind.MEASURED] * 2
    assert data["scenes"][0]["model"] and "gloo, 2 ranks" in data["scenes"][0]["badge"]
    page = fragments(at)
    assert "promise kept" in page and "equal to the bit on all ranks" in page
    assert "**equal, to the byte**" in words(at)
    dots = [trace for trace in charts(at)[0]["data"] if trace["name"] == "measured"]
    assert [label for trace in dots for label in trace["text"]] == ["#1", "#2"]

    at.radio(key="show").set_value("modelled").run()
    assert {scene["kind"] for scene in shown(at)["scenes"]} == {Kind.MODELLED}

    run = at.query_params["run"]
    run = run if isinstance(run, str) else run[0]
    other = open_page(ranks=2, bytes="64KiB", against="naive", run=run)
    assert not other.exception
    assert {scene["kind"] for scene in shown(other)["scenes"]} == {Kind.MEASURED}

    at.selectbox(key="bytes").set_value("4MiB").run()
    button(at, "Run").click().run()
    at = until(at, lambda page: len(page.session_state["studio.kept"]) == 3)
    kept = at.session_state["studio.kept"]
    assert [one.request.bytes for one in kept] == [65536, 65536, 4 << 20]

    button(at.run(), "Forget my runs").click().run()
    assert at.session_state["studio.kept"] == [] and "run" not in at.query_params


def test_the_link_is_fitted_only_from_sizes_far_apart():
    """Two sizes 64 times apart give alpha and beta back; one size leaves the assumed link."""
    link = studio_controls.WIRES["infiniband-ndr"].link

    def kept(number, size):
        request = CollectiveRequest(bytes=size)
        takes = 6 * link.alpha + 1.5 * size / link.beta
        return studio_runs.Kept(number, str(number), request, {"seconds": {"ours": takes}}, None)

    def fitted(*sizes):
        runs = [kept(number, size) for number, size in enumerate(sizes, 1)]
        return studio_runs.fitted(runs)

    assert fitted(1 << 20, 1 << 20) is studio_controls.WIRES["loopback"]
    assert fitted() is studio_controls.WIRES["loopback"]
    wire = fitted(1 << 16, 1 << 22)
    assert (wire.latency, wire.bandwidth) == pytest.approx((link.alpha, link.beta), rel=1e-6)
    assert "runs #1 to #2" in wire.title


def test_a_run_that_nobody_knows_is_told():
    """A link of an earlier server, or nonsense: one sentence, and the page goes on."""
    at = open_page(run="abc-j9")
    assert not at.exception and "not known any more" in at.info[0].value
    assert "run" not in at.query_params
