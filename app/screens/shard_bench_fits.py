"""At the size of a real device: what a model's state takes there, and the largest that fits."""

from __future__ import annotations

import streamlit as st

from parallel_core.data.traffic import Sharding
from parallel_core.fields import PlanError
from parallel_core.hardware.devices import DEVICES
from parallel_core.views.walls import Slice, describe_memory, gigabytes, memory_bars
from parallel_core.walls.sharding import (
    MIXED,
    NOT_COUNTED,
    bytes_per_param,
    largest_model,
    largest_shape,
    state_per_rank,
)
from screens import chrome

PAGE, BOUND, DEVICE = "shard_bench", "query-params", "H100 SXM"
STAGES = range(4)
NODE = 8


def show() -> None:
    """A model against the device, stage by stage; then the largest model of each stage."""
    st.header("On a real device", anchor=False)
    places = st.columns(4)
    names = list(DEVICES)
    name = places[0].selectbox("Device", names, index=names.index(DEVICE), key="device", bind=BOUND)
    count = int(places[1].number_input("Devices", 1, 65_536, 64, key="devices", bind=BOUND))
    billions = places[2].number_input(
        "Parameters, billions", 0.001, 1e5, 7.5, key="billions", bind=BOUND, format="%g"
    )
    k = places[3].selectbox(
        "Optimizer bytes a parameter", list(MIXED), key="k", bind=BOUND,
        help="12: float32 master copy and Adam's two moments; 8: both moments in bfloat16",
    )  # fmt: skip
    memory = DEVICES[name].memory
    try:
        _draw(billions * 1e9, count, int(k), memory, name)
    except PlanError as error:
        chrome.complain(error, mend=False)


def _draw(params: float, n: int, k: int, memory: float, device: str) -> None:
    stages = {
        _name(zero): [
            Slice(str(kind), kind, size)
            for kind, size in state_per_rank(params, zero=zero, n=n, k=k).items()
        ]
        for zero in STAGES
    }
    words = describe_memory(stages, memory, device=device)
    figure = memory_bars(stages, memory, device=device, dark=chrome.dark())
    chrome.chart(figure, words, f"{PAGE}.fits")
    with st.expander("In words"):
        st.markdown(words)
    st.markdown(
        f"**The largest model whose state fits {n:,} x {device}**, {gigabytes(memory)} each: by "
        "the formula, and the largest of a family of real shapes, counted weight by weight."
    )
    chrome.table([_row(zero, n, k, memory) for zero in STAGES])
    with st.expander("What is not counted"):
        st.markdown("\n".join(f"- {line}." for line in NOT_COUNTED))
    _nodes(params, n)


def _name(zero: int) -> str:
    return f"ZeRO-{zero}" if zero else "plain DP"


def _row(zero: int, n: int, k: int, memory: float) -> dict[str, str]:
    found = largest_shape(memory, zero=zero, n=n, k=k) if n <= 4096 else None
    shape = "" if found is None else f"{found.params / 1e9:.3g} B, {found.shape.layers} layers"
    return {
        "stage": _name(zero),
        "bytes a parameter": f"{bytes_per_param(zero, n, k):.4g}",
        "largest model": f"{largest_model(memory, zero=zero, n=n, k=k) / 1e9:,.4g} B",
        "of the family": shape,
    }


def _nodes(params: float, n: int) -> None:
    """What HSDP is for: the bytes that leave a node, by the size of the groups."""
    if n <= NODE or n % NODE:
        return
    st.markdown(
        f"**Fewer bytes on the slow link.** {n:,} devices in nodes of {NODE}, ZeRO-3 with 16-bit "
        "weights and gradients, one microbatch: what a device sends inside its group of shards and "
        "to the other groups, and what leaves a node where rings follow the order of ranks."
    )
    sizes = [n, *(size for size in (4 * NODE, 2 * NODE, NODE) if size < n and n % size == 0)]
    ways = [Sharding(params=params, ranks=n, shard=size, node=NODE) for size in sizes]
    base = ways[0].leaving_node
    chrome.table(
        [
            {
                "groups": f"{n // way.shard:,} x {way.shard:,}",
                "inside": gigabytes(way.inside),
                "across": gigabytes(way.across),
                "leaves a node": gigabytes(way.leaving_node),
                "less": f"{base / way.leaving_node:.3g} x",
            }
            for way in ways
        ]
    )
