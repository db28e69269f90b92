"""The command line: one object of JSON, files that other programs read, and no surprises."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from parallel_core import launch
from parallel_core.cli import COMMANDS, main, run_command, shardlab
from parallel_core.importers.load import load
from parallel_core.oracle import relative_error
from parallel_core.trace import Kind, Trace

SMALL = ["--layers=2", "--hidden=32", "--heads=4", "--seq=24", "--global-batch=8"]
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Said:
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def report(self) -> dict[str, Any]:
        """Its stdout, which must be one JSON object on one line and nothing else."""
        assert self.code == 0, self.err
        assert self.out.count("\n") == 1, self.out[:500]
        report: dict[str, Any] = json.loads(self.out, parse_constant=pytest.fail)
        return report


Terminal = Callable[..., Said]


def _type(*words: str) -> Said:
    """Type `shardlab WORDS` in this process."""
    out, err = io.StringIO(), io.StringIO()
    said = contextlib.ExitStack()
    said.enter_context(contextlib.redirect_stdout(out))
    said.enter_context(contextlib.redirect_stderr(err))
    argv = mock.patch.object(sys, "argv", ["shardlab", *words])
    with said, argv, pytest.raises(SystemExit) as ended:
        main()
    return Said(int(ended.value.code or 0), out.getvalue(), err.getvalue())


@pytest.fixture
def typed(pool: launch.Pool) -> Iterator[Terminal]:
    """`typed("run", ...)`: as from a terminal, on the warm pool that all tests share."""
    with mock.patch.object(launch, "Pool", lambda **_: contextlib.nullcontext(pool)):
        yield _type


def _apart(*command: str, **options: Any) -> Said:
    """Run a command as a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, env=ENV, **options
    )
    return Said(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """One run as a reader starts it, in a process and a folder of its own, all files asked for."""
    folder = tmp_path_factory.mktemp("run")
    files = ["--trace=made/out.json", "--html=made/out.html", "--save-weights=weights"]
    words = ["run", "--dp=2", "--steps=2", "--microbatches=2", *SMALL, *files, "--json"]
    said = _apart("parallel_core.cli", *words, cwd=folder)
    return said.report, folder


# ---------------------------------------------------------------------------- the report


@pytest.mark.live
def test_the_report_has_the_promised_keys(finished):
    """stdout is one object; its parts are there, and only byte-exact kinds in wire and memory."""
    report, _ = finished
    parts = {"layout", "steps", "ledger", "parity", "trace", "provenance"}
    assert set(report) == parts | {"replicas", "outline", "experts"}
    assert report["layout"]["dp"] == report["layout"]["world_size"] == 2
    assert [row["step"] for row in report["steps"]] == [0, 1]
    for row in report["steps"]:
        assert {"loss", "grad_norm", "tokens_per_s"} <= set(row)
    ledger = report["ledger"]
    assert set(ledger) >= {"wire", "memory", "activations", "comm_buffers", "control"}
    assert set(ledger["memory"]["measured"]) == {"params", "grads", "optimizer"}
    assert type(ledger["wire"]["measured_total_bytes"]) is int
    assert type(ledger["memory"]["peak_state_bytes"]) is int
    assert {"max_rel_error", "tensors"} <= set(report["parity"])
    assert report["trace"]["file"] == "made/out.json"
    assert report["provenance"]["kind"] == "measured"


@pytest.mark.live
def test_predicted_equals_measured_in_value_and_in_shape(finished):
    """Bytes on the wire and in memory agree exactly; every other difference is named."""
    ledger = finished[0]["ledger"]
    for part in ("wire", "memory", "control"):
        assert ledger[part]["predicted"] == ledger[part]["measured"]
    rows = [row for ops in ledger["wire"]["measured"].values() for row in ops.values()]
    assert ledger["wire"]["measured_total_bytes"] == sum(row["wire_bytes"] for row in rows) > 0
    peak = max(map(sum, zip(*ledger["memory"]["measured"].values(), strict=True)))
    assert ledger["memory"]["peak_state_bytes"] == peak
    kept = ledger["activations"]
    wrong = {u for u in kept["predicted"] if kept["predicted"][u] != kept["measured"][u]}
    assert wrong == {difference["unit"] for difference in kept["differences"]}
    assert finished[0]["parity"]["max_rel_error"] <= 1e-5


@pytest.mark.live
def test_the_trace_file_has_two_readers(finished):
    """The same file opens in Perfetto (traceEvents) and here, and holds every span once."""
    report, folder = finished
    text = (folder / "made/out.json").read_text()
    ours = Trace.from_json(text)
    events = json.loads(text, parse_constant=pytest.fail)["traceEvents"]
    assert ours.kind is Kind.MEASURED and ours.steps == (0, 1) and ours.world_size == 2
    assert len(ours.spans) == report["trace"]["spans"]
    assert sum(event["ph"] == "X" for event in events) == len(ours.spans)
    assert load("out.json", text.encode()).kind is Kind.RECORDED


@pytest.mark.live
def test_the_html_file_needs_nothing_else(finished):
    """One file: a policy that forbids everything from elsewhere, and no address in it."""
    page = (finished[1] / "made/out.html").read_text()
    assert re.search(r"Content-Security-Policy[^>]*default-src 'none'", page)
    assert set(re.findall(r"https?://[\w.]+", page)) <= {"http://www.w3.org"}
    assert not re.findall(r"""<(?:link|iframe|img)\b[^>]*(?:src|href)=["'](?!data:)""", page)
    assert not re.findall(r"<script\b[^>]*\bsrc=", page)


@pytest.mark.live
def test_a_loss_that_explodes_is_still_json(typed, tmp_path):
    """NaN and infinity are null in the report and in the trace: no reader chokes on them."""
    file = tmp_path / "wild.json"
    wild = ["--optimizer=sgd", "--lr=100", "--steps=8", "--no-parity"]
    said = typed("run", *SMALL, *wild, f"--trace={file}", "--json")
    assert None in [row["loss"] for row in said.report["steps"]]
    assert json.loads(file.read_text(), parse_constant=pytest.fail)["traceEvents"]
    assert len(load("wild.json", file.read_bytes()).steps) == 8


@pytest.mark.live
def test_without_json_the_tables_are_on_stdout(typed):
    """A person gets losses, the ledger, the comparison and the badge."""
    said = typed("run", *SMALL, "--dp=2", "--steps=2")
    for words in ("tokens/s", "wire dp all_reduce", "max |parallel - single|", "measured: gloo"):
        assert words in said.out
    assert said.code == 0


@pytest.mark.live
@pytest.mark.parametrize(
    ("dtype", "error", "equal", "code"),
    [
        ("float64", None, True, 0),
        ("float64", 1e-9, False, 0),
        ("float64", 3.14, False, 1),
        ("float64", float("nan"), False, 1),
        ("float32", 3.14, False, 0),
    ],
)
def test_a_run_says_whether_it_is_the_training_of_one_process(typed, dtype, error, equal, code):
    """In words and in the object: rounding explains so much. In float64 no more is forgiven."""
    follow = run_command.follow

    def astray(request: Any) -> Any:
        view, report = follow(request)
        if error is not None:
            report["parity"]["errors"]["gradients"] = error
        return view, report

    words = ["run", *SMALL, "--steps=1", f"--dtype={dtype}"]
    with mock.patch.object(run_command, "follow", astray):
        printed, told = typed(*words), typed(*words, "--json")
    assert printed.code == told.code == code
    said = json.loads(told.out, parse_constant=pytest.fail)["parity"]["verdict"]
    assert said["equal"] == equal and "gradients" in said["judged"]
    shown = " ".join(printed.out.split())
    assert said["sentence"] in shown
    if equal:
        assert said["sentence"] == "equal to one process to rounding"
    else:
        start = "NOT the training of one process: look at the gradients of the first"
        assert said["sentence"].startswith(start)


@pytest.mark.live
def test_no_parity_skips_the_comparison(typed):
    """--no-parity: the report says null where the comparison would be."""
    assert typed("run", *SMALL, "--steps=1", "--no-parity", "--json").report["parity"] is None


# ------------------------------------------------------------------- weights, gradients, batch

MODELS = {
    "llama float32, grouped": ["--dialect=llama", "--kv-heads=2"],
    "llama float64, tied": ["--dialect=llama", "--tied", "--dtype=float64"],
    "gpt float64": ["--dialect=gpt", "--dtype=float64"],
    "gpt float32, tied": ["--dialect=gpt", "--tied"],
}
LAYOUTS = {
    "one process": [],
    "dp 2": ["--dp=2"],
    "accumulation 2": ["--microbatches=2"],
    "dp 2 naive, accumulation 2": ["--dp=2", "--microbatches=2", "--dp-method=naive"],
}


@pytest.mark.live
@pytest.mark.parametrize("model", MODELS)
def test_transformers_reproduces_loss_and_gradients(model, typed, tmp_path, monkeypatch):
    """From the saved initial weights and the saved batch, Hugging Face gets our loss and every
    gradient, whatever the layout; batch and initial weights do not depend on it."""
    if "llama float64" in model:
        monkeypatch.setattr(LlamaRMSNorm, "forward", _wide_rms_norm)
    shape = [*SMALL, *MODELS[model], "--optimizer=sgd", "--lr=0.5", "--seed=3"]
    bound = 1e-10 if "float64" in model else 1e-5
    assert typed("run", *shape, "--steps=0", f"--save-weights={tmp_path}/start").code == 0
    start = load_file(tmp_path / "start/model.safetensors")
    first_batch: dict[str, torch.Tensor] = {}
    for number, layout in enumerate(LAYOUTS.values()):
        here = tmp_path / str(number)
        saves = [f"--save-grads={here}/grads", f"--save-batch={here}/batch"]
        after = f"--save-weights={here}/after"
        report = typed("run", *shape, *layout, "--steps=1", *saves, after, "--json").report
        assert typed("run", *shape, *layout, "--steps=0", f"--save-weights={here}/start").code == 0
        _same(load_file(here / "start/model.safetensors"), start)
        batch, grads = load_file(here / "batch"), load_file(here / "grads")
        first_batch = first_batch or batch
        _same(batch, first_batch)
        loss, theirs = _by_transformers(tmp_path / "start", batch)
        assert abs(report["steps"][0]["loss"] - loss) <= bound * abs(loss)
        assert relative_error(grads, theirs) <= bound
        moved = {name: start[name] - 0.5 * grads[name] for name in start}
        trained = load_file(here / "after/model.safetensors")
        assert relative_error(trained, moved) <= bound


def _wide_rms_norm(self: LlamaRMSNorm, x: torch.Tensor) -> torch.Tensor:
    """Theirs narrows to float32 inside, whatever the dtype; the same formula, kept wide."""
    return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)


