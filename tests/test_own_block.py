"""A reader's own block: split like the lab's, equal to one process, its bytes told beforehand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from parallel_core import own_block, own_block_layer
from parallel_core.cases import program_of
from parallel_core.fields import PlanError
from parallel_core.model import Transformer, init_weights
from parallel_core.parameter_server_report import view_of
from parallel_core.params import param_specs
from parallel_core.plan import Plan
from parallel_core.program import Op
from parallel_core.provenance import title
from parallel_core.request import Request
from parallel_core.sizes import flops

SAMPLE = f"{Path(__file__).parent / 'own_block_sample.py'}:Block"
SMALL = {"layers": 3, "hidden": 32, "heads": 4, "seq": 16, "global_batch": 8, "dtype": "float64"}
LAYOUTS = {
    "dp": {"dp": 2},
    "zero-1, two microbatches": {"dp": 2, "zero": 1, "microbatches": 2},
    "zero-2": {"dp": 2, "zero": 2},
    "zero-3": {"dp": 2, "zero": 3},
    "pp": {"pp": 2},
    "interleaved": {"pp": 2, "schedule": "interleaved", "virtual_stages": 2},
    "pipedream": {"pp": 2, "schedule": "pipedream"},
    "gpt ends, tied": {"dp": 2, "dialect": "gpt", "tied": True},
    "recompute": {"dp": 2, "recompute": "full"},
}


def plan_of(**flat):
    """The sample in a small model."""
    return Plan.of(**{"block": SAMPLE, **SMALL, **flat})


def written(tmp_path, body, name="Block"):
    """A block whose forward or constructor is the test's."""
    head = "import torch\nfrom torch import nn\nimport torch.nn.functional as F\n"
    file = tmp_path / "theirs.py"
    file.write_text(f"{head}class {name}(nn.Module):\n{body}")
    return f"{file}:{name}"


LINEAR = """
    def __init__(self, hidden):
        super().__init__()
        self.up = nn.Linear(hidden, hidden)
        self.other = nn.Linear(hidden, hidden)
    def forward(self, x):
        return {0}
"""


WEIGHT = """
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter({0})
"""


# -- what the lab finds by walking -----------------------------------------------------------------


def test_its_parameters_are_those_of_the_model_and_of_the_table():
    """Names and shapes of the module that is built are those that were told without it."""
    plan = plan_of()
    model = Transformer(plan)
    built = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    assert built == {spec.name: spec.shape for spec in param_specs(plan)}
    assert "layer2.block.conv.weight" in built


def test_it_begins_as_it_was_made_but_by_the_labs_own_draws():
    """Constants stay, deviations stay; layers differ, and so every layout can draw its part."""
    plan = plan_of(hidden=128)
    model, theirs = Transformer(plan), own_block_layer.made(plan, torch.float64)
    init_weights(model, plan)
    for name, weight in theirs.named_parameters():
        ours = model.get_parameter(f"layer1.block.{name}").detach()
        if float(weight.detach().std()) == 0:
            assert torch.equal(ours, weight)
        elif weight.numel() > 1000:
            assert float(ours.std()) == pytest.approx(float(weight.detach().std()), rel=0.05)
            assert not torch.equal(ours, model.get_parameter(f"layer0.block.{name}"))


def test_flops_are_those_that_torch_counts():
    """Products with matrices, attention, convolution: all that the counter knows."""
    plan = plan_of()
    count = flops(plan)
    (instrs,) = program_of(plan).ranks
    forward = next(count(i) for i in instrs if i.op == Op.F and i.where == "layer1")
    backward = next(count(i) for i in instrs if i.op == Op.B and i.where == "layer1")
    assert forward == own_block.described(plan).flops and backward == 2 * forward
    assert forward > 2 * plan.tokens_here * 4 * 32 * 32


# -- live ------------------------------------------------------------------------------------------


@pytest.mark.live
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_readers_block_trains_as_on_one_process(pool, layout):
    """Gradients, norm, weights; wire, state and activations to the byte; schedule and pictures."""
    request = Request(plan=plan_of(**layout), steps=3)
    view = view_of(request.plan)
    with pool.start(*request.order) as run:
        for event in run.events():
            view.feed(event)
        report = view.finish(run.wait())
    assert report["parity"]["max_rel_error"] < 1e-11
    ledger = report["ledger"]
    assert ledger["wire"]["predicted"] == ledger["wire"]["measured"]
    assert ledger["memory"]["predicted"] == ledger["memory"]["measured"]
    assert ledger["activations"]["differences"] == []
    assert not (report["outline"] or {}).get("differences")
    assert view.own_device().makespan > 0 and view.model().makespan > 0
    assert "own_sample" not in title(request.plan)
    assert "own_block_sample.py:Block" in title(request.plan)


