"""On real ranks: the tensor-parallel model beside the whole one, from the same weights."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from parallel_core.comm import Comm
from parallel_core.mesh import Mesh
from parallel_core.model import IGNORED, Place, Transformer, init_weights, loss_sum
from parallel_core.params import Cut, cuts, param_specs
from parallel_core.plan import Plan
from parallel_core.rank import Rank, choose_backend
from parallel_core.tensor.block import TensorTransformer
from parallel_core.tensor.conjugate import AXIS, Region
from parallel_core.tensor.cross_entropy import vocab_loss_sum
from parallel_core.text import Sampler


def beside_the_whole(rank: Rank, *, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every case on this rank: errors of loss and gradients, and messages by (phase, op)."""
    rank.init(choose_backend(rank.local_size))
    return [_one(rank, **case) for case in cases]


def _one(rank: Rank, plan: dict[str, Any], sequence: bool) -> dict[str, Any]:
    chosen = Plan.of(**plan, tp=rank.world_size, sp=sequence and rank.world_size > 1)
    comm = Comm(Mesh(((AXIS, rank.world_size),)), rank.rank)
    region = Region.of(comm, sequence=sequence)
    whole, mine = Transformer(chosen.single()), TensorTransformer(chosen, region)
    init_weights(whole, chosen.single())
    parts = {spec.name: cuts(chosen, spec, {AXIS: region.me}) for spec in param_specs(chosen)}
    full, own = dict(whole.named_parameters()), dict(mine.named_parameters())
    with torch.no_grad():
        for name, part in parts.items():
            own[name].copy_(_slice(full[name], part))
    batch = Sampler(chosen).batch(0)
    ids, labels = torch.from_numpy(batch.ids), torch.from_numpy(batch.labels)
    labels[0, :3] = IGNORED
    place = Place(chosen.seed, 0, torch.arange(len(ids)), torch.arange(chosen.seq))
    truth = loss_sum(_through(whole, chosen, ids, place), labels)
    truth.backward()
    comm.log.clear()
    loss = mine.loss_sum(_through(mine, chosen, ids, place), labels)
    forward = Counter(sent.op for sent in comm.log)
    forward_bytes = sum(sent.bytes for sent in comm.log)
    comm.log.clear()
    loss.backward()
    backward = Counter(sent.op for sent in comm.log)
    worst = {}
    for name, part in parts.items():
        found = own[name].grad.clone()
        if not part and sequence:
            comm.all_reduce(found, AXIS)
        if part and part[0].copies > 1:
            found = _sum_of_copies(comm, found, part[0].copies)
        right = _slice(full[name].grad, part)
        worst[name] = float((found - right).abs().max() / right.abs().max().clamp_min(1e-12))
    return {
        "loss": abs(loss.item() - truth.item()) / abs(truth.item()),
        "worst": worst,
        "forward": dict(forward),
        "forward_bytes": forward_bytes,
        "backward": dict(backward),
    }


def loss_of_large_logits(rank: Rank, *, scale: float) -> dict[str, float]:
    """Loss and gradient of logits that exp could not bear, beside torch's own; float32."""
    rank.init(choose_backend(rank.local_size))
    comm = Comm(Mesh(((AXIS, rank.world_size),)), rank.rank)
    region = Region.of(comm)
    draw = torch.Generator().manual_seed(0)
    logits = (scale * torch.randn(2, 3, 16, generator=draw)).requires_grad_()
    labels = torch.randint(0, 16, (2, 3), generator=draw)
    truth = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="sum"
    )
    truth.backward()
    mine = logits.detach().chunk(region.n, -1)[region.me].clone().requires_grad_()
    loss = vocab_loss_sum(mine, labels, 16, region)
    loss.backward()
    right = logits.grad.chunk(region.n, -1)[region.me]
    return {
        "loss": float(abs(loss - truth) / truth.clamp_min(1)),
        "gradient": float((mine.grad - right).abs().max()),
    }


def _through(model: Transformer, plan: Plan, ids: torch.Tensor, place: Place) -> torch.Tensor:
    x = ids
    for unit in model.units:
        x = model.forward_unit(unit, x, place)
    return x


def _slice(tensor: torch.Tensor, parts: tuple[Cut, ...]) -> torch.Tensor:
    for part in parts:
        tensor = tensor.narrow(part.dim, part.start, part.stop - part.start)
    return tensor


def _sum_of_copies(comm: Comm, grad: torch.Tensor, copies: int) -> torch.Tensor:
    every = comm.all_gather(grad[None].contiguous(), AXIS)
    first = comm.rank // copies * copies
    return every[first : first + copies].sum(0)
