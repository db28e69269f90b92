"""The same model cut over tp by torch: DTensor's parallelize_module, as its documentation advises.

                    tp                                     tp + sp
    embed.tokens    RowwiseParallel: the vocabulary cut    its sum is scattered over S
    positions       whole                                  SequenceParallel
    norms           whole                                  SequenceParallel
    attn, mlp       PrepareModuleInput, replicated         from S/tp to all of S
    q k v gate up   ColwiseParallel                        the same
    o down          RowwiseParallel                        its sum is scattered over S
    head.out        ColwiseParallel: logits cut by vocabulary, for loss_parallel

An input is prepared once for all the matrices that read it: torch would sum a gradient for each of
them otherwise. The modules are the whole model's (model.py), with torch's own Linear and Embedding
in the place of ours, which parallelize_module demands; they hold the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    loss_parallel,
    parallelize_module,
)

from parallel_core import values as v
from parallel_core.dropout import Place
from parallel_core.layers import Linear
from parallel_core.model import Head, Table, Transformer, init_weights, loss_sum
from parallel_core.plan import Optimizer, Plan
from parallel_core.program import Value
from parallel_core.tensor.conjugate import AXIS

Load = Callable[[int], dict[Value, Any]]


class TorchHead(nn.Module):
    """The head with its projection as a module of its own: x[B, S, D] -> logits[B, S, V]."""

    def __init__(self, head: Head, table: nn.Parameter) -> None:
        super().__init__()
        self.norm = head.norm
        self.out = _linear(table, None)

    def forward(self, x_bsd: Tensor) -> Tensor:
        """The norm, then the projection."""
        logits: Tensor = self.out(self.norm(x_bsd))
        return logits


def of_torch(plan: Plan) -> Transformer:
    """The whole model with its initial weights; its matrices and tables are torch's modules."""
    model = Transformer(plan.single())
    init_weights(model, plan.single())
    table = model.embed.tokens if model.head.out is None else model.head.out
    model.add_module("head", TorchHead(model.head, table.weight))
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Linear):
                parent.add_module(name, _linear(child.weight, child.bias))
            elif isinstance(child, Table):
                parent.add_module(name, _embedding(child.weight))
    return model


