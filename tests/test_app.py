"""The pages, driven without a browser: every screen opens, says errors in one sentence, runs."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from demo_trace import dp_step
from streamlit.testing.v1 import AppTest

from parallel_core import places
from parallel_core.plan import Plan
from parallel_core.trace import Kind, Trace

APP = places.app()
SAMPLES = Path(__file__).parent / "samples"
sys.path.insert(0, str(APP))

import screens  # noqa: E402  (the app's folder must be on the path)
from screens import controls, library, live, predict, results  # noqa: E402

EXISTING = [screen for screen in screens.SCREENS if screen.exists]
every_screen = pytest.mark.parametrize("screen", EXISTING, ids=lambda screen: screen.module)


@pytest.fixture(scope="module", autouse=True)
def no_run_is_left():
    """The runs that pages start belong to this process; they end with these tests."""
    yield
    live.close_jobs()


def open_page(module, **query):
    """The app at one page, with these words in its URL."""
    at = AppTest.from_file(str(APP / "main.py"), default_timeout=60)
    for name, value in query.items():
        at.query_params[name] = str(value)
    # a script of its own per page, since AppTest cannot follow a URL path of st.navigation
    source = f"import sys; sys.path.insert(0, {str(APP)!r})\nimport screens.{module} as m\nm.page()"
    if module:
        at = AppTest.from_string(source, default_timeout=60)
        for name, value in query.items():
            at.query_params[name] = str(value)
    return at.run()


def players(at):
    """What each player on the page was given."""
    return [json.loads(found.proto.bytes) for found in at.get("bidi_component")]


def button(at, label):
    """The button that reads `label`."""
    return next(found for found in at.button if found.label == label)


def job(at):
    """The name of the run in the URL; AppTest gives a word or a list of one."""
    found = at.query_params["job"]
    return found if isinstance(found, str) else found[0]


def texts(at):
    """Every paragraph of the page."""
    return " ".join(found.value for found in at.markdown)


# -- every screen ---------------------------------------------------------------------------------


def test_the_router_shows_the_first_page():
    """The app opens on the page with the recorded run."""
    at = open_page("")
    assert not at.exception
    assert players(at)[0]["layers"]["trace"]["kind"] == Kind.RECORDED


@every_screen
def test_each_screen_opens(screen):
    """With a title, without an error."""
    at = open_page(screen.module)
    assert not at.exception and not at.error
    assert len(at.title) == 1


def test_pages_never_load_torch():
    """Every screen, opened in a fresh process as the server opens it."""
    code = f"""
import sys
from streamlit.testing.v1 import AppTest
sys.path.insert(0, {str(APP)!r})
import screens
for screen in screens.SCREENS:
    if screen.exists:
        text = f"import screens.{{screen.module}} as m; m.page()"
        at = AppTest.from_string(text, default_timeout=60).run()
        assert not at.exception, screen
print("torch" in sys.modules)
from screens import live
live.close_jobs()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


# -- controls -------------------------------------------------------------------------------------


def test_controls_start_from_the_url():
    """A shared link opens with the choices it was made with."""
    at = open_page("start", dp=2, steps=3, dialect="gpt", tied="true")
    assert at.number_input(key="dp").value == 2
    assert at.number_input(key="steps").value == 3
    assert at.selectbox(key="dialect").value == "gpt"


def test_a_choice_that_cannot_be_run_is_one_sentence_and_a_remedy():
    """The field, the value, the rule and the nearest value; one press takes it."""
    at = open_page("start", dp=3)
    rule = r"global\_batch=16 must be a multiple of dp\*microbatches=3\*1"
    said = f"{rule}; the nearest value that works is 15."  # escaped: Markdown shows it as it is
    assert [error.value for error in at.error] == [said]
    assert button(at, "Run").disabled
    button(at, "Use global_batch=15").click().run()
    assert not at.error and at.number_input(key="global_batch").value == 15
    assert not button(at, "Run").disabled


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dp", "many"),
        ("dp", "5000"),
        ("dp", "0"),
        ("hidden", "1e9"),
        ("dialect", "<script>"),
        ("lr", "nan"),
    ],
)
def test_nonsense_in_the_url_is_told(name, value):
    """Never taken, never silently dropped: one sentence that names field and rule."""
    at = open_page("start", **{name: value})
    assert not at.exception
    assert len(at.error) == 1
    assert at.error[0].value.startswith(f"In the address: {name}=")


