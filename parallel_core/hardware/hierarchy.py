"""From a register to the spine: every level a byte may have to cross, how long, how fast, who says.

    a core      registers, shared memory and L1
    a device    L2, device memory
    a node      NVLink, PCIe
    a cluster   InfiniBand under one leaf, InfiniBand over the spine, Ethernet

Only the A100's cycles have been published level by level, so only its ladder begins at the
registers; those of later GPUs begin at their memory. On-chip bandwidths are computed from widths
and clock, as `source` spells out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from parallel_core.hardware.devices import DEVICES, a100_ladder
from parallel_core.hardware.links import WIRES, Wire

CLOCK = 1.41e9
"""Boost clock of an A100, Hz."""

CORES = 108
"""Streaming multiprocessors of an A100."""

_LADDER = "Abdelkhalik et al. 2022, arXiv:2208.11174, table IV, at 1.41 GHz"
_WIDTHS = "doi:10.1016/j.ultsonch.2023.106546, table 3"


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One level. `latency` is seconds until a tiny load or message is there, `bandwidth` bytes/s
    of the whole device or of one GPU's wires in one direction; `size` bytes, None for a wire.
    """

    name: str
    inside: str
    latency: float
    bandwidth: float
    size: int | None = None
    source: str
    latency_source: str

    def seconds(self, message: float) -> float:
        """Latency and bytes of a message."""
        return self.latency + message / self.bandwidth


@dataclass(frozen=True, kw_only=True)
class Generation:
    """The GPU of a generation of machines, by its name in DEVICES, and its wires in WIRES."""

    device: str
    nvlink: str
    pcie: str
    infiniband: str
    ethernet: str


GENERATIONS: dict[str, Generation] = {
    "A100": Generation(
        device="A100-80 SXM",
        nvlink="nvswitch3",
        pcie="pcie4",
        infiniband="infiniband-hdr",
        ethernet="ethernet-100",
    ),
    "H100": Generation(
        device="H100 SXM",
        nvlink="nvswitch4",
        pcie="pcie5",
        infiniband="infiniband-ndr",
        ethernet="ethernet-100",
    ),
    "B200": Generation(
        device="B200 SXM",
        nvlink="nvswitch5",
        pcie="pcie6",
        infiniband="infiniband-xdr",
        ethernet="ethernet-100",
    ),
}
"""Generations of GPU servers, older first. Ethernet is the ordinary network beside the fabric."""


def hierarchy(generation: str) -> tuple[Rung, ...]:
    """Every level from near to far; KeyError for a generation that is not in the table."""
    found = GENERATIONS[generation]
    chip = _chip() if generation == "A100" else ()
    return (*chip, _memory(found), *_wires(found))


def _chip() -> Iterator[Rung]:
    cycles = {level.name: level for level in a100_ladder()}
    yield Rung(
        name="registers",
        inside="inside a core",
        latency=4 / CLOCK,
        bandwidth=CORES * 64 * 3 * 4 * CLOCK,
        size=CORES * 256 * 1024,
        source="108 cores x 64 lanes x 3 operands of 4 bytes (a multiply-add) x 1.41 GHz; NVIDIA"
        " A100 whitepaper",
        latency_source=f"an addition that waits for another: 4 cycles; {_WIDTHS}",
    )
    for name, level in (("shared memory", "shared load"), ("L1 cache", "L1")):
        yield Rung(
            name=name,
            inside="inside a core",
            latency=cycles[level].cycles / CLOCK,
            bandwidth=CORES * 128 * CLOCK,
            size=CORES * (cycles[level].size or 0),
            source=f"108 cores x 128 bytes x 1.41 GHz; {_WIDTHS}",
            latency_source=f"{cycles[level].cycles} cycles; {_LADDER}",
        )
    yield Rung(
        name="L2 cache",
        inside="inside a device",
        latency=cycles["L2"].cycles / CLOCK,
        bandwidth=5120 * CLOCK,
        size=cycles["L2"].size,
        source=f"5,120 bytes x 1.41 GHz; {_WIDTHS}",
        latency_source=f"{cycles['L2'].cycles} cycles; {_LADDER}",
    )


def _memory(found: Generation) -> Rung:
    device = DEVICES[found.device]
    cycles = {level.name: level.cycles for level in a100_ladder()}["global"]
    return Rung(
        name="device memory",
        inside="inside a device",
        latency=cycles / CLOCK,
        bandwidth=device.bandwidth,
        size=round(device.memory),
        source=f"{device.name}: {device.source}",
        latency_source=f"{cycles} cycles of an A100; {_LADDER}",
    )


def _wires(found: Generation) -> Iterator[Rung]:
    near, far = WIRES[found.infiniband], WIRES[found.ethernet]
    yield _wire("NVLink and its switch", "inside a node", WIRES[found.nvlink])
    yield _wire("PCIe", "inside a node", WIRES[found.pcie])
    yield _wire("InfiniBand, one leaf", "inside a cluster", near)
    yield _wire("InfiniBand, over the spine", "inside a cluster", near, hops=2)
    yield _wire("Ethernet, TCP", "inside a cluster", far)


def _wire(name: str, inside: str, wire: Wire, *, hops: int = 0) -> Rung:
    further = f" and {hops} further switches" if hops else ""
    return Rung(
        name=name,
        inside=inside,
        latency=wire.latency + hops * wire.hop,
        bandwidth=wire.bandwidth,
        source=f"{wire.title}: {wire.source}",
        latency_source=wire.latency_source + further,
    )
