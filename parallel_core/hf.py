"""Our parameters under the names and shapes of Hugging Face `transformers`, and back.

The map is linear (rename, transpose, join), so it carries weights and gradients alike.

    llama   layer3.attn.q.weight [out, in]  <->  model.layers.3.self_attn.q_proj.weight [out, in]
    gpt     layer3.attn.{q,k,v}.weight      <->  transformer.h.3.attn.c_attn.weight [in, 3 out]
    experts layer3.moe.experts.{gate,down,up}.weight [E, out, in]
                <->  model.layers.3.block_sparse_moe.experts.{e}.{w1,w2,w3}.weight [out, in]

GPT-2's linear layers keep their weight as [in, out] and join q, k and v. A tied output head is
the embedding: it is written once, under the embedding's name. Experts have Mixtral's names, a
tensor each: llama's, without shared ones. A config says how a model computes, so it needs a router
that Mixtral has. Jiang et al. 2024, arXiv:2401.04088.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from parallel_core.attention import ROPE_THETA
from parallel_core.layers import EPS
from parallel_core.mixtral import computes_as_mixtral, named_by_mixtral
from parallel_core.plan import Dialect, ModelShape, Plan


@dataclass(frozen=True)
class Entry:
    """One tensor of theirs: the ones of ours it joins, and whether its matrix is [in, out]; or the
    matrix of one `expert` in a stack of ours."""

    theirs: str
    ours: tuple[str, ...]
    transposed: bool = False
    expert: int | None = None


LLAMA_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn.q",
    "self_attn.k_proj": "attn.k",
    "self_attn.v_proj": "attn.v",
    "self_attn.o_proj": "attn.o",
    "post_attention_layernorm": "mlp_norm",
}

LLAMA_MLP = {"mlp.gate_proj": "mlp.gate", "mlp.up_proj": "mlp.up", "mlp.down_proj": "mlp.down"}

MIXTRAL_ROUTER = {"block_sparse_moe.gate": "moe.router"}

MIXTRAL_EXPERT = {"w1": "gate", "w2": "down", "w3": "up"}

GPT_NORMS = {"ln_1": "attn_norm", "ln_2": "mlp_norm"}

GPT_LINEARS = {
    "attn.c_attn": ("attn.q", "attn.k", "attn.v"),
    "attn.c_proj": ("attn.o",),
    "mlp.c_fc": ("mlp.up",),
    "mlp.c_proj": ("mlp.down",),
}


def entries(model: ModelShape) -> tuple[Entry, ...]:
    """Every tensor of the Hugging Face model, in forward order; PlanError where one has no name."""
    if model.experts:
        named_by_mixtral(model)
    table = _llama(model) if model.dialect == Dialect.LLAMA else _gpt(model)
    if not model.tied:
        table.append(Entry("lm_head.weight", ("head.out.weight",)))
    return tuple(table)


def _llama(model: ModelShape) -> list[Entry]:
    table = [Entry("model.embed_tokens.weight", ("embed.tokens.weight",))]
    names = LLAMA_LAYER | (MIXTRAL_ROUTER if model.experts else LLAMA_MLP)
    for i in range(model.layers):
        for theirs, ours in names.items():
            table.append(Entry(f"model.layers.{i}.{theirs}.weight", (f"layer{i}.{ours}.weight",)))
        for e in range(model.experts):
            at = f"model.layers.{i}.block_sparse_moe.experts.{e}"
            for theirs, ours in MIXTRAL_EXPERT.items():
                stack = (f"layer{i}.moe.experts.{ours}.weight",)
                table.append(Entry(f"{at}.{theirs}.weight", stack, expert=e))
    return [*table, Entry("model.norm.weight", ("head.norm.weight",))]


def _gpt(model: ModelShape) -> list[Entry]:
    table = [
        Entry("transformer.wte.weight", ("embed.tokens.weight",)),
        Entry("transformer.wpe.weight", ("embed.positions.weight",)),
    ]
    for i in range(model.layers):
        at = f"transformer.h.{i}"
        for kind in ("weight", "bias"):
            for norm, ours in GPT_NORMS.items():
                table.append(Entry(f"{at}.{norm}.{kind}", (f"layer{i}.{ours}.{kind}",)))
            for linear, parts in GPT_LINEARS.items():
                joined = tuple(f"layer{i}.{part}.{kind}" for part in parts)
                table.append(Entry(f"{at}.{linear}.{kind}", joined, kind == "weight"))
    for kind in ("weight", "bias"):
        table.append(Entry(f"transformer.ln_f.{kind}", (f"head.norm.{kind}",)))
    return table


def to_hf(tensors: Mapping[str, Tensor], model: ModelShape) -> dict[str, Tensor]:
    """Our tensors (weights or gradients, all of them) under their names and shapes, contiguous."""
    theirs = {}
    for entry in entries(model):
        parts = [tensors[name].detach() for name in entry.ours]
        parts = [part.mT for part in parts] if entry.transposed else parts
        if entry.expert is not None:  # files want tensors with memory of their own
            theirs[entry.theirs] = parts[0][entry.expert].clone()
        elif len(parts) > 1:
            theirs[entry.theirs] = torch.cat(parts, dim=-1)
        else:
            theirs[entry.theirs] = parts[0].contiguous()
    return theirs


def from_hf(tensors: Mapping[str, Tensor], model: ModelShape) -> dict[str, Tensor]:
    """The inverse of `to_hf`."""
    ours: dict[str, Tensor] = {}
    stacks: dict[str, list[Tensor]] = defaultdict(list)
    for entry in entries(model):
        if entry.expert is not None:
            stacks[entry.ours[0]].append(tensors[entry.theirs])
            continue
        parts = tensors[entry.theirs].chunk(len(entry.ours), dim=-1)
        for name, part in zip(entry.ours, parts, strict=True):
            ours[name] = (part.mT if entry.transposed else part).contiguous()
    return ours | {name: torch.stack(stack) for name, stack in stacks.items()}


def config(plan: Plan) -> dict[str, Any]:
    """config.json: what `transformers` needs to build the same model. Bytes have no end token.

    PlanError for experts that compute as no Mixtral does.
    """
    m = plan.model
    if m.experts:
        computes_as_mixtral(m)
    shared = {
        "vocab_size": m.vocab,
        "tie_word_embeddings": m.tied,
        "torch_dtype": plan.dtype,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if m.dialect == Dialect.LLAMA:
        return shared | _llama_config(plan) | (_mixtral_config(m) if m.experts else {})
    return shared | {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_embd": m.hidden,
        "n_inner": m.mlp,
        "n_layer": m.layers,
        "n_head": m.heads,
        "n_positions": plan.seq,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": EPS,
        "embd_pdrop": m.dropout,
        "attn_pdrop": m.dropout,
        "resid_pdrop": m.dropout,
    }


def _llama_config(plan: Plan) -> dict[str, Any]:
    m = plan.model
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": m.hidden,
        "intermediate_size": m.mlp,
        "num_hidden_layers": m.layers,
        "num_attention_heads": m.heads,
        "num_key_value_heads": m.kv,
        "head_dim": m.head_dim,
        "max_position_embeddings": plan.seq,
        "hidden_act": "silu",
        "rms_norm_eps": EPS,
        "rope_theta": ROPE_THETA,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
    }


def _mixtral_config(m: ModelShape) -> dict[str, Any]:
    """What a Mixtral's config says in other words, and what of experts. Its auxiliary loss is that
    of a batch and not of each sequence: it is left to whoever trains on."""
    return {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "num_local_experts": m.experts,
        "num_experts_per_tok": m.top_k,
        "router_jitter_noise": 0.0,
        "sliding_window": None,
        "output_router_logits": False,
    }


def save_weights(folder: Path, tensors: Mapping[str, Tensor], plan: Plan) -> None:
    """Write model.safetensors and config.json, which `from_pretrained(folder)` loads.

    Each file is written under a temporary name and renamed, so that a reader finds it whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _save(folder / "model.safetensors", to_hf(tensors, plan.model))
    part = folder / "config.json.part"
    part.write_text(json.dumps(config(plan), indent=2) + "\n")
    os.replace(part, folder / "config.json")


def save_grads(file: Path, tensors: Mapping[str, Tensor], plan: Plan) -> None:
    """Write full gradients under the names and shapes of the weights they belong to."""
    _save(file, to_hf(tensors, plan.model))


def save_batch(file: Path, ids: NDArray[np.int64], labels: NDArray[np.int64]) -> None:
    """Write a batch as int64 `input_ids` and `labels`, both [B, S].

    The labels are already shifted: labels[b, t] follows input_ids[b, t], and the file says so.
    """
    tensors = {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}
    said = "already shifted: labels[b, t] is the token that follows input_ids[b, t]"
    _save(file, {name: t.contiguous() for name, t in tensors.items()}, labels=said)


def _save(file: Path, tensors: dict[str, Tensor], **metadata: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    save_file(tensors, part, metadata={"format": "pt", **metadata})
    os.replace(part, file)