def test_more_than_the_machine_bears_is_told():
    """A run that does not fit this machine is refused before it starts, with what fits."""
    at = open_page("start", dp=512, global_batch=512)
    assert "more than this machine bears" in at.error[0].value
    assert button(at, "Run").disabled


def test_every_declared_field_makes_a_control():
    """A new field of a Plan needs no new code on a page."""
    source = (
        f"import sys; sys.path.insert(0, {str(APP)!r})\n"
        "import streamlit as st\nfrom screens import controls\n"
        "st.session_state.out = controls.plan_controls(list(controls.declared()))"
    )
    at = AppTest.from_string(source, default_timeout=60).run()
    assert not at.exception
    values = at.session_state.out
    assert set(values) == set(controls.declared())
    assert controls.Request.of(**values).plan == Plan()


# -- the prediction -------------------------------------------------------------------------------


def test_a_locked_guess_is_answered_with_its_miss():
    """The guess stands as it was locked; how far off it is, is said in words."""
    assert predict.miss(2.0, 8.0) == "4 times too low."
    assert predict.miss(8.0, 8.01) == "Within 1 %."
    assert predict.miss(12.0, 10.0) == "20 % too high."
    assert predict.miss(0.0, 4.0) == "Off by 4."
    assert predict.miss(0.0, 0.0) == "Within 1 %."


def test_a_guess_locks():
    """After locking there is no field to change it in."""
    at = open_page("start")
    at.number_input(key="start.number").set_value(5.0).run()
    button(at, "Lock my guess").click().run()
    assert "Locked: 5 MiB" in texts(at)
    assert not [found for found in at.number_input if found.key == "start.number"]


# -- a run ----------------------------------------------------------------------------------------


def until(at, done, seconds=90.0):
    """Rerun the page, as its fragment does, until `done(at)`."""
    end = time.monotonic() + seconds
    while not done(at) and time.monotonic() < end:
        assert not at.exception
        time.sleep(0.3)
        at.run()
    assert done(at), [found.value for found in at.error]
    return at


@pytest.mark.live
def test_run_ends_with_the_proof_on_the_page():
    """Press Run: the timeline grows, then losses, both clocks, the ledgers and the difference."""
    at = open_page("start", dp=2, steps=4, layers=2, hidden=32)
    at.number_input(key="start.number").set_value(1.0).run()
    button(at, "Run").click().run()
    assert job(at)
    assert button(at, "Run").disabled
    until(at, lambda at: at.metric)
    html = " ".join(found.proto.body for found in at.get("html"))
    assert "max |parallel − single| = " in html
    assert "They agree to the byte" in texts(at)
    assert "You said 1 MiB" in texts(at)
    shown = players(at)[-1]["layers"]
    assert {name: layer["kind"] for name, layer in shown.items()} == {
        "trace": "measured",
        "own": "replayed",
        "model": "modelled",
    }
    assert at.code[0].value == "shardlab run --dp 2 --layers 2 --hidden 32 --steps 4"
    again = open_page("start", job=job(at))
    assert again.metric, "a reload with ?job= shows the same run"


@pytest.mark.live
def test_a_run_can_be_cancelled():
    """Cancel ends it, says so, and the page is ready for another."""
    at = open_page("start", dp=2, steps=5000)
    button(at, "Run").click().run()
    until(at, lambda at: players(at)[1:])
    name = job(at)
    button(at, "Cancel").click().run()
    assert "job" not in at.query_params
    assert [found.value for found in at.info] == ["Cancelled."]
    at.query_params["job"] = name  # as a rerun does that the browser asked for before
    at.run()
    assert "job" not in at.query_params and not at.info
    assert not button(at, "Run").disabled
    asked = live.desk().find(name)
    until(at, lambda at: live.desk().jobs.state(asked.job).status.over, 10)


