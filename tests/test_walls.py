"""Claims about the three walls: sizes counted from shapes, bytes, work; held against papers."""

import math

import pytest

from parallel_core.hardware.devices import DEVICES
from parallel_core.plan import ModelShape
from parallel_core.published import table
from parallel_core.taxonomy import QUESTIONS, TAXONOMY, Wall, map_rows, question_rows, wall_rows
from parallel_core.views.palette import TENSORS
from parallel_core.walls.compute import (
    DAY,
    YEAR,
    attention_train_flops,
    decode_attention_flops,
    prefill_attention_flops,
    train_flops,
    trainable_params,
    training_cost,
    training_seconds,
)
from parallel_core.walls.memory import (
    RECIPES,
    Holds,
    Keep,
    activation_bytes,
    devices_needed,
    kv_cache_bytes,
    training_state,
)
from parallel_core.walls.models import PRESETS, Preset

MIXED = RECIPES["bf16, Adam, fp32 master"]


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_the_count_from_the_shape_is_the_printed_total(preset):
    """Parameters counted from the shape agree with the paper's rounded total within 1 %."""
    if preset.printed is None:
        assert preset.rumour or preset.name == "ours"
    else:
        assert preset.params == pytest.approx(preset.printed, rel=0.01)


def test_llama_3_to_the_parameter():
    """8,030,261,248 for 8B and 70,553,706,496 for 70B, as their checkpoints hold."""
    assert PRESETS["Llama 3 8B"].params == 8_030_261_248
    assert PRESETS["Llama 3 70B"].params == 70_553_706_496


def test_deepseek_v2_uses_a_tenth_of_itself():
    """236B parameters, of which a token passes through about 21B."""
    assert PRESETS["DeepSeek-V2 236B"].active_params == pytest.approx(21e9, rel=0.02)


@pytest.mark.parametrize("row", table("megatron2021_table1").rows, ids=lambda r: r["params_B"])
def test_megatron_sizes_by_our_count(row):
    """The ten models of Megatron-LM's table 1 (V = 51,200, s = 2,048) come out at its sizes."""
    shape = ModelShape(
        dialect="gpt", layers=row["layers"], hidden=row["hidden"], heads=row["heads"],
        vocab=51200, tied=True,
    )  # fmt: skip
    preset = Preset(name="megatron", source="", shape=shape, positions=2048)
    assert round(preset.params / 1e9, 1) == row["params_B"]


def test_a_rumour_is_called_one():
    """5 to 7 trillion weights are 10 to 14 TB in bf16: 125 to 175 devices of 80 GB."""
    five, seven = PRESETS["rumoured 5T"], PRESETS["rumoured 7T"]
    assert five.rumour and seven.rumour and "rumour" in five.source
    assert [2 * p.params / 1e12 for p in (five, seven)] == [10, 14]
    assert [devices_needed(2 * p.params, 80e9) for p in (five, seven)] == [125, 175]
    assert five.kv_elements_per_token is None


def test_bytes_per_parameter():
    """16 for bf16 with Adam and an fp32 master, 12 with bf16 moments, 16 for plain fp32 Adam."""
    assert [recipe.bytes_per_param for recipe in RECIPES.values()] == [16, 12, 18, 16, 12, 8]
    assert [part.bytes_per_param for part in MIXED.components] == [2, 2, 4, 4, 4]


@pytest.mark.parametrize("row", [r for r in table("zero_table1").rows if r["Nd"] == 1])
def test_training_state_is_zero_papers(row):
    """One device without sharding holds what ZeRO's table 1 prints for 7.5B, 128B and 1T."""
    state = training_state(row["params_B"] * 1e9, MIXED)
    assert sum(state.values()) == row["GB_per_device"] * 1e9


def test_largest_model_on_one_a100():
    """80 GB at 12 bytes a parameter hold 6.66B (the lecture cuts off the next digit)."""
    row = table("lecture_zero_8xA100").row(strategy="DDP")
    size = RECIPES["bf16, Adam with bf16 moments"].bytes_per_param
    assert size == row["bytes_per_param"]
    assert 80 / size == pytest.approx(row["max_params_B"], abs=0.01)


def test_gpt3_weights():
    """GPT-3 in 16 bits is 350 GB: five devices of 80 GB before the first activation."""
    weights = 2 * PRESETS["GPT-3 175B"].params
    assert weights / 1e9 == pytest.approx(350, rel=0.01)
    assert devices_needed(weights, DEVICES["H100 SXM"].memory) == 5


def test_every_component_has_a_colour():
    """What a component holds is a key of the palette, so no figure has to guess."""
    assert {holds.value for holds in Holds} <= set(TENSORS)


@pytest.mark.parametrize("preset, printed", [
    ("Llama 3 8B", "Llama-3-8B"), ("Llama 3 70B", "Llama-2-70B / Llama-3-70B"),
    ("Llama 3 405B", "Llama-3.1-405B"),
])  # fmt: skip
def test_kv_cache_per_token(preset, printed):
    """Bytes of cache a token leaves behind, from the shape and from the formula, as printed."""
    row = table("dsv3_isca_kv").row(model=printed)
    elements = PRESETS[preset].kv_elements_per_token
    assert elements is not None and 2 * elements == row["bytes_per_token"]
    formula = kv_cache_bytes(1, 1, row["n_kv"], row["d_head"], layers=row["layers"])
    assert formula == row["bytes_per_token"]


