"""The studio draws what each value holds, when it moved, and says the same in words."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from collective_groups import TABLE

from parallel_core import places
from parallel_core.collectives import CollectiveError, Group, build
from parallel_core.collectives.clock import collective_cost
from parallel_core.collectives.costs import counted
from parallel_core.collectives.names import chunks
from parallel_core.collectives.promise import promise, term
from parallel_core.cost import Link
from parallel_core.hardware.topologies import topology
from parallel_core.network import Network
from parallel_core.program import Instr, Op, ProgramError, Value
from parallel_core.simulate import simulate_on
from parallel_core.terms import carry
from parallel_core.trace import Kind, Provenance
from parallel_core.views import collective_charts as charts
from parallel_core.views.by_hand import by_hand
from parallel_core.views.hues import CHOSEN, hues
from parallel_core.views.palette import worst_pair
from parallel_core.views.scene import MOST_RANKS, number
from parallel_core.views.scene_words import members, sentences, tree_of
from parallel_core.views.studio import LAYOUTS, Scene, html, payload, show, source

NODE = shutil.which("node")
LINK = Link(alpha=1e-4, beta=1e9)
S = 1 << 20

every_algorithm = pytest.mark.parametrize(("op", "algorithm"), TABLE, ids=lambda word: word)


def groups(op: str, algorithm: str) -> list[Group]:
    """Four ranks and, where the algorithm takes them, six, with a root that is not rank 0."""
    found = []
    for group in (Group(4, root=1), Group(6, root=5)):
        try:
            build(op, algorithm, group)
        except CollectiveError:
            continue
        found.append(group)
    return found


def scene(op: str, algorithm: str, group: Group, network: str = "", **more: Any) -> Scene:
    """A modelled scene of S bytes, on a network if one is named."""
    program = more.pop("program", None) or build(op, algorithm, group)
    placed = Network(topology(network)) if network else None
    cost = collective_cost(program, S, LINK, itemsize=4)
    carried = simulate_on(program, cost, placed, rendezvous=True)
    ends = promise(op, group, chunks(program)).ends
    given = {"hops": carried.hops, "topology": placed and placed.topology} | more
    return Scene(program=program, trace=carried.trace, ends=ends, **given)


def ring(n: int = 4, **more: Any) -> Scene:
    return scene("all_reduce", "ring", Group(n), **more)


# ---- what a value holds


@every_algorithm
def test_by_hand_holds_the_terms_that_the_proofs_carry(op, algorithm):
    """Two interpreters of one program agree on every value of every rank, freed ones included."""
    for group in groups(op, algorithm):
        program = build(op, algorithm, group)
        starts = [[{v: Counter([term(r, v)]) for v in program.holds[r]} for r in group.ranks]] * 2
        ours = by_hand(program, starts[0], lambda bags: sum(bags, Counter()))
        assert ours == carry(program, [dict(held) for held in starts[1]])


@every_algorithm
def test_small_integers_add_up_to_what_is_promised(op, algorithm):
    """Executed on 1 to 9, each value promised is the sum of the inputs that the promise names."""
    for group in groups(op, algorithm):
        told = scene(op, algorithm, group).told
        for rank, ends in enumerate(told.ends):
            for value, terms in ends.items():
                inputs = [number(r, Value(name, (index,))) for name, r, index in terms]
                assert told.numbers[rank][value] == sum(inputs)


@every_algorithm
def test_in_the_end_every_promise_is_ticked_and_not_before_it_is_there(op, algorithm):
    """Each slot that is promised ends right; one that must receive something does not begin so."""
    for group in groups(op, algorithm):
        told = scene(op, algorithm, group).told
        for rank, ends in enumerate(told.ends):
            moments = told.moments(rank)
            for value in ends:
                first, last = (moments[told.slot(rank, value)][at] for at in (0, -1))
                assert last[3] and last[0] <= told.trace.makespan
                if value not in told.program.holds[rank]:
                    assert not first[3] or first[0] > 0


def test_a_rank_counted_twice_is_never_ticked():
    """The planted fault: one addition takes the rank's own chunk in twice, as nobody promised."""
    program = build("all_reduce", "ring", Group(4))
    at = next(i for i, instr in enumerate(program.ranks[2]) if instr.op == Op.ADD)
    wrong = program.ranks[2][at]
    own = next(value for value in wrong.reads if value.name == "x")
    broken = list(program.ranks[2])
    broken[at] = replace(wrong, reads=(own, own))
    ranks = tuple(tuple(broken) if r == 2 else instrs for r, instrs in enumerate(program.ranks))
    told = ring(program=replace(program, ranks=ranks)).told
    chunk = own.at[0]
    slots = [told.moments(rank)[0, "chunk", (chunk,)] for rank in range(4)]
    assert not any(right for moments in slots for *_, right in moments)
    others = [told.moments(0)[0, "chunk", (c,)][-1][3] for c in range(4) if c != chunk]
    assert others == [True] * 3