def test_a_run_that_is_not_known_is_told():
    """A link of an earlier server shows no stranger's run."""
    at = open_page("start", job="000000-j1")
    assert "not known any more" in at.info[0].value
    assert not at.exception and "job" not in at.query_params


@pytest.mark.live
def test_a_rank_that_dies_is_named_on_the_page():
    """Kill -9 of a rank: the run ends with one sentence that names it, and Run is ready again."""
    at = open_page("start", dp=2, steps=5000)
    button(at, "Run").click().run()
    until(at, lambda at: players(at)[1:])
    ranks = psutil.Process(live.desk().pool.supervisor_pid).children()
    max(ranks, key=lambda rank: rank.pid).kill()
    until(at, lambda at: at.error, 20)
    assert re.match(r"Rank 1 .*step \d+", at.error[0].value), at.error[0].value
    assert not button(at, "Run").disabled


@pytest.mark.live
def test_two_who_ask_the_same_share_a_run(pool):
    """One run, both watch; it ends when the second has left."""
    desk = live.Desk(pool)
    request = controls.Request.of(dp=2, layers=1, hidden=16, steps=5000)
    name = desk.submit(request)
    assert desk.submit(request) == name
    asked = desk.find(name)
    desk.watch(asked, "one")
    desk.watch(asked, "two")
    desk.leave(asked, "one")
    time.sleep(0.3)
    assert not desk.jobs.state(asked.job).status.over
    desk.leave(asked, "two")
    end = time.monotonic() + 10
    while not desk.jobs.state(asked.job).status.over and time.monotonic() < end:
        time.sleep(0.05)
    assert desk.jobs.state(asked.job).status is live.Status.CANCELLED
    desk.jobs.close()


def test_a_full_queue_is_one_sentence(monkeypatch):
    """Nothing is started, nothing is lost."""

    def full(desk, request):
        raise live.QueueFull("9 jobs run or wait already; try again soon")

    monkeypatch.setattr(live.Desk, "submit", full)
    at = open_page("start")
    button(at, "Run").click().run()
    assert at.error[0].value == "9 jobs run or wait already; try again soon."
    assert not button(at, "Run").disabled


def test_waiting_in_the_queue_is_said():
    """The place in the queue, and that another run goes first."""
    request = controls.Request(plan=Plan())
    asked = live.Asked("x-j2", "j2", request)
    state = live.JobState(id="j2", status=live.Status.QUEUED, place=2)
    run = live.Follower(asked, live.RunView(request.plan), state)
    assert live.words(run) == "Waiting in the queue: number 2. Somebody else's run goes first."


def test_the_command_line_of_a_run_makes_the_same_plan():
    """What the page prints is read back by the command's own options."""
    plan = Plan.of(dp=2, tied=True, bucket_mb=0.5, dtype="float64", lr=0.01, seed=3)
    line = results.command(plan, 7)
    from parallel_core.cli.run_command import command

    context = command.make_context("run", line.split()[2:])
    given = {k: v for k, v in context.params.items() if v is not None and k in controls.declared()}
    assert controls.Request.of(**given).plan == plan
    assert given["steps"] == "7"


# -- the inspector --------------------------------------------------------------------------------


def our_file(trace, name):
    """A file of ours as the uploader takes it."""
    return (name, trace.to_json().encode(), "application/json")


def upload(at, *files):
    """Choose these files."""
    at.file_uploader(key="files").set_value(list(files))
    return at.run()


def sample(name):
    """A recorded file of another tool."""
    return (name, (SAMPLES / name).read_bytes(), "application/octet-stream")


