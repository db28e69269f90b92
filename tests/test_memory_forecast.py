"""`shardlab memory` of a plan: what it says is what the program of that plan would hold."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from parallel_core.activations.saved import saved_bytes
from parallel_core.cases import program_of
from parallel_core.cli import memory_command
from parallel_core.cli.forecast_tables import size_text
from parallel_core.cli.memory_forecast import forecast, stand_in
from parallel_core.fields import PlanError
from parallel_core.ledger import predicted_memory
from parallel_core.params import param_specs
from parallel_core.peak import predicted_peak
from parallel_core.pieces import pieces
from parallel_core.plan import Plan, flat_fields
from parallel_core.walls.models import PRESETS
from parallel_core.walls.sharding import NEVER_COUNTED

ROOM = 80e9
GPT3 = ("--model=GPT-3", "--tp=8", "--global-batch=1", "--dropout=0.1", "--vocab=51200")


def typed(*words: str) -> Result:
    return CliRunner().invoke(memory_command.command, list(words), catch_exceptions=False)


def answer(*words: str) -> dict[str, Any]:
    return json.loads(typed(*words, "--json").stdout)


@st.composite
def plans(draw):
    """Small plans of every axis that can be forecast, with more microbatches than matter."""
    layout = draw(st.sampled_from([
        {"dp": 1}, {"dp": 4}, {"dp": 3, "dp_method": "naive"}, {"tp": 2}, {"tp": 4, "dp": 2},
        {"tp": 2, "sp": True}, {"dp": 2, "zero": 1}, {"dp": 4, "zero": 2}, {"dp": 4, "zero": 3},
        {"dp": 4, "zero": 3, "shard": 2, "keep_gathered": True}, {"pp": 2, "dp": 2},
        {"pp": 4, "schedule": "gpipe"}, {"pp": 2, "schedule": "zb-h1"},
        {"pp": 2, "schedule": "interleaved", "virtual_stages": 2},
        {"dp": 2, "parameter_server": "sync"}, {"offload": True}, {"offload": True, "dp": 2},
    ]))  # fmt: skip
    again = draw(st.sampled_from([
        {}, {"recompute": "selective"}, {"recompute": "full"},
        {"recompute": "full", "recompute_every": 2},
    ]))  # fmt: skip
    m = 1 if "parameter_server" in layout else draw(st.sampled_from([1, 2, 6]))
    m = m if "pp" not in layout else 8
    size = {"layers": 4, "hidden": 32, "heads": 4, "seq": 16, "vocab": 64, "microbatches": m}
    size["global_batch"] = m * layout.get("dp", 1) * draw(st.integers(1, 2))
    return Plan.of(**size | layout | again, dialect=draw(st.sampled_from(["gpt", "llama"])))


@given(plans())
def test_fewer_ranks_and_microbatches_say_the_same(plan):
    """Every figure is that of the whole plan's own program, rank by rank."""
    found = forecast(plan, ROOM)["ranks"]
    peak, resident = predicted_peak(plan, program_of(plan)), predicted_memory(plan)
    assert sum(row["ranks"] for row in found) == plan.world_size
    small = stand_in(plan)
    assert small.rows_per_microbatch == plan.rows_per_microbatch
    rows = {(*row["resident"].values(), *row["peak"].values(), row["total_at_peak"]): row
            for row in found}  # fmt: skip
    for rank in range(plan.world_size):
        state = [resident[kind][rank] for kind in ("params", "grads", "optimizer")]
        most = [peak[kind][rank] for kind in (*resident, "activations", "total")]
        row = rows[*state, *most]
        assert row["fits"] == (row["total_at_peak"] <= ROOM)


@pytest.mark.parametrize("schedule", ["1f1b", "gpipe"])
def test_a_pipeline_holds_the_microbatches_in_flight(schedule):
    """Its activations are those of its stage times what its order has in flight, rank by rank."""
    plan = Plan.of(pp=4, schedule=schedule, layers=8, microbatches=6, global_batch=6)
    found = forecast(plan, ROOM)["ranks"]
    assert [row["who"] for row in found] == [f"pipeline rank {i}" for i in range(4)]
    for row, piece, flight in zip(found, pieces(plan), plan.pipeline.in_flight, strict=True):
        assert row["microbatches_in_flight"] == flight
        kept = sum(saved_bytes(plan, unit) for unit in piece.units)
        assert row["activations_per_microbatch"] == kept
        assert row["peak"]["activations"] == flight * kept
    assert [row["microbatches_in_flight"] for row in found] == (
        [4, 3, 2, 1] if schedule == "1f1b" else [6] * 4
    )


@given(plans())
def test_the_units_add_up(plan):
    """A rank's microbatch is all its units; classic and differences are what is here."""
    found = forecast(plan, ROOM)
    every = found["units"].values()
    assert sum(unit["units"] for unit in every) == plan.model.layers + 2
    if plan.pp == 1:
        total = sum(unit["units"] * unit["bytes"] for unit in every)
        assert found["ranks"][0]["activations_per_microbatch"] == total
    for unit in every:
        assert unit["bytes"] == sum(unit["rows"].values())
        if "classic" in unit:
            more = sum(d["bytes"] for d in unit["classic"]["differences"])
            assert unit["classic"]["bytes"] + more == unit["bytes"] == unit["formula"]["bytes"]


