"""The models the course talks about; every parameter count is computed from the model's shape.

A dense decoder is a `ModelShape` and is counted by `param_specs`, the same table the training
runs read. DeepSeek-V2 has its own shape: latent attention and experts. A rumoured model has no
shape, only a size, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from parallel_core.params import param_specs
from parallel_core.plan import ModelShape, Plan


@dataclass(frozen=True, kw_only=True)
class LatentMoEShape:
    """DeepSeek-V2's layer: multi-head latent attention, then routed and shared experts.

    `experts` of width `expert_ffn` are routed, `active` of them run for a token, `shared` always
    run; the first `dense_layers` have one MLP of width `ffn` instead. Queries and keys are
    `nope + rope` wide per head, values `nope` wide. arXiv:2405.04434, section 3.1.2.
    """

    layers: int
    hidden: int
    heads: int
    vocab: int
    q_rank: int
    kv_rank: int
    nope: int
    rope: int
    ffn: int
    dense_layers: int
    experts: int
    active: int
    shared: int
    expert_ffn: int

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...], int, int]]:
        """Each kind of weight: name, shape, how many there are, how many one token uses."""
        d, layers, moe = self.hidden, self.layers, self.layers - self.dense_layers
        yield "embedding and head", (self.vocab, d), 2, 2
        yield "norms", (d,), 2 * layers + 1, 2 * layers + 1
        yield "q down", (self.q_rank, d), layers, layers
        yield "q norm", (self.q_rank,), layers, layers
        yield "q up", (self.heads * (self.nope + self.rope), self.q_rank), layers, layers
        yield "kv down", (self.kv_rank + self.rope, d), layers, layers
        yield "kv norm", (self.kv_rank,), layers, layers
        yield "kv up", (2 * self.heads * self.nope, self.kv_rank), layers, layers
        yield "attention out", (d, self.heads * self.nope), layers, layers
        yield "dense MLP", (3, self.ffn, d), self.dense_layers, self.dense_layers
        yield "router", (self.experts, d), moe, moe
        yield "routed experts", (3, self.expert_ffn, d), moe * self.experts, moe * self.active
        yield "shared experts", (3, self.expert_ffn, d), moe * self.shared, moe * self.shared

    @property
    def params(self) -> int:
        """All parameters."""
        return sum(math.prod(shape) * count for _, shape, count, _ in self.tensors())

    @property
    def active_params(self) -> int:
        """Parameters that one token passes through."""
        return sum(math.prod(shape) * used for _, shape, _, used in self.tensors())

    @property
    def kv_elements_per_token(self) -> int:
        """Elements cached per token: a latent (keys and values both) and a rotary key a layer."""
        return self.layers * (self.kv_rank + self.rope)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A model by name: its shape, or for a rumour only its `size`, and where that is printed.

    `positions` counts learned positions (gpt dialect); `printed` is the total its source prints.
    """

    name: str
    source: str
    shape: ModelShape | LatentMoEShape | None = None
    size: int | None = None
    positions: int = 128
    context: int = 4096
    printed: float | None = None

    @property
    def rumour(self) -> bool:
        """Whether the size is hearsay: no shape was ever published."""
        return self.shape is None

    @cached_property
    def params(self) -> int:
        """All parameters, counted from the shape (or the rumoured size)."""
        if isinstance(self.shape, ModelShape):
            plan = Plan(model=self.shape, seq=self.positions)
            return sum(spec.numel for spec in param_specs(plan))
        if self.shape is not None:
            return self.shape.params
        if self.size is None:
            raise ValueError(f"preset {self.name!r} needs a shape or a size")
        return self.size

    @property
    def active_params(self) -> int:
        """Parameters one token passes through: all of them unless experts are routed."""
        if isinstance(self.shape, LatentMoEShape):
            return self.shape.active_params
        return self.params

    @property
    def kv_elements_per_token(self) -> int | None:
        """Elements of key/value cache one token leaves behind, over all layers; None if unknown."""
        if isinstance(self.shape, ModelShape):
            return self.shape.layers * 2 * self.shape.kv * self.shape.head_dim
        return None if self.shape is None else self.shape.kv_elements_per_token


def _llama3(layers: int, hidden: int, heads: int, ffn: int) -> ModelShape:
    return ModelShape(layers=layers, hidden=hidden, heads=heads, kv_heads=8, ffn=ffn, vocab=128256)


_LLAMA3 = "Llama 3, arXiv:2407.21783, table 3"
_GPT3 = ModelShape(dialect="gpt", layers=96, hidden=12288, heads=96, vocab=50257, tied=True)
_DEEPSEEK_V2 = LatentMoEShape(
    layers=60, hidden=5120, heads=128, vocab=102400, q_rank=1536, kv_rank=512, nope=128, rope=64,
    ffn=12288, dense_layers=1, experts=160, active=6, shared=2, expert_ffn=1536,
)  # fmt: skip
_SMOL = ModelShape(layers=30, hidden=576, heads=9, kv_heads=3, ffn=1536, vocab=49152, tied=True)

_PRESETS = (
    Preset(name="ours", source="the default of every run here", shape=ModelShape(), context=128),
    Preset(name="SmolLM2-135M", source="SmolLM2, arXiv:2502.02737", shape=_SMOL,
           context=8192, printed=135e6),
    Preset(name="Llama 3 8B", source=_LLAMA3, shape=_llama3(32, 4096, 32, 14336),
           context=8192, printed=8e9),
    Preset(name="Llama 3 70B", source=_LLAMA3, shape=_llama3(80, 8192, 64, 28672),
           context=8192, printed=70e9),
    Preset(name="GPT-3 175B", source="GPT-3, arXiv:2005.14165, table 2.1", shape=_GPT3,
           positions=2048, context=2048, printed=175e9),
    Preset(name="DeepSeek-V2 236B", source="DeepSeek-V2, arXiv:2405.04434, section 3.1.2",
           shape=_DEEPSEEK_V2, context=4096, printed=236e9),
    Preset(name="Llama 3 405B", source=_LLAMA3, shape=_llama3(126, 16384, 128, 53248),
           context=8192, printed=405e9),
    Preset(name="rumoured 5T", source="a rumour: no paper gives a shape", size=5 * 10**12),
    Preset(name="rumoured 7T", source="a rumour: no paper gives a shape", size=7 * 10**12),
)  # fmt: skip

PRESETS: dict[str, Preset] = {preset.name: preset for preset in _PRESETS}
