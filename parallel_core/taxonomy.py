"""The map: every way to spread a model over devices, and the same four questions put to each.

    What is split?   What is duplicated?   What is pipelined?   Who talks to whom?

World size is the number of processes, a rank is one of them (0 .. world size - 1); here one rank
is one device. Three walls make a model spread: its *weights* do not fit, its training *state*
does not fit, its *work* takes too long. Each method takes down some of them, and brings a cost
of its own. Pages and lessons read these rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Wall(StrEnum):
    """What a single device runs out of."""

    WEIGHTS = "weights"
    STATE = "state"
    WORK = "work"


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to split: its place in the map, the four answers, what it fixes and introduces.

    `dimension` is the tensor dim or model dim that is cut, `framework` a representative one,
    `source` the paper that introduced it. `walls` are those it takes down: `Wall.STATE` also
    where only activations shrink.
    """

    name: str
    axis: str
    family: str
    dimension: str
    use: str
    framework: str
    source: str
    split: str
    duplicated: str
    pipelined: str
    talks: str
    walls: tuple[Wall, ...]
    introduces: str


TAXONOMY: tuple[Method, ...] = (
    Method(
        name="synchronous data parallel",
        axis="dp",
        family="data parallel",
        dimension="batch",
        use="the model fits; more examples per second",
        framework="PyTorch DDP",
        source="Li et al. 2020, arXiv:2006.15704",
        split="the examples of a batch",
        duplicated="weights, gradients and optimizer state, on every rank",
        pipelined="nothing; the reduction overlaps with the backward pass",
        talks="all ranks, once a step: all-reduce of the gradients",
        walls=(Wall.WORK,),
        introduces="a gradient all-reduce per step, and a batch that grows with the ranks",
    ),
    Method(
        name="asynchronous data parallel",
        axis="dp",
        family="data parallel",
        dimension="batch",
        use="ranks of unequal speed, slow networks",
        framework="DistBelief, parameter server",
        source="Dean et al. 2012; Li et al. 2014",
        split="the examples",
        duplicated="the weights, in versions of different age",
        pipelined="nothing; nobody waits",
        talks="each worker with the server, whenever it is ready",
        walls=(Wall.WORK,),
        introduces="stale gradients (on average W-1 versions old), a busy server",
    ),
    Method(
        name="sharded data parallel",
        axis="dp",
        family="data parallel",
        dimension="batch, and the state over the same ranks",
        use="the weights of one layer fit, the training state does not",
        framework="DeepSpeed ZeRO, PyTorch FSDP2",
        source="Rajbhandari et al. 2019, arXiv:1910.02054",
        split="examples; optimizer state, then gradients, then weights",
        duplicated="what the stage leaves whole; at stage 3 one layer's weights in use",
        pipelined="nothing; the next layer's gather overlaps with this one's work",
        talks="all ranks: reduce-scatter of gradients, all-gather of weights",
        walls=(Wall.WORK, Wall.STATE, Wall.WEIGHTS),
        introduces="weights travel: stage 3 sends 1.5 times the bytes of an all-reduce",
    ),
    Method(
        name="tensor parallel",
        axis="tp",
        family="model parallel",
        dimension="hidden (columns and rows of each weight, heads)",
        use="a layer too large or too slow for one device; inside a node",
        framework="Megatron-LM",
        source="Shoeybi et al. 2019, arXiv:1909.08053",
        split="every weight matrix, and the work on it",
        duplicated="the input of each block, norms, the examples",
        pipelined="nothing",
        talks="the ranks of a layer, 2 all-reduces forward and 2 backward per layer",
        walls=(Wall.WEIGHTS, Wall.STATE, Wall.WORK),
        introduces="messages nothing hides, in every layer: it wants the fastest link",
    ),
    Method(
        name="pipeline parallel",
        axis="pp",
        family="model parallel",
        dimension="layers (depth)",
        use="a model too deep for one node; slow links between nodes",
        framework="GPipe, Megatron-LM, torch.distributed.pipelining",
        source="Huang et al. 2018, arXiv:1811.06965",
        split="the layers, into stages",
        duplicated="nothing but tied weights",
        pipelined="microbatches through the stages",
        talks="neighbouring stages: activations forward, their gradients back",
        walls=(Wall.WEIGHTS, Wall.STATE, Wall.WORK),
        introduces="a bubble: (p-1)/m of the ideal time; activations of several microbatches",
    ),
    Method(
        name="expert parallel",
        axis="ep",
        family="model parallel",
        dimension="experts of a mixture-of-experts layer",
        use="models with routed experts",
        framework="GShard, DeepSpeed-MoE, Megatron Core",
        source="Lepikhin et al. 2020, arXiv:2006.16668",
        split="the experts; each token goes to the few it is routed to",
        duplicated="attention, router, shared experts",
        pipelined="nothing",
        talks="all ranks of the layer: all-to-all there and back",
        walls=(Wall.WEIGHTS, Wall.STATE, Wall.WORK),
        introduces="all-to-alls of uneven size: the step waits for the fullest rank",
    ),
    Method(
        name="sequence parallel",
        axis="tp",
        family="sequence and context",
        dimension="sequence, in norms and dropout only",
        use="beside tensor parallel, always",
        framework="Megatron-LM",
        source="Korthikanti et al. 2022, arXiv:2205.05198",
        split="the activations that tensor parallel leaves whole",
        duplicated="norm weights",
        pipelined="nothing",
        talks="the ranks of tensor parallel: all-gather and reduce-scatter for each all-reduce",
        walls=(Wall.STATE,),
        introduces="norm gradients to sum over the same ranks; one more all-gather in the backward",
    ),
    Method(
        name="context parallel",
        axis="cp",
        family="sequence and context",
        dimension="sequence, everywhere",
        use="contexts whose activations do not fit one device",
        framework="Ring Attention, DeepSpeed-Ulysses, Megatron Core",
        source="Liu et al. 2023, arXiv:2310.01889",
        split="the tokens of each sequence",
        duplicated="the weights",
        pipelined="blocks of keys and values round the ring",
        talks="the ranks of a sequence: a ring of keys and values, or all-to-all on heads",
        walls=(Wall.STATE, Wall.WORK),
        introduces="a causal mask that loads the ranks unevenly; gradients to sum over cp",
    ),
    Method(
        name="hybrid",
        axis="all",
        family="hybrid",
        dimension="a product of the above on one mesh",
        use="anything large",
        framework="Megatron-LM, TorchTitan, DeepSpeed",
        source="Narayanan et al. 2021, arXiv:2104.04473",
        split="each axis its own dimension",
        duplicated="along each axis what that axis leaves whole",
        pipelined="along pp",
        talks="every rank in one group per axis",
        walls=(Wall.WEIGHTS, Wall.STATE, Wall.WORK),
        introduces="the choice of which axis gets which link",
    ),
)

QUESTIONS: dict[str, str] = {
    "split": "What is split?",
    "duplicated": "What is duplicated?",
    "pipelined": "What is pipelined?",
    "talks": "Who talks to whom?",
}


def map_rows() -> tuple[dict[str, str], ...]:
    """The map as a table: family, method, dimension, use, framework, source."""
    columns = ("family", "name", "axis", "dimension", "use", "framework", "source")
    return tuple({column: getattr(method, column) for column in columns} for method in TAXONOMY)


def question_rows() -> tuple[dict[str, str], ...]:
    """The four questions answered by every method, one row a method."""
    return tuple(
        {"method": method.name, **{text: getattr(method, key) for key, text in QUESTIONS.items()}}
        for method in TAXONOMY
    )


def wall_rows() -> tuple[dict[str, str], ...]:
    """What each method fixes (a tick per wall) and what it introduces."""
    return tuple(
        {
            "method": method.name,
            **{wall.value: "✓" if wall in method.walls else "" for wall in Wall},
            "introduces": method.introduces,
        }
        for method in TAXONOMY
    )
