"""`shardlab memory` says what walls/sharding.py says, as a table and as JSON, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from click.testing import CliRunner, Result

from parallel_core.cli import COMMANDS, memory_command
from parallel_core.fields import PlanError
from parallel_core.walls.models import PRESETS
from parallel_core.walls.request import MemoryRequest
from parallel_core.walls.sharding import NOT_COUNTED, largest_model, state_per_rank


def typed(*words: str) -> Result:
    return CliRunner().invoke(memory_command.command, list(words), catch_exceptions=False)


def answer(*words: str) -> dict[str, Any]:
    done = typed(*words, "--json")
    assert done.exit_code == 0
    return json.loads(done.stdout)


def test_one_stage_of_the_papers_example():
    """7.5 B on 64 ranks at stage 3: 1.88 GB a rank, which fits an H100."""
    found = answer("--zero=3", "--dp=64", "--params=7.5e9", "--device=h100")
    (row,) = found["stages"]
    assert row["total_bytes"] == pytest.approx(1.875e9) and row["fits"]
    assert found["device"] == {"name": "H100 SXM", "bytes": 80e9}
    assert row["largest_params"] == largest_model(80e9, zero=3, n=64)


def test_all_stages_side_by_side():
    """Without --zero each stage is a row, and its kinds of state are the formula's."""
    found = answer("--dp=64")
    assert [row["zero"] for row in found["stages"]] == [0, 1, 2, 3]
    assert [row["fits"] for row in found["stages"]] == [False, True, True, True]
    for row in found["stages"]:
        state = state_per_rank(7.5e9, zero=row["zero"], n=64)
        assert {f"{kind.value}_bytes": size for kind, size in state.items()}.items() <= row.items()
        assert row["largest_shape"]["params"] <= row["largest_params"]
        assert row["largest_shape"]["bytes"] <= 80e9
    assert found["not_counted"] == list(NOT_COUNTED)


def test_the_table_says_the_same():
    """Figures of the paper, what fits, and what is not counted."""
    told = typed("--dp=64", "--device=80e9").stdout
    for figure in ("120 GB", "31.4 GB", "16.6 GB", "1.88 GB", "not counted", "activations"):
        assert figure in told


def test_a_model_by_name_is_counted_from_its_shape():
    """Any beginning of its name will do, whatever the case."""
    found = answer("--model=llama 3 70", "--dp=8")
    assert found["params"] == PRESETS["Llama 3 70B"].params


def test_bfloat16_moments_are_eight_bytes():
    """K = 8, and the largest model grows."""
    small, large = answer("--moments=bfloat16", "--zero=3"), answer("--zero=3")
    assert (small["k"], large["k"]) == (8, 12)
    assert small["stages"][0]["largest_params"] > large["stages"][0]["largest_params"]


def test_nothing_fits_a_tiny_device():
    """Said in words, and null in JSON."""
    assert answer("--device=1e6", "--zero=0")["stages"][0]["largest_shape"] is None
    assert "not even the smallest" in typed("--device=1e6", "--zero=0").stdout


@pytest.mark.parametrize("wrong", [
    {"zero": 4}, {"dp": 0}, {"params": 0}, {"device": "hal"}, {"device": "-1"}, {"device": "nan"},
    {"moments": "int8"}, {"model": "nobody's"}, {"device": ""},
])  # fmt: skip
def test_a_wrong_choice_is_one_sentence(wrong):
    """It names the field and a value that works."""
    with pytest.raises(PlanError, match=f"^{next(iter(wrong))}=.*nearest value that works"):
        MemoryRequest(**wrong)


def test_a_model_and_a_number_are_too_much():
    with pytest.raises(PlanError, match="says what model says already"):
        MemoryRequest(params=1e9, model="GPT-3")


def test_help_has_examples_and_every_field():
    """The options are the request's fields."""
    told = typed("--help").output
    assert "shardlab memory --zero 3 --dp 64 --params 7.5e9" in told
    assert all(f"--{name}" in told for name in MemoryRequest.__dataclass_fields__)
    assert "memory" in COMMANDS


def test_the_command_loads_no_torch():
    code = "import sys, parallel_core.cli.memory_command; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
