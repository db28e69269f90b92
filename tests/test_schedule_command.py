"""`shardlab schedule`: the numbers it prints, the picture it draws, what it refuses."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from unittest import mock

import pytest
from click.testing import CliRunner, Result
from rich.text import Text

from parallel_core import launch
from parallel_core.cli import schedule_live
from parallel_core.cli.schedule_command import command
from parallel_core.cli.schedule_picture import picture
from parallel_core.fields import PlanError
from parallel_core.pipeline import SCHEDULES
from parallel_core.pipeline.figures import simulated
from parallel_core.pipeline.reading import read
from parallel_core.pipeline.schedule import Job, Times
from parallel_core.program import ProgramError

KEYS = [
    *("name", "p", "m", "v", "makespan", "bubble_ratio", "bubble_fraction", "bubble_rate"),
    *("idle", "peak_in_flight", "order", "times"),
]


def typed(words: str, width: int = 100) -> Result:
    """Type `shardlab schedule WORDS` on a terminal so wide; a PlanError stays one."""
    env = {"COLUMNS": str(width), "TERM": "dumb"}
    return CliRunner().invoke(command, shlex.split(words), env=env, standalone_mode=False)


def said(words: str, width: int = 100) -> str:
    """Its stdout, where it went well."""
    result = typed(words, width)
    assert result.exception is None, result.exception
    assert result.return_value == 0
    return result.stdout


def report_of(words: str) -> dict:
    """stdout as the one JSON object it must be."""
    out = said(words + " --json")
    assert out.count("\n") == 1
    return json.loads(out, parse_constant=pytest.fail)


# ---------------------------------------------------------------------------- the numbers


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_json_has_these_keys_and_lists_a_number_a_rank(name: str) -> None:
    """Every schedule of the table, by name, with its defaults: p=4, m=8, the fewest stages."""
    report = report_of(f"{name} -p 4 -m 8")
    assert list(report) == KEYS
    assert (report["name"], report["p"], report["m"]) == (name, 4, 8)
    assert report["v"] == SCHEDULES[name].fewest
    for key in ("idle", "peak_in_flight", "order"):
        assert len(report[key]) == 4, key
    assert set(report["times"]) == {"f", "i", "w", "comm"}
    asked = SCHEDULES[name].of(Job(p=4, m=8, v=report["v"]))
    assert read(json.dumps(report)).ranks == asked.ranks
    assert report == report_of(name), "the sizes of an example are the defaults"


def test_the_numbers_of_lesson_seven() -> None:
    """1F1B and GPipe: 33 beats and one bubble under three names; 1F1B holds p - r, GPipe m."""
    one, all_first = report_of("1f1b"), report_of("gpipe")
    for report in (one, all_first):
        assert report["makespan"] == 33
        assert report["idle"] == [9] * 4
        assert report["bubble_ratio"] == pytest.approx(3 / 8)
        assert report["bubble_fraction"] == pytest.approx(3 / 11)
    assert one["peak_in_flight"] == [4, 3, 2, 1]
    assert all_first["peak_in_flight"] == [8] * 4
    assert report_of("interleaved -v 2")["makespan"] == pytest.approx(28.5)
    assert report_of("zb-h1")["makespan"] == 27


@pytest.mark.parametrize(("rank", "makespan"), [(0, 40.5), (1, 42), (2, 43.5), (3, 45)])
def test_where_a_slow_rank_stands_matters_under_1f1b(rank: int, makespan: float) -> None:
    """One rank takes 1.5 times as long: 1F1B hides it at the front, GPipe nowhere."""
    assert report_of(f"1f1b --slow {rank}:1.5")["makespan"] == pytest.approx(makespan)
    assert report_of(f"gpipe --slow {rank}:1.5")["makespan"] == pytest.approx(45)


def test_times_are_of_a_microbatch_on_a_rank() -> None:
    """Stages share them; a message takes its latency, and nobody is busy meanwhile."""
    report = report_of("interleaved -p 2 -m 2 -v 2 --tf 2 --ti 4 --tw 6 --tcomm 0.5 --slow 1:2")
    assert report["times"] == {"f": [2, 4], "i": [4, 8], "w": [6, 12], "comm": 0.5}
    assert [report["makespan"] - idle for idle in report["idle"]] == [2 * 12, 2 * 24]
    late, soon = (report_of(f"1f1b -p 2 -m 1 --tcomm {t}")["makespan"] for t in (0.5, 0))
    assert late - soon == pytest.approx(1.0)  # once there, once back


# ---------------------------------------------------------------------------- the picture


def test_the_picture_is_the_simulated_staircase() -> None:
    """A beat is as wide on every rank; a B is twice an F; dots are idle."""
    out = said("1f1b -p 3 -m 3", width=80)
    assert [line.rstrip() for line in out.splitlines()[1:5]] == [
        "rank 0 |F0 F1 F2 ............B0--- ...B1--- ...B2---",
        "rank 1 |...F0 F1 ......B0--- F2 B1--- ...B2--- ......",
        "rank 2 |......F0 B0--- F1 B1--- F2 B2--- ............",
        "        0                                          15",
    ]


def test_stages_are_named_where_there_is_room() -> None:
    """In a wide terminal 2F0 is told from 0F0; in a narrow one only the letters are left."""
    assert "rank 0 |0F0 0F1 2F0 2F1 " in said("interleaved -p 2 -m 2", width=100)
    narrow = said("interleaved -p 2 -m 2", width=30)
    assert "rank 0 |F0F1F0F1" in narrow or "rank 0 |FFFF" in narrow


@pytest.mark.parametrize("width", [12, 40, 80, 200])
@pytest.mark.parametrize("name", ["1f1b", "zb-h1", "interleaved"])
def test_the_picture_fits_its_width(name: str, width: int) -> None:
    """Whatever the width; tasks that find no column are counted."""
    schedule = SCHEDULES[name]
    order = schedule.of(Job(p=3, m=24, v=schedule.fewest))
    drawn = picture(simulated(order, Times.even(3, slow={1: 1.37})), width)
    rows = [line.plain for line in drawn.split()[:3]]
    assert all(len(row) <= width for row in rows)
    assert len({len(row) for row in rows}) == 1
    cells = sum(len(re.findall(r"[FBIW]", row)) for row in rows)
    hidden = re.search(r"no column left for (\d+) of (\d+)", drawn.plain)
    missing, total = map(int, hidden.groups()) if hidden else (0, sum(map(len, order.ranks)))
    assert cells == total - missing


def test_phases_have_their_colours() -> None:
    """F, I and W are told apart in a terminal that has colours, with the palette's fills."""
    drawn: Text = picture(simulated(read("F0 I0 W0\nF0 I0 W0"), Times.even(2)), 80)
    assert len({str(span.style) for span in drawn.spans if " on #" in str(span.style)}) == 3


