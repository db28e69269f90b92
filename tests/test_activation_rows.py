"""What a layer keeps: the classic formulas, ours, and what live tensors weigh."""

from __future__ import annotations

import re
from collections import Counter
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from parallel_core import attention as attention_module
from parallel_core import model as model_module
from parallel_core.activations.classic import classic_rows, differences
from parallel_core.activations.formula import Formula, block_of, classic, laid_out, sizes_of
from parallel_core.activations.meter import metering
from parallel_core.activations.saved import saved_bytes, saved_rows
from parallel_core.kernels import TrainKernels
from parallel_core.model import Place, Transformer, init_weights
from parallel_core.params import units
from parallel_core.plan import DType, Plan
from parallel_core.published import table
from parallel_core.resident import activations
from parallel_core.walls.memory import Keep, activation_bytes

GPT3 = {"hidden": 12288, "heads": 96, "seq": 2048, "global_batch": 1, "vocab": 256}
GPT = {"dialect": "gpt", "dropout": 0.1, "dtype": "bfloat16"}
SMALL = {"layers": 2, "hidden": 64, "heads": 4, "seq": 64, "vocab": 64, "global_batch": 2}
LAYERS = ("layer0", "layer1")
BLOCKS = {
    "classic": GPT,
    "classic, float32": GPT | {"dtype": "float32"},
    "gpt, fused": GPT | {"dropout": 0.0},
    "gpt, unfused": GPT | {"dropout": 0.0, "attention": "unfused"},
    "gpt, narrow": GPT | {"ffn": 96},
    "llama": {"dialect": "llama", "kv_heads": 2, "dtype": "bfloat16"},
    "llama, unfused": {"dialect": "llama", "kv_heads": 1, "attention": "unfused"},
    "llama, float64": {"dialect": "llama", "dtype": "float64"},
}
RECOMPUTE = [{"recompute": "none"}, {"recompute": "selective"}, {"recompute": "full"}]
RECOMPUTE += [{"recompute": "selective", "recompute_every": 2}]


def classic_bytes(plan: Plan, unit: str = "layer0") -> int:
    return laid_out(plan, classic(DType(plan.dtype).bytes), unit).bytes(**sizes_of(plan))


# -- the formulas --------------------------------------------------------------------------------


@pytest.mark.parametrize("layout, text, megabytes", [
    ({}, "sbh(34 + 5as/h)", 2869),
    ({"tp": 8}, "sbh(10 + 24/t + 5as/(ht))", 579),
    ({"tp": 8, "sp": True}, "sbh(34/t + 5as/(ht))", 359),
    ({"tp": 8, "recompute": "selective"}, "sbh(10 + 24/t)", 327),
    ({"tp": 8, "sp": True, "recompute": "selective"}, "sbh(34/t)", 107),
    ({"tp": 8, "recompute": "full"}, "sbh(2)", 50),
    ({"tp": 8, "sp": True, "recompute": "full"}, "sbh(2/t)", 6),
    ({"dtype": "float32"}, "sbh(66 + 9as/h)", 5285),
])  # fmt: skip
def test_a_layer_of_gpt3(layout, text, megabytes):
    """2869, 579, 359, 107; full 50 or 6.3 MB; its rows add up to the formula."""
    plan = Plan.of(**GPT3 | GPT | layout)
    found = laid_out(plan, classic(DType(plan.dtype).bytes))
    assert found.text == text
    size = found.bytes(**sizes_of(plan))
    assert round(size / 1e6) == megabytes
    assert sum(classic_rows(plan).values()) == size


@pytest.mark.parametrize("row", table("korthikanti_table2").rows[:6], ids=lambda r: str(r))
@given(t=st.sampled_from([2, 4, 8]), s=st.sampled_from([64, 512]), b=st.integers(1, 4))
def test_the_papers_own_words_give_the_same_bytes(row, t, s, b):
    """Each formula of table 2, as printed, computed by python."""
    words = row["configuration"]
    layout = {"tp": 1 if words == "no parallelism" else t, "sp": "sequence" in words}
    recompute = next((k for k in ("selective", "full") if k in words), "none")
    if recompute == "full":
        layout["tp"] = 1
    plan = Plan.of(hidden=128, heads=8, seq=s, global_batch=b, recompute=recompute, **layout, **GPT)
    text = re.sub(r"(?<=[0-9a-z)])(?=[a-z(])", "*", row["bytes_per_layer"])
    value = eval(text, {"s": s, "b": b, "h": 128, "a": 8, "t": layout["tp"]})
    assert classic_bytes(plan) == value == sum(classic_rows(plan).values())


@st.composite
def plans(draw):
    tp = draw(st.sampled_from([1, 2, 4]))
    kv = draw(st.sampled_from([1, 2, 4, 8]))
    model = dict(draw(st.sampled_from(list(BLOCKS.values()))))
    if "kv_heads" in model:
        model["kv_heads"] = kv
    layout = {"tp": tp, "sp": tp > 1 and draw(st.booleans())} | draw(st.sampled_from(RECOMPUTE))
    m = draw(st.integers(1, 3))
    size = {"layers": 2, "hidden": draw(st.sampled_from([64, 80])), "heads": 8, "seq": 32}
    batch = m * draw(st.integers(1, 3))
    return Plan.of(**size | model | layout, microbatches=m, global_batch=batch)


@given(plans())
def test_classic_and_differences_are_ours(plan):
    """To the byte, whatever the plan; and each difference says why."""
    for unit in LAYERS:
        found = differences(plan, unit)
        classic_sum = sum(classic_rows(plan, unit).values())
        assert classic_sum == classic_bytes(plan, unit)
        assert classic_sum + sum(d.bytes for d in found) == saved_bytes(plan, unit)
        assert all(d.bytes and d.why for d in found)