def test_offloading_and_every_other_layer():
    """Two kinds of layer; the host takes every layer's but the last, the device what is left."""
    plan = Plan.of(layers=4, offload=True, recompute="full", recompute_every=2)
    found = forecast(plan, ROOM)
    assert [(name, unit["units"]) for name, unit in found["units"].items()] == [
        ("embed", 1), ("layer0", 2), ("layer1", 2), ("head", 1)
    ]  # fmt: skip
    assert found["units"]["layer0"]["again_bytes"] > found["units"]["layer1"]["again_bytes"] == 0
    (row,) = found["ranks"]
    assert 0 < row["host_per_microbatch"] < row["activations_per_microbatch"]


# -- the command -----------------------------------------------------------------------------------


@pytest.mark.parametrize("words, kept", [
    ((), "579 MB"), (("--sp",), "359 MB"), (("--sp", "--recompute=selective"), "107 MB"),
    (("--recompute=full",), "50.3 MB"), (("--sp", "--recompute=full"), "6.29 MB"),
])  # fmt: skip
def test_a_layer_of_gpt3_on_eight_ranks(words, kept):
    """579, 359, 107; 50 and 6.3 MB, in JSON and on the screen."""
    found = answer(*GPT3, *words)
    assert size_text(found["units"]["layer0"]["bytes"]) == kept
    assert found["units"]["layer0"]["classic"]["text"] in typed(*GPT3, *words).stdout
    assert kept in typed(*GPT3, *words).stdout


def test_gpt3_on_eight_h100_is_far_from_fitting():
    """An eighth of 175 B parameters at 16 bytes, positions whole: 350 GB, then 10 of
    activations."""
    found = answer(*GPT3, "--sp", "--recompute=selective", "--device=h100")
    (row,) = found["ranks"]
    state = sum(row["resident"].values())
    assert row["ranks"] == 8 and not row["fits"]
    assert state == pytest.approx(16 * found["params"] / 8, rel=2e-3)
    assert row["activations_per_microbatch"] == pytest.approx(96 * 107e6, rel=0.01)
    assert row["total_at_peak"] < state + 1.05 * row["activations_per_microbatch"]
    assert found["device"] == {"name": "H100 SXM", "bytes": 80e9}
    assert found["plan"] == Plan.of(**found["plan"]).flat()


def test_a_model_by_name_brings_its_shape():
    """Layers, sizes, context and bfloat16; what is typed beside it comes first."""
    found = answer("--model=llama 3 8", "--tp=4", "--seq=4096", "--global-batch=1")
    shape = PRESETS["Llama 3 8B"].shape
    assert found["plan"]["layers"] == shape.layers and found["plan"]["ffn"] == shape.ffn
    assert (found["plan"]["seq"], found["plan"]["dtype"]) == (4096, "bfloat16")
    assert found["params"] == PRESETS["Llama 3 8B"].params
    assert answer("--model=llama 3 8", "--tp=4")["plan"]["seq"] == PRESETS["Llama 3 8B"].context


def test_every_field_of_a_plan_can_be_asked():
    """Each is an option; one alone is enough, and its default is the plan's own."""
    told = typed("--help").output
    assert all(f"--{name.replace('_', '-')}" in told for name in flat_fields())
    assert answer("--layers=4")["plan"] == Plan().flat()
    assert answer("--no-tied")["params"] == sum(spec.numel for spec in param_specs(Plan()))


@pytest.mark.parametrize("words, field", [
    (("--params=7e9", "--tp=2"), "params"), (("--model=rumoured", "--tp=2"), "model"),
    (("--model=deepseek", "--seq=64"), "model"), (("--tp=3",), "tp"), (("--sp",), "sp"),
    (("--pp=4", "--schedule=pipedream"), "schedule"), (("--tp=2", "--device=hal"), "device"),
])  # fmt: skip
def test_what_cannot_be_forecast_is_one_sentence(words, field):
    with pytest.raises(PlanError, match=f"^{field}=.*nearest value that works"):
        typed(*words)


def test_what_is_not_counted_is_said():
    found = answer("--layers=2")
    assert set(NEVER_COUNTED) < set(found["not_counted"])
    told = " ".join(typed("--layers=2").stdout.split())
    assert all(text in told for text in found["not_counted"])


@pytest.mark.parametrize("words", [
    (*GPT3, "--microbatches=64", "--global-batch=64"),
    ("--model=GPT-3", "--pp=8", "--dp=8", "--microbatches=64", "--global-batch=512"),
])  # fmt: skip
def test_ninety_six_layers_take_less_than_a_second(words):
    """Of the processor, 64 microbatches and 8 ranks."""
    start = time.process_time()
    answer(*words)
    assert time.process_time() - start < 1


def test_a_forecast_loads_no_torch():
    code = (
        "import sys; from parallel_core.cli.memory_command import command;"
        "command(['--tp', '2', '--json'], standalone_mode=False);"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