# ---------------------------------------------------------------------------- orders in and out


def test_an_order_goes_out_and_comes_back(tmp_path) -> None:
    """--text, --csv and --json write what --file reads; a terminal names the file's order."""
    whole = report_of("zb-h1 -p 3 -m 4")
    for flag in ("--text", "--csv", "--json"):
        file = tmp_path / "mine.txt"
        file.write_text(said(f"zb-h1 -p 3 -m 4 {flag}"), encoding="utf-8")
        again = report_of(f"--file {file}")
        assert again == whole | {"name": again["name"]}
        assert again["name"] == ("zb-h1" if flag == "--json" else "mine")
    assert said(f"--file {file}").startswith("zb-h1, p=3 m=4 v=1\n")


def test_a_file_is_checked_before_anything_is_simulated(tmp_path) -> None:
    """An illegal order is refused in a sentence, and so are sizes that it does not have."""
    file = tmp_path / "mine.txt"
    file.write_text("F0 B0 F1 B1\nF0 F1 B0 B1\n", encoding="utf-8")
    assert "deadlock: rank 0 waits at B0" in str(refusal(f"--file {file}", ProgramError))
    file.write_text("F0 B0 F1 B1\nF0 B0 F1 B1\n", encoding="utf-8")
    assert "2 ranks where 3" in str(refusal(f"--file {file} -p 3", ProgramError))
    assert refusal(f"--file {file} -v 2").nearest == 1
    assert refusal(f"gpipe --file {file}").field == "schedule"


def test_the_list_has_every_schedule() -> None:
    """With its title and its paper; as JSON, by name."""
    rows = json.loads(said("--list --json"))
    assert list(rows) == list(SCHEDULES)
    assert rows["1f1b"]["source"] == SCHEDULES["1f1b"].source
    out = said("--list", width=200)
    assert all(name in out for name in SCHEDULES)


# ---------------------------------------------------------------------------- for real