@given(plans())
def test_each_kind_of_block_has_one_formula(plan):
    """gpt or llama, fused or not, whatever the layout: the closed form is the sum of the rows."""
    for unit in LAYERS:
        ours = laid_out(plan, block_of(plan), unit)
        assert ours.bytes(**sizes_of(plan)) == saved_bytes(plan, unit)


def test_the_formulas_of_the_other_blocks():
    """As a reader finds them written."""
    texts = {name: block_of(Plan.of(**SMALL | b)).formula().text for name, b in BLOCKS.items()}
    assert texts["gpt, fused"] == "sbh(32 + 8/h + 4a/h)"
    assert texts["llama"] == "sbh(22 + 8/h + 4g/a + 8F/h + 4a/h + 8/(ab))"


def test_the_only_differences_of_the_classic_block_are_two_numbers_a_token_and_norm():
    plan = Plan.of(**SMALL | GPT)
    rows = {d.row: d.bytes for d in differences(plan)}
    tokens = plan.rows_per_microbatch * plan.seq
    assert rows == dict.fromkeys(["attn norm mean, 1/std", "mlp norm mean, 1/std"], 2 * 2 * tokens)


def test_the_walls_page_counts_with_the_same_formula():
    sizes = {"batch": 1, "seq": 2048, "hidden": 12288, "heads": 96}
    for keep, recompute in zip(Keep, ("none", "selective", "full"), strict=True):
        plan = Plan.of(**GPT3 | GPT, recompute=recompute)
        assert activation_bytes(**sizes, keep=keep) == classic_bytes(plan)


# -- live tensors --------------------------------------------------------------------------------


@pytest.mark.parametrize("block, recompute", list(product(BLOCKS, RECOMPUTE)), ids=str)
def test_one_process_keeps_what_the_rows_say(block, recompute):
    """Every unit to the byte; the classic block within 1 % of the classic formula."""
    plan = Plan.of(**SMALL | BLOCKS[block] | recompute)
    kept = activations(TrainKernels(plan, 0, None, torch.device("cpu")))
    assert kept == {unit: saved_bytes(plan, unit) for unit in kept} and set(LAYERS) < set(kept)
    if block.startswith("classic"):
        for unit in LAYERS:
            assert kept[unit] == pytest.approx(classic_bytes(plan, unit), rel=0.01)


def layouts(n: int) -> list[Plan]:
    """The five rows, the float32 row, and the further blocks, over n ranks."""
    ways = product((False, True), RECOMPUTE)
    rows = [Plan.of(**SMALL | GPT | more, tp=n, sp=sp) for sp, more in ways]
    others = [b for name, b in BLOCKS.items() if name != "classic"]
    more = product((False, True), others, RECOMPUTE[:2])
    return rows + [Plan.of(**SMALL | b | kind, tp=n, sp=sp) for sp, b, kind in more]


@pytest.mark.live
@pytest.mark.parametrize("n", [2, 4])
def test_ranks_keep_what_the_rows_say(n, on_ranks):
    """tp of 2 and 4, with and without sp and recomputation: each unit to the byte on every rank,
    the classic block within 1 % of sbh(10 + 24/t + 5as/(ht)), sbh(34/t + 5as/(ht)), ..."""
    plans, classics = layouts(n), 0
    for told in on_ranks(n, "activation_targets:kept", plans=[plan.flat() for plan in plans]):
        for plan, kept in zip(plans, told, strict=True):
            name = (plan.layout, plan.recompute, plan.model)
            assert kept == {unit: saved_bytes(plan, unit) for unit in units(plan.model)}, name
            if plan.model.dropout and plan.model.ffn is None:
                classics += 1
                for unit in LAYERS:
                    assert kept[unit] == pytest.approx(classic_bytes(plan, unit), rel=0.01), name
    assert classics >= n * 8


def test_tensor_by_tensor():
    """Each storage that one classic layer keeps has the size of a row, or of its equal parts."""
    parts = {"k, v": 2, "mlp": 2, "attn norm mean, 1/std": 2, "mlp norm mean, 1/std": 2}
    plan = Plan.of(**SMALL | GPT)
    expected: Counter[int] = Counter()
    for row, size in saved_rows(plan, "layer0").items():
        n = parts.get(row, 1)
        expected[size // n] += n
    assert Counter(storages(plan)) == expected


def storages(plan: Plan) -> list[int]:
    """Bytes of every storage that layer0 keeps."""
    model = Transformer(plan, only=["layer0"])
    init_weights(model, plan)
    place = Place(plan.seed, 0, torch.arange(plan.rows_per_microbatch), torch.arange(plan.seq))
    x = torch.zeros(plan.rows_per_microbatch, plan.seq, plan.model.hidden, dtype=torch.bfloat16)
    with metering(model.parameters()) as meter:
        model.forward_unit("layer0", x.requires_grad_(), place)
    return list(meter.kept.values())


def test_masks_in_the_activations_type_are_seen(monkeypatch):
    """A planted fault: torch's own dropout keeps 2-byte masks here, sbh(36 + 6as/h)."""
    plan = Plan.of(**SMALL | GPT)
    for module in (model_module, attention_module):
        monkeypatch.setattr(module, "dropout", lambda x, p, *_: torch.dropout(x, p, train=True))
    kept = activations(TrainKernels(plan, 0, None, torch.device("cpu")))["layer0"]
    sizes = sizes_of(plan)
    formula = Formula({("", ""): 36, ("as", "h"): 6, ("", "h"): 8})
    assert kept == formula.bytes(**sizes) > saved_bytes(plan, "layer0")
