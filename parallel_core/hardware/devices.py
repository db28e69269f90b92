"""Accelerators as data: peak FLOP/s by dtype, memory, links, caches; each with its source.

Peaks are dense (vendors often print twice as much, for sparse matrices). Links are bytes per
second in one direction. The 16-bit peak, memory and links are read from the published catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from parallel_core.hardware.links import WIRES
from parallel_core.published import table

KIB = 1024


@dataclass(frozen=True)
class Level:
    """One level of a device's memory: bytes it holds (None: not stated), load latency in cycles.

    `each` says how many share it: "SM" for a per-core level, "device" for the whole.
    """

    name: str
    size: int | None
    cycles: int
    each: str


@dataclass(frozen=True, kw_only=True)
class Device:
    """An accelerator. `peak` is FLOP/s by dtype; `links` bytes/s each way by kind of wire."""

    name: str
    peak: Mapping[str, float]
    memory: float
    bandwidth: float
    links: Mapping[str, float]
    source: str

    def ridge(self, dtype: str = "") -> float:
        """FLOP per byte from which on the arithmetic, not the memory, is the limit.

        In 16 bits unless told. Raises ValueError for a dtype without a published peak.
        """
        return self.flops(dtype or self.half) / self.bandwidth

    def flops(self, dtype: str) -> float:
        """Peak FLOP/s in `dtype`; ValueError names the dtypes there are."""
        if dtype not in self.peak:
            known = ", ".join(self.peak)
            raise ValueError(f"{self.name} has no published peak in {dtype!r}; it has {known}")
        return self.peak[dtype]

    @property
    def half(self) -> str:
        """The 16-bit dtype it multiplies: bfloat16, or float16 where that came too late."""
        return "bfloat16" if "bfloat16" in self.peak else "float16"


_DATASHEETS: dict[str, tuple[dict[str, float], str]] = {
    "A100-40 SXM": ({"float32": 19.5e12, "tf32": 156e12}, "NVIDIA A100 datasheet"),
    "A100-80 SXM": ({"float32": 19.5e12, "tf32": 156e12}, "NVIDIA A100 datasheet"),
    "H100 SXM": ({"float32": 67e12, "tf32": 494.5e12, "fp8": 1979e12}, "NVIDIA H100 datasheet"),
    "H100 PCIe": ({"float32": 51e12, "tf32": 378e12, "fp8": 1513e12}, "NVIDIA H100 datasheet"),
    "H200 SXM": ({"float32": 67e12, "tf32": 494.5e12, "fp8": 1979e12}, "NVIDIA H200 datasheet"),
    "B200 SXM": ({"tf32": 1125e12, "fp8": 4500e12}, "NVIDIA B200 datasheet"),
    "GB200 per GPU": ({}, "NVIDIA GB200 NVL72"),
    "MI300X": ({"float32": 163.4e12, "tf32": 653.7e12, "fp8": 2600e12}, "AMD MI300X datasheet"),
    "TPU v4": ({}, "scaling-book, tpus"),
    "TPU v5e": ({}, "scaling-book, tpus"),
    "TPU v5p": ({}, "scaling-book, tpus"),
}


def _device(name: str, others: dict[str, float], sheet: str) -> Device:
    catalogue = table("hardware")
    row = catalogue.row(device=name)
    links = {
        "scale-up": (row["scaleup_GBps_per_dir"], 1e9),
        "PCIe": (row["pcie_GBps_per_dir"], 1e9),
        "network": (row["nic_Gbps_per_gpu"], 1e9 / 8),
    }
    return Device(
        name=name,
        peak=MappingProxyType({"bfloat16": row["peak_16bit_dense_TF"] * 1e12, **others}),
        memory=row["hbm_GB"] * 1e9,
        bandwidth=row["hbm_TBps"] * 1e12,
        links=MappingProxyType({kind: rate * unit for kind, (rate, unit) in links.items() if rate}),
        source=f"{sheet}, as collected in {catalogue.url}",
    )


_V100 = Device(
    name="V100 SXM2",
    peak=MappingProxyType({"float16": 125e12, "float32": 15.7e12}),
    memory=16e9,
    bandwidth=900e9,
    links=MappingProxyType(
        {"scale-up": WIRES["nvlink2"].bandwidth, "PCIe": WIRES["pcie3"].bandwidth}
    ),
    source="NVIDIA Tesla V100 architecture whitepaper, tables 1 and 2",
)

DEVICES: dict[str, Device] = {_V100.name: _V100} | {
    name: _device(name, others, sheet) for name, (others, sheet) in _DATASHEETS.items()
}
"""By name; the V100 with the 16 GB that its whitepaper gives it."""

_A100_SIZES: dict[str, tuple[int | None, str]] = {
    "shared store": (164 * KIB, "SM"),
    "shared load": (164 * KIB, "SM"),
    "L1": (192 * KIB, "SM"),
    "L2": (40 * KIB * KIB, "device"),
    "global": (80 * 10**9, "device"),
}


def a100_ladder() -> tuple[Level, ...]:
    """The A100's memory from near to far: load latency in cycles, and what fits there.

    Latencies: Abdelkhalik et al. 2022, arXiv:2208.11174, table IV. Sizes: NVIDIA A100
    architecture whitepaper; shared memory is cut out of the same 192 KiB as L1.
    """
    cycles = {row["level"]: row["cycles"] for row in table("gpu_memory_latency").rows}
    levels = (Level(name, size, cycles[name], each) for name, (size, each) in _A100_SIZES.items())
    return tuple(sorted(levels, key=lambda level: level.cycles))
