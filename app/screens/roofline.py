"""The roofline sections of P1: a device's, from its data sheet, and this machine's, measured.

The measurement is a job like any other run: a worker process does it, points appear as they are
found, it can be cancelled, and it ends when nobody looks any more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import streamlit as st

from parallel_core.hardware.devices import DEVICES, Device, a100_ladder
from parallel_core.hardware.moves import moves
from parallel_core.hardware.roofline import (
    Kernel,
    attainable,
    data_parallel_step,
    decode,
    matmul,
    tensor_parallel_mlp,
)
from parallel_core.views.roofline import Dot, Roof, describe_roofline, of_findings
from parallel_core.views.roofline import roofline as draw
from parallel_core.views.walls import ladder, step_parts
from parallel_core.walls.models import PRESETS
from screens import chrome, live
from screens.measuring import Measurement

BOUND = "query-params"
TARGET = "parallel_core.roofline_live:measure"
FINDINGS = 18  # 4 streams, the peak twice, 9 points, 3 shares


def modelled() -> None:
    """Kernels under a device's roofs, from its data sheet."""
    guess = chrome.predict(
        "walls.ridge",
        "An H100 does 989 TFLOP/s in bf16 and reads 3.35 TB/s. Decoding reads every weight once "
        "per step, for the whole batch. From which batch on do the weight matmuls no longer wait "
        "for memory?",
        unit="sequences",
        high=100_000.0,
    )
    if not guess.settled:
        return
    chrome.reveal(guess, math.ceil(DEVICES["H100 SXM"].ridge()), "sequences")
    left, middle, right = st.columns(3)
    names = list(DEVICES)
    first = names.index("H100 SXM")
    device = DEVICES[left.selectbox("Device", names, index=first, key="device", bind=BOUND)]
    dtype = middle.selectbox("Precision", list(device.peak), key="precision", bind=BOUND)
    choice = right.selectbox("Kernels", list(KERNELS), key="kernels", bind=BOUND)
    roofs, dots = KERNELS[choice](device, dtype)
    words = describe_roofline(roofs, dots)
    badge = f"model: {device.name}, {device.source.split(',')[0]}, {dtype}"
    chrome.chart(draw(roofs, dots, badge=badge, dark=chrome.dark()), words, "walls.roofline")
    with st.expander("In words"):
        st.markdown(words)
    if choice == "techniques":
        st.markdown("\n".join(f"- **{move.name}**: {move.why}" for move in moves()))
    _latencies()


Marks = tuple[list[Roof], list[Dot]]


def _memory_roof(device: Device, dtype: str) -> Roof:
    return Roof(name="memory", peak=device.flops(dtype), bandwidth=device.bandwidth)


def _under(roof: Roof, kernels: Sequence[Kernel], line: str) -> list[Dot]:
    """Each kernel as a dot on the roof, the best a kernel can do."""
    return [
        Dot(k.name, k.intensity, attainable(k.intensity, roof.peak, roof.bandwidth),
            roof=roof.name, line=line)
        for k in kernels
    ]  # fmt: skip


def _decode(device: Device, dtype: str) -> Marks:
    roof, model = _memory_roof(device, dtype), PRESETS["Llama 3 8B"]
    elements = model.kv_elements_per_token or 0
    batches, context = (1, 8, 64, 256, 1024), 4096
    bare = [decode(b, model.params) for b in batches]
    cached = decode(batches[-1], model.params, 2.0 * elements * context)
    marks = _under(roof, [cached], "with a KV cache")
    named = [replace(dot, name=f"{dot.name}, {context:,} cached tokens each") for dot in marks]
    return [roof], _under(roof, bare, "weights only") + named


def _matmuls(device: Device, dtype: str) -> Marks:
    roof = _memory_roof(device, dtype)
    return [roof], _under(roof, [matmul(n, n, n) for n in (16, 64, 256, 1024, 4096)], "square")


def _techniques(device: Device, dtype: str) -> Marks:
    roof = _memory_roof(device, dtype)
    dots = []
    for move in moves():
        before, after = _under(roof, [move.before, move.after], move.name)
        dots += [
            Dot("", before.intensity, before.flops, roof=roof.name, line=move.name),
            Dot(move.name, after.intensity, after.flops, roof=roof.name, line=move.name),
        ]
    return [roof], dots