@pytest.mark.live
def test_a_pages_process_opens_no_block(tmp_path):
    """What predicts and draws loads no torch, and runs no file that a link may name."""
    code = (
        "import sys\nfrom parallel_core.plan import Plan\n"
        f"try:\n    Plan.of(block={SAMPLE!r})\n"
        "except ValueError as error:\n    print(error)\n"
        "assert 'torch' not in sys.modules and 'own_block_sample' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "only a run opens" in done.stdout


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        ("self.up(x) + self.other(x)[:, :1].mean()", "mixes the rows"),
        ("F.dropout(self.up(x) + self.other(x), 0.5)", "two results for one input"),
        ("self.up(x)", "does not use its parameter other.weight"),
        ("(self.up(x) + self.other(x))[..., :4]", "must keep the shape"),
        ("self.up(x) + self.missing", "fails in its trial: AttributeError"),
        ("self.up(x.mul_(2)) + self.other(x)", "writes into what comes in"),
        ("self.up(x) + self.other(x) if len(x) > 1 else len(0)", "fails in its trial: TypeError"),
    ],
)
def test_a_block_that_would_be_wrong_under_some_layout_is_refused(tmp_path, forward, words):
    """Before anything runs, in one sentence."""
    plan = Plan.of(**SMALL, block=written(tmp_path, LINEAR.format(forward)))
    with pytest.raises(PlanError, match=words):
        param_specs(plan)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("    def __init__(self, d_model):\n        super().__init__()\n", "asks for d_model"),
        ("    def __init__(self):\n        super().__init__()\n", "has no parameters"),
        ("    def __init__(self):\n        raise OSError('no')\n", "fails in its trial: OSError"),
        ("    x = 1 / 0\n", "cannot be opened: ZeroDivisionError"),
        ("    pass\nraise SystemExit(0)\n", "cannot be opened: SystemExit"),
        ("    pass\nBlock = 3\n", "there is no Block"),
        (WEIGHT.format("torch.tensor(0.5)"), "of no dimension, w"),
        (WEIGHT.format("torch.ones(4, dtype=torch.cfloat)"), "complex"),
        (WEIGHT.format("torch.ones(4), requires_grad=False"), "is not trained, w"),
    ],
)
def test_a_block_that_cannot_be_made_is_refused(tmp_path, body, words):
    """The name it asks for, or what its code raised."""
    with pytest.raises(PlanError, match=words):
        param_specs(Plan.of(**SMALL, block=written(tmp_path, body)))


@pytest.mark.parametrize(
    ("choice", "field"),
    [
        ({"tp": 2}, "tp"),
        ({"cp": 2}, "cp"),
        ({"experts": 4}, "experts"),
        ({"recompute": "selective"}, "recompute"),
        ({"offload": True}, "offload"),
        ({"pp": 2, "schedule": "zb-h1"}, "schedule"),
    ],
)
def test_what_needs_the_labs_own_block_is_refused(choice, field):
    """With the field, and what works instead."""
    with pytest.raises(PlanError) as told:
        plan_of(**choice)
    assert told.value.field == field


def test_a_block_may_build_upon_the_length_of_a_row_and_hold_a_dataclass(tmp_path):
    """It is tried on rows as long as the plan's, in a module that can be looked up."""
    file = tmp_path / "theirs.py"
    file.write_text(FIXED)
    plan = Plan.of(**SMALL, block=f"{file}:Block")
    assert {spec.shape for spec in param_specs(plan) if spec.unit == "layer0"} == {(16, 32)}


FIXED = """
from __future__ import annotations
from dataclasses import dataclass
import torch
from torch import nn
@dataclass
class Start:
    gain: float = 0.1
class Block(nn.Module):
    def __init__(self, hidden, seq):
        super().__init__()
        self.at = nn.Parameter(Start().gain * torch.randn(seq, hidden))
    def forward(self, x):
        return x * self.at
"""


def test_saving_under_names_it_has_not_is_refused():
    """Hugging Face knows no such block."""
    with pytest.raises(PlanError, match="Hugging Face"):
        Request(plan=plan_of(), save_weights="somewhere")


def test_a_plan_holds_the_code_it_was_made_of(tmp_path):
    """A file that has changed since is told, and a new plan is another plan."""
    block = written(tmp_path, LINEAR.format("self.up(x) + self.other(x)"))
    plan = Plan.of(**SMALL, block=block)
    assert Plan.of(**plan.flat()) == plan
    written(tmp_path, LINEAR.format("self.up(x) - self.other(x)"))
    with pytest.raises(PlanError, match="not the file that was asked for"):
        Plan.of(**plan.flat())
    assert Plan.of(**SMALL, block=block) != plan


@pytest.mark.parametrize("text", ["Block", "block.py", "block.py:", "block.txt:Block", ":", ""])
def test_what_names_no_class_of_a_file_is_told(text):
    """With an example of what does."""
    with pytest.raises(PlanError, match="must be a file and a class"):
        Plan.of(block=text)
