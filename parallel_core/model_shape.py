"""The model a plan trains: its dialect, its sizes, its element types."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from parallel_core import expert_rules, own_block
from parallel_core.choices import Balance, RouterKind, Score
from parallel_core.fields import (
    PlanError,
    choice,
    nearest_where,
    real,
    switch,
    validate,
    whole,
    words,
)


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


class AttentionKind(StrEnum):
    """How softmax(q k') v is computed: by one kernel that keeps no scores, or written out."""

    FUSED = "fused"
    UNFUSED = "unfused"


class Optimizer(StrEnum):
    """The rule that turns a gradient into an update."""

    SGD = "sgd"
    ADAMW = "adamw"


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
    attention: str = choice("fused", AttentionKind, "whether scores are written to memory")
    experts: int = whole(0, 0, 512, "experts a layer, each an MLP of its own; 0 is a dense model")
    top_k: int = whole(2, 1, 64, "experts a token goes to (expert-choice: on average)")
    router: str = choice("dropless", RouterKind, "who chooses, and if there is room for all")
    score: str = choice("softmax", Score, "how a router's logits become scores")
    balance: str = choice("none", Balance, "what keeps experts evenly loaded")
    capacity: float = real(1.25, 0.01, 64.0, "places of an expert, times its even share")
    shared_experts: int = whole(0, 0, 16, "experts that every token passes beside its own")
    aux_loss: float = real(0.01, 0.0, 10.0, "weight of the auxiliary loss (balance=aux)")
    bias_rate: float = real(0.001, 0.0, 10.0, "step of the bias towards even loads (balance=bias)")
    z_loss: float = real(0.0, 0.0, 1.0, "weight of a loss that keeps a router's logits small")
    expert_groups: int = whole(1, 1, 64, "groups of neighbouring experts, as if each on a node")
    group_limit: int | None = whole(None, 1, 64, "groups a token may reach; default: all")
    block: str | None = words(None, "a block of yours for every layer, as in my_block.py:Block")
    skew: float = real(0.0, 0.0, 100.0, "how far a router leans towards the first experts")

    def __post_init__(self) -> None:
        validate(self)
        if self.block is not None:
            object.__setattr__(self, "block", own_block.resolved(self.block))
        if self.hidden % 2 and self.dialect == Dialect.LLAMA:
            raise PlanError("hidden", self.hidden, "must be even", self.hidden + 1)
        if not self._heads_fit(self.heads):
            fit = nearest_where(self.heads, filter(self._heads_fit, range(1, 257)))
            even = " into heads of even width" if self.dialect == Dialect.LLAMA else ""
            raise PlanError("heads", self.heads, f"must divide hidden={self.hidden}{even}", fit)
        self._check_kv_heads()
        if self.dropout and self.dialect == Dialect.LLAMA:
            raise PlanError("dropout", self.dropout, "must be 0 in the llama dialect", 0.0)
        expert_rules.check(self)

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
    def fused(self) -> bool:
        """Whether no attention scores are kept; with dropout they are, since a fused kernel would
        draw its own mask."""
        return self.attention == AttentionKind.FUSED and self.dropout == 0

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

    @property
    def routes_by_sequence(self) -> bool:
        """Whether a router looks at a whole sequence at once: experts with so many places, experts
        that choose, a loss that balances each sequence."""
        limited = bool(self.experts) and self.router != RouterKind.DROPLESS
        return limited or self.balance == Balance.AUX

    @property
    def shared_width(self) -> int:
        """Width of the MLP that stands for all shared experts."""
        return self.shared_experts * self.mlp
