"""Exhibits: gradients and norms that are a factor too large (scaled.py)."""

from __future__ import annotations

from parallel_core.museum.exhibit import AND_NORM, PROBE_ALONE, Exhibit, github

SCALES: tuple[Exhibit, ...] = (
    Exhibit(
        name="microbatches-undivided",
        title="A pipeline's loss is not divided by its microbatches",
        wrong="The schedule runs the backwards itself, on losses that were not divided yet. The "
        "trainer divides afterwards: only the number that it prints.",
        silent="AdamW divides each gradient by its own size. A factor on all of them cancels.",
        shows="Every gradient is as many times too large as there are microbatches, exactly.",
        cure="Divide the loss before its backward, once, by the tokens of the whole step.",
        fields={"pp": 2, "microbatches": 4},
        asleep={"microbatches": 1},
        notices=AND_NORM,
        sources=(
            github(
                "pytorch/torchtitan",
                2972,
                "the pipeline runs backward on the raw sum and divides after it, for the metric "
                "alone; gradients are larger by all that should have divided them",
            ),
        ),
    ),
    Exhibit(
        name="loss-times-cp",
        title="The loss multiplied by the context ranks",
        wrong="The loss is multiplied by cp to make up for a mean over the ranks. The mean is a "
        "sum by now, or goes over other ranks; the factor has stayed.",
        silent="The printed loss is taken before the factor, and AdamW cancels it.",
        shows="Every gradient is cp times too large, exactly.",
        cure="No factor: divide by the tokens of all ranks, and sum.",
        fields={"cp": 2},
        asleep={"cp": 1, "dp": 2},
        notices=AND_NORM,
        sources=(
            github(
                "NVIDIA/Megatron-LM",
                906,
                "the loss is scaled by the context ranks while gradients are averaged over a group "
                "without them",
            ),
        ),
    ),
    Exhibit(
        name="experts-times-ep",
        title="Expert gradients ep times too large",
        wrong="Gradients are averaged over ranks that hold the same parameter. An expert's are "
        "fewer, while its tokens came from all ranks: the mean divides by too little.",
        silent="Only the experts are touched, and AdamW cancels a factor on a tensor as a whole.",
        shows="Every expert's gradient is ep times too large, exactly; nothing else is wrong.",
        cure="Divide every gradient by the same count of tokens, whoever holds the parameter.",
        fields={"dp": 2, "ep": 2, "experts": 4},
        asleep={"ep": 1},
        notices=PROBE_ALONE,
        suspects=(".experts.",),
        sources=(
            github(
                "NVIDIA/Megatron-LM",
                5956,
                "an expert's gradient sums over ep ranks before any collective; the mean does not "
                "divide by them",
                kind="pull",
            ),
            github(
                "deepspeedai/DeepSpeed",
                5259,
                "one configuration has exactly twice the expert gradients of another",
                kind="pull",
            ),
            github(
                "databricks/megablocks", 86, "why expert gradients need another factor, explained"
            ),
        ),
    ),
    Exhibit(
        name="norm-counted-twice",
        title="A shared table counted twice in the gradient norm",
        wrong="The norm adds up what every stage holds. A tied table is held by the first and the "
        "last, and it is the largest tensor of the model.",
        silent="Nothing is wrong but a number in the log, until gradients are clipped: then every "
        "step is too short, which AdamW hides again.",
        shows="With clipping every gradient is too small by one factor; without, only the norm is "
        "too large.",
        cure="Count a parameter on one of the ranks that hold it.",
        fields={"pp": 2, "tied": True, "microbatches": 2, "clip": 0.5},
        asleep={"tied": False},
        notices=AND_NORM,
        sources=(
            github(
                "NVIDIA/Megatron-LM",
                7227,
                "the second copy of a shared weight is counted in the norm: in a test of equal "
                "weights by the square root of two",
                kind="pull",
            ),
            github("pytorch/torchtitan", 2318, "a gradient norm wrong by the data-parallel size"),
        ),
    ),
)