@pytest.mark.parametrize("section", ["Wait or wire", "Critical path", "Exposed", "Memory", "Ops"])
def test_each_question_of_the_inspector_has_an_answer(section):
    """From the URL alone: the shipped trace, the step and the question."""
    at = open_page("inspector", trace="recorded_dp4", ask=section, step="whole run")
    assert not at.exception and not at.error
    assert players(at)[0]["layers"]["own"]["kind"] == Kind.REPLAYED
    assert at.get("plotly_chart") or at.dataframe or at.table


def test_the_charts_show_what_the_trace_says():
    """The bars of wait and wire are the analysis of this very trace."""
    from parallel_core.analysis.waits import totals, waits

    at = open_page("inspector", trace="recorded_dp4", step="whole run")
    figure = json.loads(at.get("plotly_chart")[0].proto.spec)
    truth = totals(waits(library.shipped()["recorded_dp4"]))
    assert figure["data"][0]["x"] == [total.wait_ns / 1e6 for total in truth]


def test_an_own_file_is_shown_and_compared():
    """Two files as A and B: both players, and what got slower."""
    at = open_page("inspector")
    fast, slow = dp_step(title="fast"), dp_step(title="slow", slow={1: 2.0})
    upload(at, our_file(fast, "fast.json"), our_file(slow, "slow.json"))
    at.radio(key="several").set_value(library.APART).run()
    assert not at.exception and not at.error
    assert "A step takes 16.4 ms, 1.82 times the 9 ms of before" in texts(at)
    assert [shown["title"] for shown in players(at)] == ["slow.json", "fast.json"]


def test_the_files_of_one_job_become_its_ranks():
    """torch.profiler writes a file a rank; together they are one trace."""
    at = open_page("inspector")
    upload(at, sample("profile_rank0.json.gz"), sample("profile_rank1.json.gz"))
    assert at.selectbox(key="trace").value == "profile_rank0.json.gz and 1 more"
    assert players(at)[0]["world_size"] == 2 and not at.error


def test_a_hang_is_named():
    """A flight record of a job that stands still: who waits, and who never came."""
    at = open_page("inspector")
    upload(at, sample("flight_rank0.json"), sample("flight_rank1.json"))
    assert any("This job hangs" in error.value for error in at.error)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.json", b"{", "neither JSON nor gzipped JSON"),
        ("a.json", b'{"x": 1}', "is JSON, but not a ShardLab trace"),
        ("a.pickle", b"\x80\x04K\x01.", "is a pickle"),
        ("a.json.gz", gzip.compress(b"{}")[:-4], "cut off"),
        ("<img src=x>.json", b"[]", "is JSON, but not"),
    ],
)
def test_a_file_that_is_no_trace_is_one_sentence_and_nothing_is_lost(name, data, words):
    """The trace on screen stays."""
    at = open_page("inspector")
    before = players(at)[0]["run"]
    upload(at, (name, data, ""))
    assert not at.exception
    assert len(at.error) == 1 and words in at.error[0].value
    assert players(at)[0]["run"] == before


def test_a_strangers_plan_does_not_break_the_page():
    """The plan in a file's provenance need not be legal, nor the one that ran."""
    for plan in ({"dp": 3}, {"nonsense": 1}, {"dp": 2, "layers": 9}):
        data = json.loads(dp_step(kind=Kind.MEASURED).to_json())
        data["provenance"]["plan"] = plan
        at = open_page("inspector")
        upload(at, ("own.json", json.dumps(data).encode(), ""))
        assert at.selectbox(key="trace").value == "own.json"
        assert not at.exception, plan


def test_a_shipped_trace_is_a_recording_of_ours():
    """Whatever lies in assets/ with our mark loads, and is badged as recorded."""
    assert all(trace.kind is Kind.RECORDED for trace in library.shipped().values())
    assert "recorded_dp4" in library.shipped()
    assert isinstance(library.shipped()["recorded_dp4"], Trace)