def _links(device: Device, dtype: str) -> list[Roof]:
    peak = device.flops(dtype)
    return [
        Roof(name=wire, peak=peak, bandwidth=rate, traffic=wire)
        for wire, rate in device.links.items()
    ]


def _tensor_parallel(device: Device, dtype: str) -> Marks:
    roofs = [_memory_roof(device, dtype), *_links(device, dtype)]
    kernel = tensor_parallel_mlp(8192, 8192, 28672, 8)
    dots = [dot for roof in roofs[1:] for dot in _under(roof, [kernel], roof.name)]
    return roofs, [replace(dot, name=f"70B MLP, tp=8 over {dot.roof}") for dot in dots]


def _data_parallel(device: Device, dtype: str) -> Marks:
    roofs = [_memory_roof(device, dtype), *_links(device, dtype)]
    wire = roofs[-1]
    dots = [
        Dot(f"{tokens:,} tokens", k.intensity, attainable(k.intensity, wire.peak, wire.bandwidth),
            roof=wire.name, line=f"dp over {wire.name}")
        for tokens in (128, 1024, 8192, 65536)
        for k in [data_parallel_step(tokens, 8e9, 8)]
    ]  # fmt: skip
    return roofs, dots


KERNELS = {
    "decode of an 8B model": _decode,
    "square matmuls": _matmuls,
    "techniques": _techniques,
    "tensor-parallel MLP (bytes on the wire)": _tensor_parallel,
    "data-parallel step (bytes on the wire)": _data_parallel,
}


def _latencies() -> None:
    levels = a100_ladder()
    badge = "quoted: A100, Abdelkhalik et al. 2022, arXiv:2208.11174, table IV"
    words = ", ".join(f"{level.name} {level.cycles} cycles" for level in levels)
    figure = ladder({v.name: v.cycles for v in levels}, badge=badge, dark=chrome.dark())
    chrome.chart(figure, words, "walls.ladder")
    st.caption(
        "An A100 core has 192 KB of L1 and shared memory, the device 40 MB of L2 and 80 GB of "
        "global memory."
    )


def measured() -> None:
    """This machine's own roofline, measured on request."""
    live.desk().pool.warm()  # so that the button finds a worker ready
    st.markdown(
        "One worker process and one thread: streams of arrays far larger than the caches, a matmul "
        "that stays in them, matmuls of rising intensity, and a training step taken apart. About "
        "five seconds."
    )
    dtype = st.selectbox("Element type", ["float32", "bfloat16"], key="live_dtype", bind=BOUND)
    asked = Measurement(
        "walls",
        "Measure this machine",
        (TARGET, 1, {"dtype": dtype}),
        FINDINGS,
        starting="Starting a worker",
    )
    taken = asked.taken(_growing)
    if taken is not None and taken.results:
        _show(taken.events, taken.results[0]["badge"])
        _conclude(taken.results[0])


def _growing(findings: Sequence[dict[str, Any]]) -> None:
    _show(findings, "measured: still running")


def _show(findings: Sequence[dict[str, Any]], badge: str) -> None:
    roofs, dots = of_findings(findings)
    if not roofs:
        return
    words = describe_roofline(roofs, dots)
    chrome.chart(draw(roofs, dots, badge=badge, dark=chrome.dark()), words, "walls.here")
    shares = {f"width {f['width']}": f["seconds"] for f in findings if f["found"] == "share"}
    if shares:
        parts = step_parts(shares, badge=badge, dark=chrome.dark())
        alt = "; ".join(
            f"{name}: matmul {part['matmul'] / sum(part.values()):.0%}"
            for name, part in shares.items()
        )
        chrome.chart(parts, alt, "walls.shares")
    with st.expander("In words"):
        st.markdown(words)


def _conclude(result: dict[str, Any]) -> None:
    boxes = st.columns(3)
    boxes[0].metric("Peak", f"{result['peak'] / 1e9:,.3g} GFLOP/s")
    boxes[1].metric("Memory", f"{result['bandwidth'] / 1e9:,.3g} GB/s")
    boxes[2].metric("Ridge", f"{result['ridge']:,.3g} FLOP/byte")
    st.markdown(
        "Every mark is the best of several repetitions. A dot below the roof is a kernel that "
        "loses time elsewhere: near the ridge it has to compute and to read at full speed at once. "
        "And the wider the model, the larger the share of its step that is matmul."
    )
