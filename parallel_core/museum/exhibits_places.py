"""Exhibits: positions, microbatches and weights out of place (placed.py)."""

from __future__ import annotations

from parallel_core.museum.exhibit import AND_NORM, PROBE_ALONE, Exhibit, github

PLACES: tuple[Exhibit, ...] = (
    Exhibit(
        name="positions-contiguous",
        title="Zigzag chunks with contiguous positions",
        wrong="Under the zigzag layout a rank has an early chunk and a late one. Its positions are "
        "counted on as if they were neighbours, so rotary angles are those of other tokens.",
        silent="The mask is right, and at the start attention hardly looks at positions. What is "
        "learned is a model with another idea of distance.",
        shows="Queries and keys are wrong first. The loss of the first step differs already, far "
        "behind the point: the mistake is in the forward.",
        cure="Positions travel with the tokens; nothing may count them anew.",
        fields={"cp": 2},
        asleep={"cp_method": "ring"},
        notices=PROBE_ALONE,
        sources=(
            github(
                "NVIDIA-NeMo/Automodel",
                2377,
                "the rotary embedding looked at how many positions there are, not which",
                kind="pull",
            ),
            github("NVIDIA/Megatron-LM", 453, "rotary angles count from 0, whatever positions say"),
        ),
    ),
    Exhibit(
        name="last-microbatch-only",
        title="Only the last microbatch's gradient is kept",
        wrong="Every microbatch's backward finds its gradients emptied. The update sees the last "
        "one's alone, already divided by the tokens of all.",
        silent="The loss is that of all microbatches. Training on a quarter of the batch goes "
        "nearly as well as on all of it.",
        shows="Every tensor is wrong: a smaller gradient, that also points somewhere else.",
        cure="Empty gradients once a step, before the first microbatch.",
        fields={"dp": 2, "microbatches": 4},
        asleep={"microbatches": 1},
        notices=AND_NORM,
        sources=(
            github("NVIDIA-NeMo/Automodel", 3530, "only the gradient norm gave it away"),
            github(
                "NVIDIA/Megatron-LM",
                7186,
                "a flag that is true for every backward: each microbatch clears the one before",
                kind="pull",
            ),
        ),
    ),
    Exhibit(
        name="stages-seeded-alike",
        title="Every pipeline stage seeded alike",
        wrong="Every rank seeds its generator with the same number and draws its own layers: the "
        "first layer of each stage is one and the same.",
        silent="It is a model like any other, and its first loss is that of any other. Only, it is "
        "not the model that another layout starts from.",
        shows="Every gradient is of another model: off by more than its size, in no direction. "
        "The loss of the first step differs a little already.",
        cure="Draw each parameter by its own name and index, whoever holds it.",
        fields={"pp": 2, "layers": 4, "microbatches": 2},
        asleep={"pp": 1},
        notices=PROBE_ALONE,
        sources=(
            github(
                "pytorch/torchtitan",
                514,
                "without a seed checkpoint every stage starts from the same state of the generator",
            ),
            github(
                "pytorch/pytorch", 139304, "stages could have similar or even identical weights"
            ),
        ),
    ),
)
