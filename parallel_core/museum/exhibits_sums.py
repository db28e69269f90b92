"""Exhibits: sums over ranks that are left out, or made at the wrong time (unsummed.py)."""

from __future__ import annotations

from parallel_core.museum.exhibit import AND_NORM, PROBE_ALONE, Exhibit, github

SUMS: tuple[Exhibit, ...] = (
    Exhibit(
        name="context-unsummed",
        title="No gradient sum, since dp is 1",
        wrong="Gradients are summed over the data-parallel group. With dp=1 that group is one "
        "rank, and nothing is sent; but a context rank has seen only its part of each sequence.",
        silent="The loss is summed over all ranks, so the first one is right to the last digit. "
        "Each rank then goes its own way on half of the gradient, which is a fair gradient too.",
        shows="Every tensor is wrong, its gradient about a half; and the replicas' weights differ "
        "after the first step.",
        cure="Sum over dp and cp together: one group, named once, for every gradient.",
        fields={"cp": 2},
        asleep={"dp": 2},
        notices=AND_NORM,
        sources=(
            github(
                "ByteDance-Seed/VeOmni",
                1059,
                "with sequence-parallel ranks the data-parallel group shrinks to one, its "
                "all-reduce does nothing, and the optimizer steps on a part of the gradient",
            ),
        ),
    ),
    Exhibit(
        name="norms-unsummed",
        title="Norm gradients not summed under sequence parallelism",
        wrong="A norm's weights are whole on every tensor-parallel rank, so no sum is made for "
        "them. Under sequence parallelism each rank's norm has seen only its own tokens.",
        silent="Norms are few of the weights: neither the loss nor the norm of the whole gradient "
        "moves in a digit that anybody reads.",
        shows="Only the norms are wrong. Their copies on the tensor ranks drift apart, so that no "
        "checkpoint is the model that was trained.",
        cure="One sum over tp of the gradients of all that is whole there, before the update.",
        fields={"tp": 2, "sp": True},
        asleep={"sp": False},
        notices=PROBE_ALONE,
        suspects=("norm",),
        sources=(
            github(
                "NVIDIA/Megatron-LM",
                1446,
                "the final norm's gradient is another one on every tensor-parallel rank",
            ),
            github(
                "NVIDIA/Megatron-LM",
                474,
                "a trained model whose norm weights differ between ranks: which one to keep?",
            ),
            github(
                "EleutherAI/gpt-neox",
                1257,
                "norm gradients left unsummed, then a hook that never fired: convergence is poor",
                kind="pull",
            ),
        ),
    ),
    Exhibit(
        name="router-unsummed",
        title="The router's gradient stays on its rank",
        wrong="With expert parallelism the router is treated like the experts, which are different "
        "on every rank: its gradient is not summed, though every rank has the same router.",
        silent="The loss is right. A router is a small matrix, and half of its gradient still "
        "points the right way.",
        shows="Only the routers are wrong, each by about a half; the ranks' routers drift apart.",
        cure="Sum a gradient over all ranks that hold the same parameter; experts differ.",
        fields={"dp": 2, "ep": 2, "experts": 4},
        asleep={"ep": 1},
        notices=PROBE_ALONE,
        suspects=("router",),
        sources=(
            github(
                "huggingface/transformers",
                48687,
                "with experts on several ranks the loss is right and only the router's gradient "
                "is not, so nothing in a training looks off; it reproduces on gloo",
            ),
        ),
    ),
    Exhibit(
        name="bucket-early",
        title="A bucket leaves in the first microbatch",
        wrong="A bucket is summed as soon as all its gradients have come. With gradient "
        "accumulation that is after the first microbatch; what later ones add is never sent.",
        silent="The loss is right. Every rank has the sum of one microbatch and all of its own: "
        "a gradient of fewer tokens, noisier and smaller.",
        shows="Every tensor is wrong, and replicas differ after the first step.",
        cure="Send in the last microbatch only, and count which one that is at its stage.",
        fields={"dp": 2, "microbatches": 4},
        asleep={"microbatches": 1},
        notices=AND_NORM,
        sources=(
            github(
                "modelscope/FunASR",
                3472,
                "the condition synchronized the first microbatch, not the one before the update: "
                "the ranks kept gradients of their own",
                kind="pull",
            ),
            github(
                "huggingface/picotron",
                5,
                "where the sum of a pipeline's gradients belongs, told by way of two wrong tries",
                kind="pull",
            ),
        ),
    ),
    Exhibit(
        name="tied-too-late",
        title="Two copies of a table added after it was cut",
        wrong="A tied embedding lies on the first and on the last stage, and the two gradients "
        "must be added. It is done after the reduce-scatter over dp: each side adds what the other "
        "has left there, which is a whole sum on one rank and a part on the other.",
        silent="One tensor of all, and three quarters of its gradient are right.",
        shows="Only the table is wrong. The two copies get different gradients, so they are "
        "tied no more.",
        cure="Add the copies before the sum is scattered, or add shard to the same shard.",
        fields={"dp": 2, "pp": 2, "tied": True, "microbatches": 2},
        asleep={"dp": 1},
        notices=AND_NORM,
        suspects=("embed.tokens",),
        sources=(
            github(
                "NVIDIA/Megatron-LM",
                844,
                "with a distributed optimizer and a shared embedding, partial sums are added up",
            ),
        ),
    ),
)
