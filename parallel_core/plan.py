"""The Plan: what the reader chose, validated. Nothing here knows how it will be run.

`ModelShape` is the model, `Plan` is one training step of it and how that step is split over
ranks. `Plan.of` takes all fields flat, as the command line and the URL of a page write them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import Any

from parallel_core.fields import (
    PlanError,
    choice,
    nearest_where,
    parse,
    real,
    switch,
    unknown,
    validate,
    whole,
    words,
)
from parallel_core.mesh import Mesh
from parallel_core.pipeline import SCHEDULES, reading
from parallel_core.pipeline.legal import legal
from parallel_core.pipeline.order import Order
from parallel_core.pipeline.schedule import Job
from parallel_core.pipeline.stages import split
from parallel_core.program import ProgramError

OWN = "own"
"""The schedule that the reader brings along."""

RANK_MARK = " | "
"""What may stand for the end of a rank's line in an order that must fit on one."""

MOST_TASKS = 1 << 16
"""Microbatches times stages of a pipeline that is to be run; `shardlab schedule` takes more."""


class Dialect(StrEnum):
    """Which family the transformer block follows."""

    GPT = "gpt"
    LLAMA = "llama"


class DType(StrEnum):
    """The element type of weights, activations and gradients."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT64 = "float64"

    @property
    def bytes(self) -> int:
        """Bytes of one element."""
        return {"float32": 4, "bfloat16": 2, "float64": 8}[self.value]


class Optimizer(StrEnum):
    """The rule that turns a gradient into an update."""

    SGD = "sgd"
    ADAMW = "adamw"


class DPMethod(StrEnum):
    """How data-parallel ranks sum their gradients (data/naive.py, data/bucketed.py)."""

    NAIVE = "naive"
    BUCKETED = "bucketed"


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A decoder-only transformer: its dialect and its sizes.

    gpt    LayerNorm, GELU (tanh), biases, learned positions, multi-head attention
    llama  RMSNorm, SwiGLU, no biases, rotary positions, grouped-query attention

    >>> ModelShape(hidden=64, heads=4).head_dim
    16
    """

    dialect: str = choice("llama", Dialect, "transformer dialect")
    layers: int = whole(4, 1, 256, "transformer layers")
    hidden: int = whole(128, 2, 32768, "model width, D")
    heads: int = whole(4, 1, 256, "attention heads")
    kv_heads: int | None = whole(None, 1, 256, "key/value heads; default: as many as heads")
    ffn: int | None = whole(None, 1, 131072, "MLP width, F; default 4D (gpt) or about 8D/3 (llama)")
    vocab: int = whole(256, 2, 262144, "vocabulary; 256 is one token per byte")
    tied: bool = switch(False, "share the embedding with the output head")
    dropout: float = real(0.0, 0.0, 0.9, "dropout probability (gpt dialect)")

    def __post_init__(self) -> None:
        validate(self)
        if self.hidden % 2 and self.dialect == Dialect.LLAMA:
            raise PlanError("hidden", self.hidden, "must be even", self.hidden + 1)
        if not self._heads_fit(self.heads):
            fit = nearest_where(self.heads, filter(self._heads_fit, range(1, 257)))
            even = " into heads of even width" if self.dialect == Dialect.LLAMA else ""
            raise PlanError("heads", self.heads, f"must divide hidden={self.hidden}{even}", fit)
        self._check_kv_heads()
        if self.dropout and self.dialect == Dialect.LLAMA:
            raise PlanError("dropout", self.dropout, "must be 0 in the llama dialect", 0.0)

    def _heads_fit(self, heads: int) -> bool:
        step = 2 if self.dialect == Dialect.LLAMA else 1
        return self.hidden % (heads * step) == 0

    def _check_kv_heads(self) -> None:
        if self.kv_heads is None or self.kv_heads == self.heads:
            return
        if self.dialect == Dialect.GPT:
            rule = f"must equal heads={self.heads} in the gpt dialect"
            raise PlanError("kv_heads", self.kv_heads, rule, self.heads)
        if self.heads % self.kv_heads:
            divisors = [d for d in range(1, self.heads + 1) if self.heads % d == 0]
            rule = f"must divide heads={self.heads}"
            raise PlanError("kv_heads", self.kv_heads, rule, nearest_where(self.kv_heads, divisors))

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads

    @property
    def kv(self) -> int:
        """Key/value heads, the default filled in."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def mlp(self) -> int:
        """MLP width, the default filled in: 4D, or 8D/3 rounded up to a multiple of 16."""
        if self.ffn is not None:
            return self.ffn
        if self.dialect == Dialect.GPT:
            return 4 * self.hidden
        return -(-8 * self.hidden // 48) * 16


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
    pp: int = whole(1, 1, 64, "pipeline ranks")
    schedule: str = choice("1f1b", (*SCHEDULES, OWN), "order in which a pipeline computes")
    virtual_stages: int | None = whole(None, 1, 64, "stages a pipeline rank; default: the fewest")
    stage_layers: str | None = words(None, "layers of each stage, as in 2,1,1; default: even")
    cap: float | None = real(None, 0.5, 4096, "microbatches a rank may hold (zb-auto)")
    order: str | None = words(
        None, "the schedule itself, ranks parted by lines or | (schedule=own)"
    )
    microbatches: int = whole(1, 1, 4096, "microbatches per step (gradient accumulation)")
    global_batch: int = whole(16, 1, 1048576, "sequences per step over all ranks")
    seq: int = whole(128, 1, 1048576, "tokens per sequence")
    dtype: str = choice("float32", DType, "element type of weights, activations and gradients")
    optimizer: str = choice("adamw", Optimizer, "optimizer")
    lr: float | None = real(None, 0.0, 100.0, "learning rate; default 1e-3 (adamw), 0.1 (sgd)")
    seed: int = whole(0, 0, 2**31 - 1, "seed of weights, dropout and data order")

    def __post_init__(self) -> None:
        validate(self)
        self._check_batch()
        self._check_pipeline()

    def _check_pipeline(self) -> None:
        if self.pp == 1:
            for name in ("stage_layers", "order"):
                if getattr(self, name) is not None:
                    raise PlanError("pp", 1, f"makes no stages for {name}", 2)
            return
        if self.schedule == OWN and self.order is None:
            raise PlanError("schedule", OWN, "needs the order itself in `order`", "1f1b")
        stages = self.pp * (self.virtual_stages or 1)
        if stages * self.microbatches > MOST_TASKS:
            rule = f"times {stages} stages must be at most {MOST_TASKS:,} tasks to be run"
            raise PlanError("microbatches", self.microbatches, rule, max(MOST_TASKS // stages, 1))
        stages = self.pipeline.stages
        if stages < 2 or self.pipeline.p != self.pp:
            rule = f"does not fit the {self.pipeline.p} ranks of the order"
            raise PlanError("pp", self.pp, rule, self.pipeline.p)
        split(self.model.layers, stages, self.stage_layers)
        if self.asynchronous and self.model.tied:
            rule = "has two copies that asynchronous updates would let drift apart"
            raise PlanError("tied", True, rule, False)
        most = max(Counter(s for held in self.pipeline.held for s in held).values())
        if most > 2:
            rule = f"puts a stage on {most} ranks; two copies of the weights are the most"
            raise PlanError("schedule", self.schedule, rule, "dualpipe")

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

    def _check_batch(self) -> None:
        share, most = self.dp * self.microbatches, self._most("global_batch")
        if share > most:
            rule = f"times dp={self.dp} must be at most {most:,} sequences"
            raise PlanError("microbatches", self.microbatches, rule, most // self.dp)
        if self.global_batch % share:
            near = min(max(round(self.global_batch / share), 1), most // share) * share
            rule = f"must be a multiple of dp*microbatches={self.dp}*{self.microbatches}"
            raise PlanError("global_batch", self.global_batch, rule, near)

    def _most(self, name: str) -> int:
        return int(type(self).__dataclass_fields__[name].metadata["high"])

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
        """A pipeline with no number of microbatches gets two a rank, and a batch they divide;
        an order makes the schedule the reader's own."""
        if flat.get("order") is not None and flat.get("schedule") is None:
            flat = {**flat, "schedule": OWN}
        if flat.get("pp") in (None, 1, "1") or flat.get("microbatches") is not None:
            return flat
        pp, dp = cls._read("pp", flat), cls._read("dp", flat)
        count = 2 * pp
        if flat.get("order") and flat["schedule"] == OWN:
            with suppress(ProgramError):
                count = _own(flat["order"]).m
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
        alone: dict[str, Any] = {name: None for name in ("virtual_stages", "stage_layers", "order")}
        return replace(self, dp=1, microbatches=1, pp=1, schedule="1f1b", cap=None, **alone)

    @property
    def mesh(self) -> Mesh:
        """The ranks as a grid; inner to outer tp-cp-dp-pp as the axes arrive."""
        axes = (("dp", self.dp), ("pp", self.pp))
        return Mesh(axes[:1] if self.pp == 1 else axes)

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

    @property
    def mixed(self) -> bool:
        """Whether the optimizer keeps a float32 master copy of lower-precision weights."""
        return self.dtype == DType.BFLOAT16

    @property
    def layout(self) -> str:
        """The layout in one phrase, for badges and tables."""
        parts = [f"dp={self.dp} ({self.dp_method})"] if self.dp > 1 else []
        if self.pp > 1:
            v = self.pipeline.stages // self.pp
            several = f" v={v}" if v > 1 else ""
            parts.append(f"pp={self.pp} ({self.schedule}{several}, m={self.microbatches})")
        return " x ".join(parts) or "one process"

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
