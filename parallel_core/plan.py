"""The Plan: what the reader chose, validated. Nothing here knows how it will be run.

`ModelShape` (model_shape.py) is the model, `Plan` is one training step of it and how that step is
split over ranks. `Plan.of` takes all fields flat, as command lines and URLs write them.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property, lru_cache
from typing import Any

from parallel_core import plan_mesh, plan_rules
from parallel_core.choices import (
    OWN,
    RANK_ORDERS,
    Balance,
    DPMethod,
    Recompute,
    RouterKind,
    Server,
)
from parallel_core.context import METHODS, layout_of
from parallel_core.context.layout import Layout
from parallel_core.fields import (
    PlanError,
    choice,
    parse,
    real,
    switch,
    unknown,
    validate,
    whole,
    words,
)
from parallel_core.mesh import Mesh
from parallel_core.model_shape import Dialect, DType, ModelShape, Optimizer
from parallel_core.pipeline import SCHEDULES, reading
from parallel_core.pipeline.legal import legal
from parallel_core.pipeline.order import Order
from parallel_core.pipeline.schedule import Job
from parallel_core.program import ProgramError

__all__ = [
    "OWN",
    "Balance",
    "DPMethod",
    "DType",
    "Dialect",
    "ModelShape",
    "Optimizer",
    "Plan",
    "Recompute",
    "RouterKind",
    "Server",
    "flat_fields",
]

LAYOUT = (
    *("dp", "dp_method", "bucket_mb", "microbatches", "zero", "shard", "prefetch", "keep_gathered"),
    *("parameter_server", "staleness_bound", "speeds", "pace_ms"),
    *("tp", "sp", "overlap_tp", "cp", "cp_method", "ulysses", "overlap_cp", "ep", "ep_node"),
    *("recompute", "recompute_every", "offload"),
    *("pp", "schedule", "virtual_stages", "stage_layers", "cap", "order", "rank_order"),
)
"""The fields that say how a step is split; the others say what is trained."""

RANK_MARK = " | "
"""What may stand for the end of a rank's line in an order that must fit on one."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How one training step is split over ranks.

    >>> Plan.of(dp=4, global_batch=8).rows_per_microbatch
    2
    """

    model: ModelShape = field(default_factory=ModelShape)
    dp: int = whole(1, 1, 4096, "data-parallel ranks")
    dp_method: str = choice("bucketed", DPMethod, "how gradients are summed")
    bucket_mb: float = real(1.0, 0.001, 4096.0, "bucket size in MiB (bucketed)")
    zero: int = whole(0, 0, 3, "ZeRO stage: 1 shards optimizer, 2 gradients, 3 weights as well")
    shard: int | None = whole(None, 1, 4096, "ranks a ZeRO group; default: dp; fewer is HSDP")
    prefetch: int = whole(1, 0, 64, "units gathered ahead of their use (zero=3)")
    keep_gathered: bool = switch(False, "keep gathered weights until their backward (zero=3)")
    clip: float | None = real(None, 1e-6, 1e6, "largest global gradient norm; default: any")
    moments: str = choice("float32", ("float32", "bfloat16"), "type of AdamW's moments")
    parameter_server: str = choice("off", Server, "a server rank sums gradients and updates")
    staleness_bound: int | None = whole(None, 0, 1000, "updates a worker may be ahead (async)")
    speeds: str | None = words(None, "how long each worker's gradient takes, as in 1,1,1,3")
    pace_ms: float | None = real(None, 0.0, 60000.0, "ms a gradient takes at least")
    tp: int = whole(1, 1, 256, "tensor-parallel ranks")
    sp: bool = switch(False, "cut what lies outside the matrices along the sequence (with tp)")
    overlap_tp: bool = switch(False, "gather a region's input under its matrix products (with sp)")
    ep_node: int | None = whole(None, 2, 64, "ranks a node: tokens hop inside it, then across")
    recompute: str = choice("none", Recompute, "what a backward computes again instead of keeping")
    recompute_every: int = whole(1, 1, 256, "recompute in every k-th layer only")
    offload: bool = switch(False, "keep what a forward saves in host memory until its backward")
    cp: int = whole(1, 1, 256, "context-parallel ranks: each holds a part of every sequence")
    cp_method: str = choice("zigzag", METHODS, "how parts of a sequence attend to each other")
    ulysses: int | None = whole(None, 1, 256, "ranks that deal out heads (hybrid); default 2")
    overlap_cp: bool = switch(True, "pass blocks on beside the tiles (all but allgather, ulysses)")
    ep: int = whole(1, 1, 256, "expert-parallel ranks: those of dp and cp share out the experts")
    pp: int = whole(1, 1, 64, "pipeline ranks")
    schedule: str = choice("1f1b", (*SCHEDULES, OWN), "order in which a pipeline computes")
    virtual_stages: int | None = whole(None, 1, 64, "stages a pipeline rank; default: the fewest")
    stage_layers: str | None = words(None, "layers of each stage, as in 2,1,1; default: even")
    cap: float | None = real(None, 0.5, 4096, "microbatches a rank may hold (zb-auto)")
    order: str | None = words(
        None, "the schedule itself, ranks parted by lines or | (schedule=own)"
    )
    rank_order: str = choice("tp-cp-dp-pp", RANK_ORDERS, "axes from neighbouring ranks outwards")
    microbatches: int = whole(1, 1, 4096, "microbatches per step (gradient accumulation)")
    global_batch: int = whole(16, 1, 1048576, "sequences per step over all ranks")
    seq: int = whole(128, 1, 1048576, "tokens per sequence")
    dtype: str = choice("float32", DType, "element type of weights, activations and gradients")
    optimizer: str = choice("adamw", Optimizer, "optimizer")
    lr: float | None = real(None, 0.0, 100.0, "learning rate; default 1e-3 (adamw), 0.1 (sgd)")
    seed: int = whole(0, 0, 2**31 - 1, "seed of weights, dropout and data order")

    def __post_init__(self) -> None:
        validate(self)
        plan_rules.check(self)

    @property
    def worker_speeds(self) -> tuple[float, ...]:
        """How many times longer each worker's gradient takes, 1 where nothing is said."""
        return plan_rules.speeds(self)

    @cached_property
    def pipeline(self) -> Order:
        """Which stage rank computes what, in order."""
        if self.schedule != OWN:
            v = self.virtual_stages or SCHEDULES[self.schedule].fewest
            return _order(self.schedule, Job(p=self.pp, m=self.microbatches, v=v, cap=self.cap))
        try:
            order = _own(self.order or "")
            legal(order, p=self.pp, m=self.microbatches)
        except ProgramError as error:
            raise PlanError("schedule", OWN, f"cannot run: {error}", "1f1b") from None
        return order

    @classmethod
    def of(cls, **flat: Any) -> Plan:
        """A Plan from flat fields, those of the model beside those of the layout."""
        shape = {f.name for f in fields(ModelShape)}
        own = {f.name for f in fields(cls)} - {"model"}
        for name in flat:
            if name not in shape | own:
                raise unknown(name, sorted(shape | own))
        model = ModelShape(**{k: v for k, v in flat.items() if k in shape})
        flat = cls._filled(flat)
        return cls(model=model, **{k: v for k, v in flat.items() if k in own})

    @classmethod
    def _filled(cls, flat: dict[str, Any]) -> dict[str, Any]:
        """Experts that are shared out bring as many ranks as share them; a pipeline with no number
        of microbatches gets two a rank, and a batch they divide; an order makes the schedule the
        reader's own."""
        if flat.get("ep") is not None and flat.get("dp") is None:
            flat = {**flat, "dp": max(cls._read("ep", flat) // cls._read("cp", flat), 1)}
        if flat.get("order") is not None and flat.get("schedule") is None:
            flat = {**flat, "schedule": OWN}
        if flat.get("pp") in (None, 1, "1") or flat.get("microbatches") is not None:
            return flat
        pp, dp = cls._read("pp", flat), cls._read("dp", flat)
        count = 2 * pp
        if isinstance(flat.get("order"), str) and flat["schedule"] == OWN:
            with suppress(ProgramError):
                count = _own(flat["order"]).m or count
        share, usual = dp * count, cls._read("global_batch", {})
        batch = {"global_batch": -(-usual // share) * share}
        return {**batch, **flat, "microbatches": count}

    @classmethod
    def _read(cls, name: str, flat: Mapping[str, Any]) -> int:
        spec = cls.__dataclass_fields__[name]
        return int(parse(spec, flat.get(name, spec.default)))

    def flat(self) -> dict[str, Any]:
        """Every field by name, JSON-ready; `Plan.of(**plan.flat()) == plan`."""
        rest = asdict(self)
        return {**rest.pop("model"), **rest}

    def but(self, **flat: Any) -> Plan:
        """The same plan with some flat fields changed."""
        return Plan.of(**{**self.flat(), **flat})

    def single(self) -> Plan:
        """The same training on one process: every layout field at its default."""
        layout: dict[str, Any] = {f.name: f.default for f in fields(self) if f.name in LAYOUT}
        return replace(self, **layout)

    @cached_property
    def mesh(self) -> Mesh:
        """The ranks as a grid (plan_mesh.py)."""
        return plan_mesh.mesh_of(self)

    def batch_place(self, rank: int) -> int:
        """Which share of the batch a rank computes: its place among the dp ranks."""
        place = self.mesh.coordinate(rank)
        return place["batch"] if "batch" in place else 0 if self.cp > 1 else place["dp"]

    @property
    def gradient_ranks(self) -> int:
        """Ranks whose gradients of a weight are summed: those of dp, times those of cp."""
        return self.dp * self.cp

    @property
    def model_axes(self) -> tuple[str, ...]:
        """The axes that cut the model: their ranks hold different weights of one copy of it."""
        degrees = (("tp", self.tp), ("ep", self.ep), ("pp", self.pp))
        return tuple(axis for axis, degree in degrees if degree > 1)

    @property
    def model_axis(self) -> str:
        """Those together, as one axis; "" where every rank holds the whole model."""
        return plan_mesh.MODEL if len(self.model_axes) > 1 else "".join(self.model_axes)

    @property
    def tally_axis(self) -> str:
        """The axis over which loss and norm are added up: of all ranks that have a part of one
        copy of the model, or of its gradients."""
        if not self.zero:
            return self.model_axis
        return plan_mesh.OWNERS if self.model_axes else self.shard_axis

    @property
    def loads_axis(self) -> str:
        """The axis over which loads that move a router's bias are summed: of all ranks that route
        by it, be it in another copy of its stage."""
        copies = self.pp > 1 and sum(map(len, self.pipeline.held)) > self.pipeline.stages
        return plan_mesh.ROUTERS if copies else "dp"

    @property
    def expert_axis(self) -> str:
        """The axis over which an expert's gradients are summed; "" where one rank has each."""
        if self.ep == 1:
            return "dp"
        return "edp" if self.gradient_ranks > self.ep or self.zero else ""

    @property
    def sums_whole(self) -> bool:
        """Whether parameters that are whole on tp ranks have gradients that are parts of a sum."""
        return self.sp or (self.tp > 1 and self.model.experts > 0)

    @property
    def pairs_tasks(self) -> bool:
        """Whether a pipeline lays a forward and the backward behind it over each other."""
        return self.schedule != OWN and SCHEDULES[self.schedule].pairs

    @property
    def experts_here(self) -> int:
        """Experts of a layer on one rank."""
        return self.model.experts // self.ep

    def experts_of(self, place: int) -> slice:
        """Those that the rank at `place` along ep holds: neighbours, as many on every rank."""
        return slice(place * self.experts_here, (place + 1) * self.experts_here)

    @cached_property
    def context(self) -> Layout:
        """Who holds which positions of a sequence."""
        if self.cp == 1:
            return Layout(seq=self.seq)
        return layout_of(self.cp_method, self.seq, ranks=self.cp, ulysses=self.ulysses or 2)

    @property
    def seq_here(self) -> int:
        """Positions of a sequence on one rank, padding included."""
        return self.context.share

    @property
    def tokens_here(self) -> int:
        """Positions of one microbatch on one rank."""
        return self.rows_per_microbatch * self.seq_here

    @property
    def kv_here(self) -> int:
        """Key/value heads on a tensor-parallel rank: its share, or one that several hold."""
        return max(self.model.kv // self.tp, 1)

    @property
    def vocab_here(self) -> int:
        """Words on such a rank; the last one's are padded where tp does not divide."""
        return -(-self.model.vocab // self.tp)

    @property
    def kv_copies(self) -> int:
        """Ranks of a tensor-parallel group that hold the same key/value head."""
        return max(self.tp // self.model.kv, 1)

    @property
    def shards(self) -> int:
        """Ranks over which ZeRO cuts its state; 1 without it."""
        return (self.gradient_ranks if self.shard is None else self.shard) if self.zero else 1

    @property
    def shard_axis(self) -> str:
        """The mesh axis of those ranks; under HSDP another axis, "replica", joins the groups."""
        return "shard" if self.zero and self.shards < self.gradient_ranks else "dp"

    @property
    def world_size(self) -> int:
        """How many ranks run the step."""
        return self.mesh.size

    @property
    def rows_per_microbatch(self) -> int:
        """Sequences one rank handles in one microbatch."""
        return self.global_batch // (self.dp * self.microbatches)

    @property
    def tokens_per_step(self) -> int:
        """Tokens trained on in one step, over all ranks."""
        return self.global_batch * self.seq

    @property
    def learning_rate(self) -> float:
        """The learning rate, the optimizer's default filled in."""
        default = 1e-3 if self.optimizer == Optimizer.ADAMW else 0.1
        return default if self.lr is None else self.lr

    def recompute_in(self, unit: str) -> str:
        """What the backward of a unit computes again: a `Recompute`."""
        number = unit.removeprefix("layer")
        if not number.isdigit() or int(number) % self.recompute_every:
            return Recompute.NONE
        return self.recompute

    @property
    def mixed(self) -> bool:
        """Whether the optimizer keeps a float32 master copy of lower-precision weights."""
        return self.dtype == DType.BFLOAT16

    @property
    def layout(self) -> str:
        """The layout in one phrase, for badges and tables."""
        return plan_mesh.in_words(self)

    @property
    def asynchronous(self) -> bool:
        """Whether weights change inside the step, so that no single process does the same."""
        return self.pp > 1 and self.schedule != OWN and SCHEDULES[self.schedule].asynchronous


def _own(text: str) -> Order:
    return reading.read(text.replace(RANK_MARK.strip(), "\n"), OWN)


@lru_cache(maxsize=256)
def _order(schedule: str, job: Job) -> Order:
    return SCHEDULES[schedule].of(job)


def flat_fields() -> Mapping[str, Any]:
    """Every flat field of a Plan with its declaration, model fields first."""
    both = (*fields(ModelShape), *fields(Plan))
    return {f.name: f for f in both if f.name != "model"}