def test_ranks_that_wait_for_each_other_are_told():
    """A receive that nobody sends ends with a sentence; so does an op that is not spelled out."""
    program = build("send_recv", "shift", Group(2))
    silent = tuple(i for i in program.ranks[0] if i.op != Op.SEND)
    with pytest.raises(ProgramError, match="rank 1 waits at recv step0 for ever"):
        by_hand(
            replace(program, ranks=(silent, program.ranks[1])), [{}, {Value("x", (0,)): 1}], sum
        )
    whole = Instr(op=Op.ALL_REDUCE, axis="r", reads=(Value("x", (0,)),))
    with pytest.raises(ProgramError, match="spell it out"):
        by_hand(replace(program, ranks=((whole,), ())), [{}, {}], sum)


# ---- when it moves


@every_algorithm
def test_a_message_lasts_as_long_as_its_bytes(op, algorithm):
    """No message takes a beat: each takes alpha + bytes/beta from begin to done, to the nanosecond;
    it is ready before it begins, and all bytes the program counts have been drawn."""
    for group in groups(op, algorithm):
        told = scene(op, algorithm, group).told
        for message in told.messages:
            takes = 1e9 * (LINK.alpha + message.bytes / LINK.beta)
            assert message.done - message.begin == pytest.approx(takes, abs=2)
            assert 0 <= message.ready <= message.begin
        total = counted(told.program, S // 4, itemsize=4)
        assert sum(m.bytes for m in told.messages) == total.sent_total
        assert len(told.messages) == total.messages


def test_naive_is_slower_than_the_ring_on_one_clock():
    """What a picture with a beat per step gets wrong: two beats against six, yet the ring wins."""
    naive = scene("all_reduce", "naive", Group(4))
    data = payload(naive, ring())
    assert [s["span"] for s in data["scenes"]] == [naive.trace.makespan, ring().trace.makespan]
    assert data["scenes"][0]["span"] > 3 * data["scenes"][1]["span"]
    assert data["race"].startswith("all_reduce ring n=4 ends 4.72 ms before all_reduce naive n=4")


def test_a_queue_names_whom_it_waits_for():
    """At the receiver's port, at the sender's own, and on a link of the network."""
    gather = scene("gather", "naive", Group(3)).told.messages
    assert [m.why for m in gather] == ["", "450 µs: rank 0 was still taking in what rank 1 sent"]
    cast = scene("broadcast", "naive", Group(3)).told.messages
    assert cast[1].why == "1.15 ms: its own port was still sending to rank 1"
    torus = scene("all_to_all", "direct", Group(8), "torus:4x2").told.messages
    assert any("waited for link" in m.why for m in torus)


def test_on_a_torus_a_message_takes_neighbouring_links():
    """Its way starts at its source, ends at its target when it is done, and never jumps."""
    there = scene("all_to_all", "direct", Group(16), "torus:4x4")
    cables = {frozenset(link) for link in there.topology.links()}
    long = [m for m in there.told.messages if m.way]
    assert long
    for message in long:
        assert (message.way[0][1], message.way[-1][1]) == (message.source, message.target)
        assert message.way[-1][0] == message.done
        assert list(message.way) == sorted(message.way, key=lambda step: step[0])
        assert {frozenset((a, b)) for (_, a), (_, b) in pairwise(message.way)} <= cables


def test_a_value_that_was_handed_on_is_gone():
    """In the ring a partial sum travels: once it has left, the rank shows its own input again."""
    held = [m[1] for m in ring().told.moments(3)[0, "chunk", (0,)]]
    assert [members(bits) for bits in held] == [[3], [1, 2, 3], [3], [0, 1, 2, 3]]


def test_what_waits_to_be_added_stands_beside_the_tile():
    """One-shot takes in three buffers and adds them at the end: they stand there until then."""
    told = scene("all_reduce", "one_shot", Group(4)).told
    standing = told.standing(0)
    assert [value.name for *_, value in standing] == ["got"] * 3
    assert len({until for _, _, until, _ in standing}) == 1
    assert all(since < until or until == since for _, since, until, _ in standing)


# ---- in words


def test_the_words_of_a_ring():
    """Who hands what to whom, whose sum it is, and the arithmetic that follows."""
    said = sentences(ring(3).told)
    assert said[0] == ("message 1 of 12: rank 0 hands chunk 2 (its own) to rank 1, where 2 + 5 = 7")
    assert any("(ranks 0+1 summed)" in line for line in said)
    assert "(all 3 ranks summed)" in said[-1] and "where" not in said[-1]
    for line in said:
        for *operands, total in re.findall(r"(\d+) \+ (\d+) = (\d+)", line):
            assert sum(map(int, operands)) == int(total)


@every_algorithm
def test_every_message_has_its_sentence(op, algorithm):
    """Numbered, with both ranks, for every algorithm."""
    told = scene(op, algorithm, Group(4)).told
    for k, (line, m) in enumerate(zip(sentences(told), told.messages, strict=True), 1):
        assert line.startswith(f"message {k} of {len(told.messages)}: rank {m.source} hands ")
        assert f" to rank {m.target}" in line


def test_a_tree_is_drawn_by_its_own_shape():
    """Parents are those that the tree's messages go through, whichever rank is the root."""
    assert list(tree_of(scene("reduce", "tree", Group(8)).told)) == [-1, 0, 0, 2, 0, 4, 4, 6]
    moved = list(tree_of(scene("broadcast", "tree", Group(4, root=1)).told))
    assert moved[1] == -1 and sorted(moved).count(-1) == 1
    assert list(tree_of(scene("scatter", "tree", Group(4)).told)) == [-1, 0, 0, 2]


def test_above_eight_ranks_there_are_no_numbers():
    """Only textures: no sum is spelled out, no tile has an integer."""
    data = payload(ring(9))["scenes"][0]
    assert {row[3] for row in data["sums"]} == {""}
    assert {
        moment[2] for r in data["ranks"] for slot in r["slots"] for moment in slot["moments"]
    } == {None}
    assert any(row[3] for row in payload(ring(8))["scenes"][0]["sums"])


# ---- the payload


def test_the_payload_is_small_and_the_same_twice():
    """Sixteen ranks, 480 messages: well under a photograph; equal scenes give equal payloads."""
    text = json.dumps(payload(ring(16)))
    assert len(text) < 200_000
    assert text == json.dumps(payload(ring(16)))


def test_a_measured_scene_carries_its_prediction_and_says_it_is_measured():
    """Kind and badge come from the trace; the model's messages lie over it as outlines."""
    model = ring()
    slow = replace(
        model.trace,
        spans=tuple(
            replace(
                s, t_post=2 * s.t_post + 50, t_start=2 * s.t_start + 50, t_done=2 * s.t_done + 50
            )
            for s in model.trace.spans
        ),
        provenance=Provenance(kind=Kind.MEASURED, backend="gloo"),
    )
    data = payload(replace(model, trace=slow, model=model.trace))["scenes"][0]
    assert (data["kind"], data["badge"]) == ("measured", "measured: gloo")
    assert [row[1:] for row in data["model"]] == [[m.begin, m.done] for m in model.told.messages]
    begins = [row[3] for row in data["messages"]]
    assert min(begins) == 0 and data["span"] == 2 * model.trace.makespan


def test_what_cannot_be_drawn_is_told():
    """Too many ranks, several runs at once, three scenes: a sentence with the remedy."""
    with pytest.raises(ValueError, match=f"draw {MOST_RANKS} at most"):
        payload(ring(MOST_RANKS + 1))
    twice = ring()
    again = tuple(replace(s, step=1) for s in twice.trace.spans)
    with pytest.raises(ValueError, match="take one step"):
        payload(replace(twice, trace=replace(twice.trace, spans=twice.trace.spans + again)))
    with pytest.raises(ValueError, match="not 3"):
        payload(twice, twice, twice)


def test_the_chosen_colours_can_be_told_apart():
    """By every eye: eight chunks, and the first four much better; more get a wheel."""
    for dark in (False, True):
        chosen = CHOSEN[dark]
        assert worst_pair(chosen)[0] >= 13 and worst_pair(chosen[:4])[0] >= 24
    for count in (1, 8, 9, 32):
        pairs = hues(count)
        assert len({light for light, _ in pairs}) == count
        assert all(re.fullmatch("#[0-9A-F]{6}", colour) for pair in pairs for colour in pair)


def test_the_page_is_one_file_that_may_run_only_its_own_script():
    """The policy's hash is the script's; a title cannot break out; the notebook keeps a picture."""
    page = html(ring(title="</script><b>x"))
    script = page.split('<script type="module">')[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert "<b>x" not in page
    assert not re.findall(r"(?:src|href)=[\"'](?!data:|\$\{)", page)
    shown = show(ring())
    assert "message 24 of 24" in repr(shown)
    assert "data:image/svg+xml" in shown._repr_mimebundle_()["text/html"]


# ---- the chart


def test_modelled_lines_are_dashed_measured_dots_filled_quoted_lines_dotted():
    """Provenance is drawn, and the words name every mark."""
    line = charts.Curve(name="ring", points=[(1e3, 1e-4), (1e6, 1e-3)], role="chosen")
    paper = charts.Curve(name="8 B200", points=[(1e3, 1e-5), (1e6, 1e-4)], kind=Kind.QUOTED)
    dot = charts.Dot(name="ring", at=(1e5, 3e-4), label="#1", role="chosen")
    meet = charts.Crossing((1e4, 2e-4), "ring and tree cross at 9.77 KiB")
    figure = charts.cost_curve([line, paper], [dot], [meet], badges=["modelled: by hand"])
    found = json.loads(figure.to_json())["data"]
    by = {trace["name"]: trace for trace in found}
    assert by["ring (modelled)"]["line"]["dash"] == "dash"
    assert by["8 B200 (quoted)"]["line"]["dash"] == "dot"
    assert by["measured"]["marker"]["symbol"] == "circle"
    words = charts.describe([line, paper], [dot], [meet])
    assert len(words) == 4 and words[2] == "ring and tree cross at 9.77 KiB."


# ---- JavaScript


@pytest.mark.skipif(NODE is None, reason="needs node: apt install nodejs")
def test_the_studios_own_tests_pass():
    """`node --test`, on the pure functions of the module as it is put together."""
    done = subprocess.run(
        [str(NODE), "--test", str(places.assets() / "studio.test.mjs")],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHON": sys.executable},
    )
    assert done.returncode == 0, done.stdout[-4000:]


def test_nothing_of_the_player_is_written_twice():
    """The module has one of every function: what both need stands in the player alone."""
    names = re.findall(r"^(?:export )?function (\w+)", source(), re.M)
    assert len(names) == len(set(names))
    own = (places.assets() / "studio.js").read_text(encoding="utf-8")
    mine = set(re.findall(r"^(?:export )?(?:function|const|let) (\w+)", own, re.M))
    assert mine.isdisjoint({"timeText", "bytesText", "lastUpTo", "theme", "mix", "ticks", "STYLE"})


# ---- a real browser


@pytest.fixture
def opened(chromium, tmp_path):
    """Open a page's text in a fresh context; every console error fails the test."""
    contexts, errors = [], []

    def open_(text: str, **options: Any) -> Any:
        (tmp_path / "page.html").write_text(text, encoding="utf-8")
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.goto((tmp_path / "page.html").as_uri())
        return page

    yield open_
    for context in contexts:
        context.close()
    assert errors == []


def state(page: Any) -> dict[str, Any]:
    return page.evaluate("__shardlab_studio.state()")


@pytest.mark.browser
def test_stepping_goes_forward_and_backward_by_message(opened):
    """Each key press is one message, told in its own sentence, also where several end together."""
    page = opened(html(ring()))
    page.locator(".sl").focus()
    said = sentences(ring().told)
    for k in (0, 1, 2):
        page.keyboard.press("ArrowRight")
        page.locator(".say", has_text=said[k]).wait_for()
    page.keyboard.press("ArrowLeft")
    page.locator(".say", has_text=said[1]).wait_for()
    assert state(page)["at"] == 1
    page.keyboard.press("End")
    assert state(page)["x"] == state(page)["end"]
    page.locator(".totals", has_text="sent 6 MiB = received 6 MiB").wait_for()
    page.keyboard.press("Home")
    assert state(page)["x"] == 0
    page.keyboard.press("l")
    assert state(page)["layout"] == "mesh"
    page.keyboard.press("?")
    assert page.locator(".help").is_visible()


@pytest.mark.browser
def test_shift_leads_to_the_next_queue_and_its_cause(opened):
    """Naive: the message that stood at the root's port, and for whom."""
    page = opened(html(scene("reduce", "naive", Group(4))))
    page.locator(".sl").focus()
    page.keyboard.press("Shift+ArrowRight")
    page.locator(".say", has_text="rank 0 was still taking in what rank 1 sent").wait_for()


@pytest.mark.browser
def test_hovering_a_message_and_dragging_the_strip(opened):
    """The popover says what travels and how long; a drag over the strip moves the cursor."""
    page = opened(html(ring()))
    page.evaluate("__shardlab_studio.seek(1e5)")
    page.evaluate("new Promise(requestAnimationFrame)")
    box = page.locator("canvas").bounding_box()
    spot = page.evaluate("__shardlab_studio.hit(0)")
    page.mouse.move(box["x"] + spot["x"], box["y"] + spot["y"])
    page.locator(".pop", has_text="on the wire").wait_for()
    strip = page.evaluate("__shardlab_studio.strip(0)")
    page.mouse.move(box["x"] + strip["left"] + 5, box["y"] + strip["y"])
    page.mouse.down()
    page.mouse.move(box["x"] + strip["left"] + strip["plot"] / 2, box["y"] + strip["y"], steps=3)
    page.mouse.up()
    assert state(page)["x"] == pytest.approx(state(page)["end"] / 2, rel=0.01)


@pytest.mark.browser
def test_without_motion_it_stands_on_messages_only(opened):
    """prefers-reduced-motion: a message at a time, no tween between."""
    page = opened(html(ring()), reduced_motion="reduce")
    page.get_by_role("button", name="play").click()
    page.locator(".say", has_text="message 1 of 24").wait_for()
    ends = {m.done for m in ring().told.messages}
    assert state(page)["x"] in ends
    page.get_by_role("button", name="pause").click()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_sees_a_race_and_no_accessibility_rule_is_broken(opened, scheme):
    """390 pixels wide, nothing sticks out; axe finds nothing, words and table opened."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="shardlab[test]")
    page = opened(
        html(scene("all_reduce", "naive", Group(4)), ring()),
        viewport={"width": 390, "height": 844},
        color_scheme=scheme,
    )
    page.get_by_text("In words and as a table").click()
    page.locator("table").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.evaluate("__shardlab_studio.seek(__shardlab_studio.state().end)")
    page.locator(".race", has_text="times as fast").wait_for()
    found = axe.Axe().run(page).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"]) for v in found] == []


@pytest.mark.browser
def test_sixteen_ranks_play_in_a_frame(opened):
    """A frame of sixteen ranks is drawn in well under 16 ms, in every layout there is."""
    page = opened(html(scene("all_reduce", "two_shot", Group(16), "fat-tree:16")))
    assert page.evaluate("__shardlab_studio.bench(60)")["draw_ms"]["p50"] < 8
    for layout in LAYOUTS:
        page.evaluate("(layout) => __shardlab_studio.set({ layout })", layout)
        assert state(page)["layout"] == layout