def _linear(weight: nn.Parameter, bias: nn.Parameter | None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight = weight
    if bias is not None:
        made.bias = bias
    return made


def _embedding(weight: nn.Parameter) -> nn.Embedding:
    made = nn.Embedding(weight.shape[0], weight.shape[1], device="meta")
    made.weight = weight
    return made


def styles(plan: Plan, *, cut_loss: bool = True) -> dict[str, ParallelStyle]:
    """How parallelize_module is to cut each module; without `cut_loss` logits are gathered."""
    outside = Shard(1) if plan.sp else Replicate()
    logits = Shard(-1) if cut_loss else Replicate()
    column, row = ColwiseParallel(), RowwiseParallel(output_layouts=outside)
    made: dict[str, ParallelStyle] = {
        "embed.tokens": RowwiseParallel(input_layouts=Replicate(), output_layouts=outside),
        "layer*.attn": PrepareModuleInput(
            input_layouts=(outside, None), desired_input_layouts=(Replicate(), None)
        ),
        "layer*.mlp": PrepareModuleInput(
            input_layouts=(outside,), desired_input_layouts=(Replicate(),)
        ),
        **{f"layer*.{name}": column for name in ("attn.q", "attn.k", "attn.v")},
        **{f"layer*.{name}": column for name in ("mlp.gate", "mlp.up")},
        **{f"layer*.{name}": row for name in ("attn.o", "mlp.down")},
        "head.out": ColwiseParallel(
            input_layouts=outside, output_layouts=logits, use_local_output=not cut_loss
        ),
    }
    if plan.sp:
        norms = ("layer*.attn_norm", "layer*.mlp_norm", "head.norm")
        made |= {name: SequenceParallel() for name in norms}
        made["embed.positions"] = SequenceParallel(sequence_dim=0, use_local_output=True)
    return made


class Cut(nn.Module):
    """The model after parallelize_module: the loss of some rows, the same on every rank."""

    def __init__(self, plan: Plan, mesh: DeviceMesh, *, cut_loss: bool = True) -> None:
        super().__init__()
        self.plan, self.mesh = plan, mesh
        whole = of_torch(plan).to(mesh.device_type)
        parallelize_module(whole, mesh, styles(plan, cut_loss=cut_loss), src_data_rank=None)
        if plan.model.tied:  # each was made a tensor of its own
            whole.get_submodule("head.out").weight = whole.embed.tokens.weight
        self.whole = whole

    def forward(self, ids_bs: Tensor, labels_bs: Tensor, place: Place, valid_tokens: int) -> Tensor:
        """The loss of these rows: their summed cross-entropy over the global batch's tokens."""
        first, *layers, head = self.whole.units.values()
        x = first(ids_bs, self._here(place))
        for layer in layers:
            x = layer(x, place)
        loss: Any = loss_sum(head(x), labels_bs)
        made: Tensor = (loss.to_local() if isinstance(loss, DTensor) else loss) / valid_tokens
        return made

    def _here(self, place: Place) -> Place:
        """Where the rows of the embedding stand that this rank goes on with."""
        if not self.plan.sp:
            return place
        mine = place.positions.chunk(self.mesh.size())[self.mesh.get_local_rank()]
        return replace(place, positions=mine)


class Peer:
    """A step of the cut model; `load` gives its microbatches, as ours has them."""

    def __init__(
        self, plan: Plan, load: Load, device: torch.device, *, norm: bool, cut_loss: bool = True
    ) -> None:
        self.plan, self.load, self.norm, self.cut_loss = plan, load, norm, cut_loss
        self.losses, self.norms = list[float](), list[float]()
        mesh = init_device_mesh(device.type, (plan.tp,), mesh_dim_names=(AXIS,))
        self.model = Cut(plan, mesh, cut_loss=cut_loss)
        self.parameters = list(self.model.parameters())
        # no operation takes both kinds at once, a fused update neither
        cut, whole = [[p for p in self.parameters if isinstance(p, DTensor) == c] for c in (1, 0)]
        self.groups = [group for group in (cut, whole) if group]
        kind = torch.optim.SGD if plan.optimizer == Optimizer.SGD else torch.optim.AdamW
        groups = [{"params": group} for group in self.groups]
        self.optimizer = kind(groups, lr=plan.learning_rate, fused=True)

    def step(self) -> None:
        """One training step; every rank has the loss of the global batch."""
        loaded = self.load(len(self.losses))
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for mb in range(self.plan.microbatches):
            micro = loaded[v.ids(mb)]
            with loss_parallel() if self.cut_loss else nullcontext():
                loss = self.model(micro.ids, micro.labels, micro.place, micro.valid_tokens)
                torch.autograd.backward(loss)
            total = loss.detach() + total
        self._settle()
        if self.norm:
            self.norms.append(math.hypot(*map(_norm, self.groups)))
        self.optimizer.step()
        self.losses.append(float(total))

    def _settle(self) -> None:
        """Lay each gradient out as its weight. torch leaves those of norms as parts of a sum under
        sp, which the norm and the update would each add up again."""
        for weight in self.parameters:
            grad: Any = weight.grad
            if isinstance(weight, DTensor) and grad.placements != weight.placements:
                weight.grad = grad.redistribute(placements=weight.placements)

    def gradients(self) -> dict[str, Tensor]:
        """Whole gradients by parameter, on every rank: a collective call."""
        named = self.model.whole.named_parameters()
        return {name: _whole(weight.grad) for name, weight in named if weight.grad is not None}


def _norm(weights: list[nn.Parameter]) -> float:
    grads = [weight.grad for weight in weights if weight.grad is not None]
    return float(_whole(torch.nn.utils.get_total_norm(grads)))


def _whole(tensor: Tensor) -> Tensor:
    made: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return made