def test_a_long_context_of_a_70b_model():
    """65,536 more tokens of a 70B GQA model are 21.5 GB in bf16; 2.68 GB a device at tp = 8."""
    total = kv_cache_bytes(1, 65536, 8, 128, layers=80)
    assert round(total / 1e9, 1) == 21.5 and round(total / 8e9, 2) == 2.68


def test_activations_of_a_gpt3_layer():
    """s=2048, b=1, h=12288, a=96: 34 + 80 times sbh, 2,869 MB; 2sbh, 50 MB, if recomputed."""
    sizes = [activation_bytes(1, 2048, 12288, 96, keep) for keep in Keep]
    sbh = 2048 * 12288
    assert sizes == [sbh * (34 + 80), sbh * 34, sbh * 2]
    assert [round(size / 1e6) for size in sizes] == [2869, 856, 50]


def test_a_trillion_parameters_take_a_lifetime():
    """1T parameters on 300B tokens: 1.8e24 FLOP, 57.1 years of one petaflop device."""
    flops = train_flops(1e12, 300e9)
    assert flops == 1.8e24
    assert round(training_seconds(flops, 1e15) / YEAR, 1) == 57.1


@pytest.mark.parametrize("item, params, tokens, devices, rate", [
    ("175B, 300B tokens, 1024 A100, B=1536, 140 TF/GPU -> days", 175e9, 300e9, 1024, 140e12),
    ("1T, 450B tokens, 3072 A100, 163 TF/GPU -> days", 1.008e12, 450e9, 3072, 163e12),
])  # fmt: skip
def test_megatrons_training_days(item, params, tokens, devices, rate):
    """With the recomputed forward (8ND, not 6ND) the formula gives the days Megatron prints."""
    seconds = training_seconds(train_flops(params, tokens) * 8 / 6, rate, devices=devices)
    assert round(seconds / DAY) == table("megatron2021_text").row(item=item)["value"]


@pytest.mark.parametrize("row", table("llama3_table4").rows, ids=lambda r: r["seq"])
def test_llama3_step_times(row):
    """The attention term doubles 405B's work at 131k tokens; each convention gives its step."""
    model = PRESETS["Llama 3 405B"]
    tokens, rate = row["tokens_per_batch"], row["tflops_per_gpu"] * 1e12
    shape = model.shape
    assert isinstance(shape, ModelShape)
    for causal, column in ((True, "step_s_if_causal_attn"), (False, "step_s_if_full_attn")):
        extra = attention_train_flops(shape.layers, shape.hidden, row["seq"], tokens, causal=causal)
        work = train_flops(model.params, tokens) + extra
        assert work / rate / row["gpus"] == pytest.approx(row[column], rel=0.005)


def test_a_token_rate_says_how_large_a_model_is():
    """8M tokens/s on 1,024 H100 at 40 % of their peak train 8.4B parameters."""
    peak = DEVICES["H100 SXM"].flops("bfloat16")
    params = trainable_params(8e6, peak, devices=1024, mfu=0.4)
    assert round(params / 1e9, 1) == 8.4
    second = training_seconds(train_flops(params, 8e6), peak, devices=1024, mfu=0.4)
    assert second == pytest.approx(1.0)


def test_deepseek_v3s_bill():
    """2.788M H800-hours at 2 dollars are the 5.576M dollars of its report."""
    hours = table("dsv3_cost").row(item="total K hours")["value"] * 1e3
    assert training_cost(hours / 2048 * 3600, 2048, 2.0) == pytest.approx(5.576e6)


def test_attention_grows_with_the_square_in_prefill_and_linearly_in_decode():
    """Twice the prompt: four times the prefill, twice the cost of each decoded token."""
    assert prefill_attention_flops(4096, 128) == 4 * prefill_attention_flops(2048, 128)
    assert decode_attention_flops(4096, 128) == 2 * decode_attention_flops(2048, 128)
    grown = sum(decode_attention_flops(n + 1, 128) for n in range(2048))
    assert grown == pytest.approx(prefill_attention_flops(2048, 128) / 2, rel=1e-3)


def test_nonsense_gets_a_sentence():
    """An MFU above 1 and a device without memory are refused with what would work."""
    with pytest.raises(ValueError, match="mfu=40 must lie in"):
        training_seconds(1.0, 1.0, mfu=40)
    with pytest.raises(ValueError, match="capacity=0 must be above 0 bytes"):
        devices_needed(1.0, 0)
    with pytest.raises(ValueError, match="needs a shape or a size"):
        _ = Preset(name="ghost", source="").params


def test_devices_needed_is_the_least():
    """One device fewer would not hold it."""
    for total in (1.0, 80e9, 80e9 + 1, 350e9):
        count = devices_needed(total, 80e9)
        assert count * 80e9 >= total and (count == 1 or (count - 1) * 80e9 < total)
    assert math.ceil(350 / 80) == devices_needed(350e9, 80e9)


def test_the_map_answers_everything():
    """Every method answers the four questions, names its dimension, framework and price."""
    assert next(iter(QUESTIONS.values())) == "What is split?" and len(QUESTIONS) == 4
    for rows in (map_rows(), question_rows()):
        assert len(rows) == len(TAXONOMY)
        assert all(value for row in rows for value in row.values())
    families = {method.family for method in TAXONOMY}
    assert families == {"model parallel", "data parallel", "sequence and context", "hybrid"}


def test_each_wall_falls_to_somebody():
    """Each of the three walls is taken down by a method, and no method is free of charge."""
    assert {wall for method in TAXONOMY for wall in method.walls} == set(Wall)
    assert all(row["introduces"] for row in wall_rows())