def _same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def _by_transformers(
    folder: Path, batch: dict[str, torch.Tensor]
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of the model that `from_pretrained` makes of a folder."""
    dtype = next(iter(load_file(folder / "model.safetensors").values())).dtype
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    logits = model(batch["input_ids"]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
    loss.backward()
    return loss.item(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


# ---------------------------------------------------------------------------- how it ends


@pytest.mark.live
def test_the_same_entry_works_under_torchrun():
    """torchrun starts the ranks: rank 0 alone prints, and the numbers are those of a pool run."""
    words = ["run", "--dp=2", "--steps=2", *SMALL, "--json"]
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    said = _apart(*launcher, "-m", "parallel_core.cli", *words, timeout=120)
    assert said.report["parity"]["max_rel_error"] <= 1e-5
    assert said.report["trace"]["spans"] > 0
    assert said.report["layout"]["world_size"] == 2


def test_a_file_that_cannot_be_written_is_found_out_before_the_run():
    """The run is not started when its result would have nowhere to go."""
    began = time.monotonic()
    said = _type("run", "--steps=100000", "--trace=/proc/nowhere/out.json")
    assert said.code == 1 and said.err.count("\n") == 1 and "/proc/nowhere" in said.err
    assert time.monotonic() - began < 5


@pytest.mark.live
def test_ctrl_c_ends_the_run_and_every_rank():
    """SIGINT: exit code 130, one word, and no process of the run is left."""
    command = [sys.executable, "-m", "parallel_core.cli", "run", "--dp=2", "--steps=100000"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=ENV)
    try:
        ranks = _descendants(process.pid, at_least=3)  # the supervisor and two ranks
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert out == b"" and err.decode().strip().endswith("cancelled")
    _, alive = psutil.wait_procs(ranks, timeout=10)
    assert not alive


def _descendants(pid: int, at_least: int) -> list[psutil.Process]:
    for _ in range(300):
        found = psutil.Process(pid).children(recursive=True)
        if len(found) >= at_least:
            return found
        time.sleep(0.1)
    raise AssertionError(f"only {len(found)} processes after 30 s")


# ---------------------------------------------------------------------------- help and the rest


def _examples() -> list[tuple[str, str]]:
    """(command, line) for every example line in every help text."""
    lines = []
    for name in COMMANDS:
        help_text = importlib.import_module(f"parallel_core.cli.{name}_command").command.help or ""
        _, examples, after = help_text.partition("Examples:")
        assert examples, f"the help of `shardlab {name}` has no examples"
        lines += [(name, line.strip()) for line in after.splitlines() if line.strip()]
    return lines


def _all_commands(name: str) -> list[Any]:
    command = importlib.import_module(f"parallel_core.cli.{name}_command").command
    return [command, *getattr(command, "commands", {}).values()]


@pytest.mark.parametrize(("name", "line"), _examples())
def test_the_examples_in_help_name_real_options(name, line):
    """Every example starts with its command, and every option in it exists."""
    words = shlex.split(line.split("|")[0].split("   ")[0])
    if words[0] == "torchrun":
        words = ["shardlab", *words[words.index("parallel_core.cli") + 1 :]]
    assert words[:2] == ["shardlab", name]
    known = {
        flag for c in _all_commands(name) for p in c.params for flag in (*p.opts, *p.secondary_opts)
    }
    assert {word.split("=")[0] for word in words if word.startswith("--")} <= known


def test_help_is_instant_and_lists_every_command():
    """`shardlab --help` loads neither torch nor a page, and names each command."""
    code = (
        "import sys; from parallel_core.cli import shardlab\n"
        "shardlab.main(['--help'], standalone_mode=False)\n"
        "assert not {'torch', 'streamlit', 'plotly', 'numpy'} & set(sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name, words in COMMANDS.items():
        assert re.search(rf"{name}\s+{words[:20]}", said.stdout)


def test_no_command_shows_the_help():
    """`shardlab` alone explains itself, and that is no error."""
    said = _type()
    assert said.code == 0 and "Examples:" in said.out and said.err == ""
    assert shardlab.help is not None


def test_doctor_says_what_this_machine_runs():
    """Cores, memory, backends, versions, the largest layout; torch stays out of this process."""
    code = (
        "import sys, json; from parallel_core.cli.doctor_command import examine\n"
        "print(json.dumps(examine())); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["cores"] == os.cpu_count() and found["missing"] == []
    assert "gloo" in found["backends"]
    assert found["versions"]["torch"] == torch.__version__
    layout = found["largest_layout"]
    assert 1 <= layout["pleasant_ranks"] <= layout["ranks"]


def test_doctor_names_what_is_missing():
    """A torch that does not load is named, and the exit code is 1."""
    ask = mock.patch("parallel_core.cli.doctor_command.ASK_TORCH", "raise ImportError('libfoo')")
    with ask:
        said = _type("doctor")
    assert said.code == 1
    assert "libfoo" in said.out


def test_lessons_are_listed_and_worked_on_in_a_copy(tmp_path, monkeypatch):
    """Titles and minutes are the notebooks' own; a reader's copy is made once and then kept."""
    monkeypatch.chdir(tmp_path)
    assert "01_why_distribute" in _type("lesson").out
    assert _type("lesson", "01", "--copy-only").code == 0
    (copy,) = (tmp_path / "my-lessons").glob("01_*.ipynb")
    copy.write_text("my own work")
    with mock.patch("subprocess.call", return_value=0) as jupyter:
        assert _type("lesson", "01").code == 0
    assert jupyter.call_args.args[0][1:] == ["-m", "jupyterlab", str(copy)]
    assert copy.read_text() == "my own work"
    wrong = _type("lesson", "99")
    assert wrong.code == 2 and "01_why_distribute" in wrong.err


@pytest.mark.live
def test_trace_tells_where_the_time_went(finished, tmp_path):
    """Per rank, compute + exposed + idle is the whole window; Perfetto and HTML are written."""
    report, folder = finished
    file = str(folder / "made/out.json")
    outs = [f"--perfetto={tmp_path}/p.json", f"--html={tmp_path}/p.html"]
    found = _type("trace", file, *outs, "--json").report
    assert found["spans"] == report["trace"]["spans"] and found["kind"] == "recorded"
    assert abs(found["makespan_ms"] - report["trace"]["makespan_ms"]) < 1e-3
    for row in found["use"]:
        whole = row["compute (ms)"] + row["exposed (ms)"] + row["idle (ms)"]
        assert abs(whole - found["makespan_ms"]) < 0.01
    for rank in found["bubble"]["ranks"]:
        whole = rank["work_ms"] + sum(rank["idle_ms"].values())
        assert abs(whole - found["makespan_ms"]) < 1e-3, "every idle moment has a cause"
    assert abs(sum(found["critical_path"]["shares"].values()) - 1) < 1e-9
    assert json.loads((tmp_path / "p.json").read_text())["traceEvents"]
    assert "default-src 'none'" in (tmp_path / "p.html").read_text()


@pytest.mark.live
def test_trace_compares_two(finished):
    """A trace beside itself: every op takes as long as before; a person gets tables."""
    file = str(finished[1] / "made/out.json")
    both = _type("trace", file, f"--before={file}", "--json").report["comparison"]
    assert both["ops"] and all(op["lost (ms)"] == 0 for op in both["ops"])
    said = _type("trace", file, "--before", file)
    for words in ("how each rank spent its time", "critical path", "against the trace before"):
        assert words in said.out


def test_a_pickle_is_refused_in_one_line():
    """A flight record as a pickle is never opened: exit code 2 and what to do instead."""
    said = _type("trace", str(Path(__file__).parent / "samples/flight_rank0.pickle"))
    assert said.code == 2 and "pickle" in said.err and said.err.count("\n") == 1
