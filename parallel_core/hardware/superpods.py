"""SuperPods: what 8 and 256 GPUs compute and move, from their parts, beside what NVIDIA printed.

The slides mix number formats and directions, so each figure says which:

    A100 pod   "2.5 PF a node" is bf16      H100 pod   "16 PF a node" is fp8, half that in bf16
    bisection  both directions of the cut together
    reduce     bytes/s at which an all-reduce advances, a GPU's algorithm bandwidth

An all-reduce by messages moves every byte twice (2(n-1)/n), so it advances at half of the link.
The H100's NVSwitch adds inside the switch (SHARP): a byte goes up once and its sum comes down
once, and the whole link counts. NVIDIA, Hot Chips 34 (2022), "The NVLink-Network Switch".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from parallel_core.hardware.devices import DEVICES
from parallel_core.hardware.links import WIRES, Wire

SOURCE = 'NVIDIA, Hot Chips 34 (2022), "The NVLink-Network Switch"'


@dataclass(frozen=True)
class Figure:
    """One figure of a pod: computed here from its parts, and as printed (None: not checked).

    `how` is the arithmetic in words. Rates are FLOP/s or bytes/s, as `unit` says.
    """

    name: str
    unit: str
    computed: float
    printed: float | None
    how: str


@dataclass(frozen=True, kw_only=True)
class SuperPod:
    """`nodes` of 8 GPUs: `inside` joins the GPUs of a node, `uplinks` links leave it.

    `dtype` is the number format the slide counts FLOP/s in, `uplink_rate` bytes/s of one uplink
    in one direction; `adds` says whether the switches reduce.
    """

    name: str
    gpu: str
    dtype: str
    inside: Wire
    uplinks: int
    uplink_rate: float
    adds: bool
    printed: dict[str, float]
    nodes: int = 32
    gpus: int = 8

    @property
    def node_flops(self) -> float:
        """FLOP/s of a node in `dtype`, dense."""
        return self.gpus * DEVICES[self.gpu].flops(self.dtype)

    @property
    def uplink(self) -> float:
        """Bytes/s that leave a node, one direction."""
        return self.uplinks * self.uplink_rate

    @property
    def node_bisection(self) -> float:
        """Bytes/s between two halves of a node, both directions."""
        return self.gpus / 2 * self.inside.both_ways

    @property
    def pod_bisection(self) -> float:
        """Bytes/s between two halves of the pod, both directions."""
        return self.nodes / 2 * 2 * self.uplink

    @property
    def node_reduce(self) -> float:
        """Bytes/s at which an all-reduce of 8 GPUs advances."""
        return self.inside.bandwidth / self._crossings

    @property
    def pod_reduce(self) -> float:
        """The same for the whole pod: the narrower of a GPU's links and its node's uplinks."""
        return min(self.node_reduce, self.uplink / self._crossings)

    @property
    def _crossings(self) -> int:
        """How often a byte of a large all-reduce crosses a link in one direction."""
        return 1 if self.adds else 2

    def figures(self) -> Iterator[Figure]:
        """Every figure, computed beside printed."""
        gb, half = 1e9, "" if self.adds else " / 2"
        peak, wide = DEVICES[self.gpu].flops(self.dtype), self.inside.both_ways / gb
        up = f"{self.uplinks} uplinks x {self.uplink_rate / gb:g} GB/s"
        gathered = self.gpus * self.nodes
        rows = (
            (f"node, {self.dtype}", "FLOP/s", self.node_flops, f"8 x {peak / 1e12:g} TFLOP/s"),
            ("node bisection", "B/s", self.node_bisection, f"4 GPUs x {wide:g} GB/s both ways"),
            ("node reduce", "B/s", self.node_reduce, f"{self.inside.bandwidth / gb:g} GB/s{half}"),
            (f"{gathered} bisection", "B/s", self.pod_bisection, f"16 nodes x 2 x {up}"),
            (f"{gathered} reduce", "B/s", self.pod_reduce, f"the narrower: link, or {up}{half}"),
        )
        for name, unit, value, how in rows:
            yield Figure(name, unit, value, self.printed.get(name), how)


A100_POD = SuperPod(
    name="DGX A100 SuperPod",
    gpu="A100-80 SXM",
    dtype="bfloat16",
    inside=WIRES["nvswitch3"],
    uplinks=8,
    uplink_rate=WIRES["infiniband-hdr"].bandwidth,
    adds=False,
    printed={
        "node, bfloat16": 2.5e15,
        "node bisection": 2400e9,
        "node reduce": 150e9,
        "256 bisection": 6400e9,
        "256 reduce": 100e9,
    },
)
"""32 nodes of 8 A100, each GPU with one HDR InfiniBand port."""

H100_POD = SuperPod(
    name="DGX H100 SuperPod",
    gpu="H100 SXM",
    dtype="fp8",
    inside=WIRES["nvswitch4"],
    uplinks=72,
    uplink_rate=WIRES["nvlink4"].bandwidth / 18,
    adds=True,
    printed={
        "node, fp8": 16e15,
        "node bisection": 3600e9,
        "node reduce": 450e9,
        "256 bisection": 57600e9,
        "256 reduce": 450e9,
    },
)
"""32 nodes of 8 H100 on one NVLink network: 72 of a node's 144 NVLinks leave it."""

PODS = (A100_POD, H100_POD)
"""Both pods, older first."""