@pytest.fixture
def asked():
    """What `--run` would start: requests, in order; nothing is run."""
    requests = []

    def follow(request):
        requests.append(request)
        return mock.Mock(), {"steps": []}

    with mock.patch.object(schedule_live, "follow", follow):
        yield requests


def test_run_asks_for_the_very_order(tmp_path, asked) -> None:
    """A schedule of the table goes by its name, a reader's as text; every stage has a layer."""
    file = tmp_path / "mine.csv"
    file.write_text("0F0,0F1,0F2,,0B2,0B1,0B0\n1F0,1B0,1F1,1B1,1F2,1B2\n", encoding="utf-8")
    assert report_of(f"--file {file} --run --steps 3")["run"] == {"steps": []}
    report_of("interleaved -p 2 -m 4 -v 3 --run")
    mine, table = (request.plan for request in asked)
    assert (asked[0].steps, mine.pp, mine.microbatches, mine.schedule) == (3, 2, 3, "own")
    assert mine.pipeline.ranks == read(file.read_text(encoding="utf-8")).ranks
    assert (table.schedule, table.virtual_stages, table.model.layers) == ("interleaved", 3, 6)


@pytest.mark.live
def test_a_readers_order_trains_like_one_process(tmp_path, pool) -> None:
    """Typed, checked, run: every gradient as in one process, and each rank did as it was told."""
    file = tmp_path / "mine.txt"
    file.write_text("F0 F1 B0 F2 B1 B2\nF0 B0 F1 I1 F2 I2 W2 W1\n", encoding="utf-8")
    warm = mock.Mock(side_effect=lambda **_: contextlib.nullcontext(pool))
    with mock.patch.object(launch, "Pool", warm):
        report = report_of(f"--file {file} --run --steps 2")
        out = said(f"--file {file} --run --steps 2", width=300)
    assert report["run"]["parity"]["max_rel_error"] < 1e-4
    drawn = [line for line in out.splitlines() if line.startswith("rank 1 |")]
    assert len(drawn) == 3  # in beats, under the measured times, and as measured
    for line in drawn:
        assert re.findall(r"[FBIW](?=\d?[- .FBIW])", line) == list("FBFIFIWW")


# ---------------------------------------------------------------------------- refusals


def refusal(words: str, kind: type[ValueError] = PlanError) -> ValueError:
    """The error that the words meet, one sentence."""
    error = typed(words).exception
    assert isinstance(error, kind), error
    assert "\n" not in str(error)
    return error


WRONG = {
    "": ("schedule", "1f1b"),
    "1f1c": ("schedule", "1f1b"),
    "1f1b -p four": ("pp", 1),
    "1f1b -p 0": ("pp", 1),
    "1f1b -v 2": ("virtual_stages", 1),
    "interleaved -v 1": ("virtual_stages", 2),
    "interleaved -p 4 -m 6": ("microbatches", 8),
    "gpipe --tf nan": ("tf", 1.0),
    "gpipe --tf 0 --ti 0 --tw 0": ("tf", 1),
    "gpipe --slow 4:2": ("slow", 3),
    "gpipe --slow 1": ("slow", "0:1.5"),
    "gpipe --slow 1:0": ("slow", "0:1.5"),
    "gpipe --cap 2": ("cap", "8"),
    "gpipe --run --text": ("run", "false"),
    "gpipe --steps 3": ("steps", "none"),
    "gpipe -p 1024 -m 65536": ("microbatches", 976),
}


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_choice_names_its_field_and_what_works(words: str) -> None:
    """And what it says works, works in its place."""
    error = refusal(words)
    assert (error.field, error.nearest) == WRONG[words]


def test_what_is_said_to_work_does() -> None:
    """The nearest values, typed instead."""
    for words in ("interleaved -p 4 -m 8", "gpipe --slow 3:2", "gpipe --cap 8", "1f1b -v 1"):
        report_of(words)


def test_the_examples_of_its_help_run(tmp_path, monkeypatch) -> None:
    """Every line of them, in order, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    text = CliRunner().invoke(command, ["--help"]).stdout
    examples = re.findall(r"^ +shardlab schedule (.*?)$", text, re.MULTILINE)
    assert len(examples) >= 6
    for example in examples:
        example = example.removesuffix("--run")
        words, _, file = example.partition(" > ")
        out = said(words)
        if file:
            (tmp_path / file.strip()).write_text(out, encoding="utf-8")
