"""Wires as data: bytes per second in one direction, latency, and who says so.

    inside a chip board    NVLink, NVSwitch, PCIe
    between boards         InfiniBand, RoCE, Ethernet, TPU ICI (chip to chip)
    on this machine        loopback

Vendors print NVLink and PCIe both ways together: 18 NVLinks of an H100 are "900 GB/s", which is
450 GB/s out and 450 GB/s in. Here every bandwidth is one direction, and where a generation is
lanes times a rate it is computed, not typed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass

from parallel_core.cost import Link
from parallel_core.fields import PlanError, shown

_US = 1e-6


@dataclass(frozen=True, kw_only=True)
class Wire:
    """A kind of link. `bandwidth` is bytes/s in one direction, `latency` seconds.

    `latency` is end to end for a tiny message between two neighbours (over one switch, where
    there is one); `hop` is what every further switch adds. `source` is where the bandwidth is
    printed, `latency_source` where the latency was measured.
    """

    name: str
    title: str
    bandwidth: float
    latency: float
    hop: float = 0.45 * _US
    source: str
    latency_source: str

    @property
    def both_ways(self) -> float:
        """Bytes/s out and in together, as vendors print it."""
        return 2 * self.bandwidth

    @property
    def half_size(self) -> float:
        """alpha x beta: the message, in bytes, whose latency costs as much as its bytes."""
        return self.latency * self.bandwidth

    def seconds(self, size: float) -> float:
        """alpha + bytes/beta for one message of `size` bytes.

        >>> round(1e3 * WIRES["pcie5"].seconds(2**30), 1)
        17.0
        """
        return self.latency + size / self.bandwidth

    @property
    def link(self) -> Link:
        """The same as the alpha and beta that a Cost takes."""
        return Link(alpha=self.latency, beta=self.bandwidth)

    def __str__(self) -> str:
        return f"{self.title}, {self.bandwidth / 1e9:.3g} GB/s, {self.latency / _US:.3g} us"


_CATALOGUE = "stas00/ml-engineering, network (744d01e)"
_ISCA = "Zhao et al. 2025, Insights into DeepSeek-V3, table 5, arXiv:2505.09343"
_NCCL = "NCCL src/graph/tuning.cc (5067397), a PCI hop of its LL protocol"
_TCP = "Larsen et al. 2007, SBAC-PAD: as low as 10 us through the kernel's TCP stack"
_TPU = "jax-ml/scaling-book, tpus (0819a7d)"
_OURS = "assumed; a ping-pong on the machine measures it"

_NVLINKS = (
    ("1", "P100", 4, 20),
    ("2", "V100", 6, 25),
    ("3", "A100", 12, 25),
    ("4", "H100, H200", 18, 25),
    ("5", "B200, GB200", 18, 50),
)
"""Generation, GPU, links of a GPU, GB/s of a link in one direction."""

_PCIE = (("3", 8, 128 / 130), ("4", 16, 128 / 130), ("5", 32, 128 / 130), ("6", 64, 242 / 256))
"""Generation, gigatransfers/s of a lane, the share of its bits that is not coding or checksums."""

_INFINIBAND = (("EDR", 25), ("HDR", 50), ("NDR", 100), ("XDR", 200))
"""Generation, Gb/s of a lane; a port has four."""

_ICI = (("v3", 100), ("v4", 45), ("v5e", 45), ("v5p", 90), ("v6e", 90))
"""Generation, GB/s of one link in one direction."""


def _wires() -> Iterator[Wire]:
    for generation, gpu, count, each in _NVLINKS:
        for kind in ("NVLink", "NVSwitch")[: 1 if generation == "1" else 2]:
            yield Wire(
                name=f"{kind.lower()}{generation}",
                title=f"{kind} {generation} ({gpu})",
                bandwidth=count * each * 1e9,  # a switch lets one pair use all links of both
                latency=3.33 * _US,
                source=f"{count} links of {each} GB/s; {_CATALOGUE}",
                latency_source=f"{_ISCA}, measured on NVLink 4",
            )
    for generation, rate, useful in _PCIE:
        yield Wire(
            name=f"pcie{generation}",
            title=f"PCIe gen {generation} x16",
            bandwidth=16 * rate * useful / 8 * 1e9,
            latency=1.0 * _US,
            source=f"16 lanes of {rate} GT/s; {_CATALOGUE}",
            latency_source=_NCCL,
        )
    for generation, rate in _ICI:
        yield Wire(
            name=f"ici-{generation}",
            title=f"TPU {generation} ICI",
            bandwidth=rate * 1e9,
            latency=1.0 * _US,
            source=_TPU,
            latency_source=f"{_TPU}, question 5: 1 us a hop",
        )
    yield from _between_boards()
    yield Wire(
        name="loopback",
        title="loopback of a laptop, assumed",
        bandwidth=2e9,
        latency=200 * _US,
        source=_OURS,
        latency_source=_OURS,
    )


def _between_boards() -> Iterator[Wire]:
    for generation, lane in _INFINIBAND:
        yield Wire(
            name=f"infiniband-{generation.lower()}",
            title=f"InfiniBand {generation}",
            bandwidth=4 * lane / 8 * 1e9,
            latency=2.8 * _US,
            hop=0.45 * _US,  # 3.7 us across leaves, over two more switches
            source=f"4 lanes of {lane} Gb/s; infinibandta.org/infiniband-roadmap",
            latency_source=_ISCA,
        )
    for rate in (100, 200, 400, 800):
        yield Wire(
            name=f"roce-{rate}",
            title=f"RoCE {rate} Gb/s",
            bandwidth=rate / 8 * 1e9,
            latency=3.6 * _US,
            hop=1.0 * _US,  # 5.6 us across leaves
            source=f"one port of {rate} Gb/s",
            latency_source=_ISCA,
        )
    for rate in (10, 25, 50, 100, 200, 400, 800):
        yield Wire(
            name=f"ethernet-{rate}",
            title=f"Ethernet {rate} Gb/s, TCP",
            bandwidth=rate / 8 * 1e9,
            latency=10 * _US,
            hop=1.0 * _US,
            source=f"one port of {rate} Gb/s",
            latency_source=_TCP,
        )


WIRES: dict[str, Wire] = {wire.name: wire for wire in _wires()}
"""Every kind of link by name: on the board, between chips, between boards, on this machine."""


def wire(name: str) -> Wire:
    """The wire of that name; PlanError with the closest one if there is none."""
    if name in WIRES:
        return WIRES[name]
    closest = difflib.get_close_matches(name.lower(), WIRES, n=1, cutoff=0.0)[0]
    raise PlanError("link", shown(name), f"must be one of {', '.join(WIRES)}", closest)
