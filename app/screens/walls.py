"""P1, Walls: weights, training state and work of a large model against one device, and the map.

Formulas only, no torch: the one measurement (screens/roofline.py) runs in a worker process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st

from parallel_core.hardware.devices import DEVICES, Device
from parallel_core.taxonomy import map_rows, question_rows, wall_rows
from parallel_core.views.walls import Slice, describe_memory, gigabytes, memory_bars
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
    Recipe,
    activation_bytes,
    devices_needed,
    training_state,
)
from parallel_core.walls.models import PRESETS, Preset
from screens import chrome, roofline

BOUND = "query-params"
DEVICE = "H100 SXM"


@dataclass(frozen=True)
class Setting:
    """What the reader chose on the memory section."""

    model: Preset
    recipe: Recipe
    device: Device
    batch: int
    seq: int
    keep: Keep


def page() -> None:
    """The page: one section at a time, its name in the URL."""
    chrome.header(
        "Walls",
        "A large model meets three walls on one device: its weights, its training state, its "
        "work. See how far away each is, and what every kind of parallelism does about it.",
    )
    name = st.segmented_control(
        "Section", list(SECTIONS), default="Memory", required=True, key="section", bind=BOUND
    )
    SECTIONS[name or "Memory"]()
    chrome.share("walls")


def memory() -> None:
    """Weights and training state against the memory of one device."""
    guess = chrome.predict(
        "walls.state",
        "7.5 billion parameters train in bf16, with Adam and an fp32 copy of the weights. How "
        "large is the training state, without activations?",
        unit="GB",
        high=10_000.0,
    )
    if not guess.settled:
        return
    chrome.reveal(guess, 7.5 * RECIPES["bf16, Adam, fp32 master"].bytes_per_param, "GB")
    chosen = _memory_controls()
    rows = {"training": _training(chosen), "serving": _serving(chosen)}
    device = chosen.device
    words = describe_memory(rows, device.memory, device=device.name)
    figure = memory_bars(rows, device.memory, device=device.name, dark=chrome.dark())
    chrome.chart(figure, words, "walls.memory")
    _verdict(sum(part.size for part in rows["training"]), device)
    _sizes(chosen)
    with st.expander("In words"):
        st.markdown(words)
    with st.expander("Where this comes from"):
        st.markdown(_sources(chosen))


def _memory_controls() -> Setting:
    left, middle, right = st.columns(3)
    model = left.selectbox("Model", list(PRESETS), index=2, key="model", bind=BOUND)
    recipe = middle.selectbox("Training recipe", list(RECIPES), key="recipe", bind=BOUND)
    device = right.selectbox(
        "Device", list(DEVICES), index=list(DEVICES).index(DEVICE), key="device", bind=BOUND
    )
    batch = left.number_input("Sequences on the device", 1, 4096, 1, key="batch", bind=BOUND)
    seq = middle.number_input("Tokens a sequence", 1, 1_048_576, 2048, key="seq", bind=BOUND)
    keep = right.selectbox(
        "Activations kept", [k.value for k in Keep], key="keep", bind=BOUND,
        help="What waits for the backward pass; the rest is computed again.",
    )  # fmt: skip
    return Setting(
        PRESETS[model], RECIPES[recipe], DEVICES[device], int(batch), int(seq), Keep(keep)
    )


def _training(chosen: Setting) -> list[Slice]:
    model, state = chosen.model, training_state(chosen.model.params, chosen.recipe)
    parts = [Slice(p.name, p.holds, state[p.name]) for p in chosen.recipe.components]
    if model.shape is not None:
        shape = model.shape
        layer = activation_bytes(chosen.batch, chosen.seq, shape.hidden, shape.heads, chosen.keep)
        parts.append(Slice("activations", Holds.ACTIVATIONS, float(layer * shape.layers)))
    return parts


def _serving(chosen: Setting) -> list[Slice]:
    parts = [Slice("weights", Holds.PARAMS, 2.0 * chosen.model.params)]
    elements = chosen.model.kv_elements_per_token
    if elements is not None:
        cache = 2.0 * elements * chosen.batch * chosen.seq
        parts.append(Slice("KV cache", Holds.KV_CACHE, cache))
    return parts


def _verdict(needed: float, device: Device) -> None:
    count = devices_needed(needed, device.memory)
    if count == 1:
        st.success(f"Training fits: {gigabytes(needed)} of {gigabytes(device.memory)}.")
        return
    st.error(
        f"Out of memory: training needs {gigabytes(needed)}, one {device.name} has "
        f"{gigabytes(device.memory)}. At least {count:,} of them have to share it."
    )


def _sizes(chosen: Setting) -> None:
    model, device = chosen.model, chosen.device
    state = sum(training_state(model.params, chosen.recipe).values())
    boxes = st.columns(4)
    boxes[0].metric("Parameters", f"{model.params / 1e9:,.4g} B")
    boxes[1].metric("Used per token", f"{model.active_params / 1e9:,.4g} B")
    boxes[2].metric("Devices, weights", f"{devices_needed(2 * model.params, device.memory):,}")
    boxes[3].metric("Devices, state", f"{devices_needed(state, device.memory):,}")
    if model.rumour:
        st.warning("The size of this model is a rumour. Nobody published its shape, so no "
                   "activations and no cache are drawn.")  # fmt: skip


def _sources(chosen: Setting) -> str:
    per_param = ", ".join(f"{p.name} {p.bytes_per_param}" for p in chosen.recipe.components)
    return (
        f"- Parameters: {chosen.model.source}; counted from the shape (`walls/models.py`).\n"
        f"- Bytes per parameter: {per_param} ({chosen.recipe.source}).\n"
        "- Activations: sbh(34 + 5as/h) a layer, arXiv:2205.05198. It counts 16-bit activations, "
        "as many kv heads as heads, a GELU MLP of width 4h and dropout: exact for GPT-3, an "
        "estimate for the others.\n"
        "- KV cache: layers x batch x tokens x 2 x kv heads x head width x 2 bytes; DeepSeek-V2 "
        "keeps one latent and one rotary key a layer (arXiv:2405.04434).\n"
        f"- Device: {chosen.device.source}."
    )


def work() -> None:
    """FLOPs, time and cost of a training run."""
    guess = chrome.predict(
        "walls.years",
        "One trillion parameters see 300 billion tokens on one device that does 1e15 FLOP/s, "
        "every second of the day. How long does it train?",
        unit="years",
        high=1e6,
    )
    if not guess.settled:
        return
    chrome.reveal(guess, training_seconds(train_flops(1e12, 300e9), 1e15) / YEAR, "years")
    left, middle, right = st.columns(3)
    model = PRESETS[left.selectbox("Model", list(PRESETS), index=6, key="model", bind=BOUND)]
    billions = left.number_input("Tokens, billions", 0.001, 1e6, 15_600.0, key="tokens", bind=BOUND)
    names = list(DEVICES)
    first = names.index(DEVICE)
    device = DEVICES[middle.selectbox("Device", names, index=first, key="device", bind=BOUND)]
    count = int(middle.number_input("Devices", 1, 1_000_000, 16_384, key="devices", bind=BOUND))
    mfu = right.slider("MFU, %", 1, 100, 40, key="mfu", bind=BOUND) / 100
    price = right.number_input("Dollars a device-hour", 0.0, 1000.0, 2.0, key="price", bind=BOUND)
    seq = left.number_input("Tokens a sequence", 1, 1_048_576, 8192, key="seq", bind=BOUND)
    flops, share = _flops(model, billions * 1e9, int(seq))
    peak = device.flops(device.half)
    seconds = training_seconds(flops, peak, devices=count, mfu=mfu)
    boxes = st.columns(4)
    boxes[0].metric("Work, FLOP", f"{flops:.3g}")
    boxes[1].metric("of which attention", f"{share:.1%}")
    boxes[2].metric("Time", _duration(seconds))
    boxes[3].metric("Cost, dollars", _money(training_cost(seconds, count, price)))
    rate = billions * 1e9 / seconds
    size = trainable_params(rate, peak, devices=count, mfu=mfu)
    st.markdown(
        f"{rate:,.3g} tokens a second. Turned round: at that rate {count:,} x {device.name} at "
        f"{mfu:.0%} of their peak keep a model of {size / 1e9:,.3g} B parameters busy (6N FLOP a "
        "token, attention counted as parameters)."
    )
    st.caption(
        "Model: 6ND (arXiv:2001.08361) + 12Lhs a token for attention (arXiv:2204.02311, the causal "
        "half not taken off); 2 dollars an hour as in arXiv:2412.19437, unless you change it."
    )
    _attention(model)


def _flops(model: Preset, tokens: float, seq: int) -> tuple[float, float]:
    """FLOPs of training, and the share of attention in them (0 where the shape is unknown)."""
    matmuls = train_flops(model.active_params, tokens)
    if model.shape is None:
        return matmuls, 0.0
    extra = attention_train_flops(model.shape.layers, model.shape.hidden, seq, tokens)
    return matmuls + extra, extra / (matmuls + extra)


def _attention(model: Preset) -> None:
    if model.shape is None:
        return
    st.markdown("**Attention reads a prompt in O(n²d) and decodes a token in O(n).**")
    layers, hidden = model.shape.layers, model.shape.hidden
    rows = [
        {
            "tokens n": f"{n:,}",
            "prefill, all weights (FLOP)": f"{2 * model.active_params * n:.2e}",
            "prefill, attention (FLOP)": f"{layers * prefill_attention_flops(n, hidden):.2e}",
            "a decoded token, attention": f"{layers * decode_attention_flops(n, hidden):.2e}",
        }
        for n in (2048, 8192, 32768, 131072)
    ]
    chrome.table(rows)


def _duration(seconds: float) -> str:
    for unit, name in ((YEAR, "years"), (DAY, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= unit:
            return f"{seconds / unit:,.3g} {name}"
    return f"{seconds:.3g} seconds"


def _money(dollars: float) -> str:
    return f"{dollars / 1e6:,.3g} million" if dollars >= 1e6 else f"{dollars:,.0f}"


def the_map() -> None:
    """The taxonomy, the four questions, and what each method fixes and brings along."""
    st.markdown(
        "`world size` processes take part, numbered by `rank`: here one rank is one device. Put "
        "the same four questions to every method."
    )
    for title, rows in (
        ("Methods", map_rows()),
        ("The four questions", question_rows()),
        ("Which wall falls, and what comes instead", wall_rows()),
    ):
        st.subheader(title, anchor=False)
        chrome.table(list(rows))


SECTIONS: dict[str, Callable[[], None]] = {
    "Memory": memory,
    "Work": work,
    "Roofline": roofline.modelled,
    "This machine": roofline.measured,
    "The map": the_map,
}
