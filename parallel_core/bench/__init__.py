"""What the lab itself costs and how fast it is, measured beside a peer or beside itself.

    ours.py          our side: a step of the live run
    comparable.py    what a plan must be to have a fair peer, as tables
    measurement.py   a median with its interval, and the report every bench returns
    interleave.py    two contenders take turns in one run, so that drift hits both alike
    peaks.py         peak bytes of contenders that live in one process
    dp.py            our bucketed data parallelism beside DistributedDataParallel
    zero.py          our ZeRO stages beside torch's, in speed and in peak bytes
    tensor.py        our tensor parallelism beside DTensor's, in speed and in peak bytes
    context.py       our zigzag beside our contiguous ring, torch's rings, one process
    start.py         how long until a run's ranks have met, and until its first step is over
    recorder.py      what watching a run costs
    collectives.py   our all-reduces beside gloo's own
    pipeline.py      our pipelines beside torch.distributed.pipelining's
    bubble.py        replayed bubbles beside those predicted from median task times
    simulate.py      the simulator on large pipelines
    experts.py       a layer of experts by all-to-all, all-gather, grouped, and in a loop
    all.py           every one of them in one report
    player.py        frame time of the player in a real browser

`<name>.py` asks and digests and loads no torch; `<name>_ranks.py` is what runs on the ranks
(*_peer.py too: the peer there is held against ours in tests as well); context_rows.py digests.
"""

from collections.abc import Callable

BENCHES = {
    "dp": "tokens/s of our bucketed data parallelism beside DistributedDataParallel",
    "zero": "tokens/s and peak bytes of ZeRO beside DDP, ZeroRedundancyOptimizer and fully_shard",
    "tp": "tokens/s and peak bytes of tensor parallelism beside DTensor's parallelize_module",
    "cp": "a layer's attention by zigzag beside the contiguous ring, torch's rings, one process",
    "ep": "a layer of experts by all-to-all, all-gather, grouped, and in a loop",
    "start": "latency from a request to the first all-reduce and the first step",
    "recorder": "cost of the recorder, an instruction and a message, and its share of a step",
    "collectives": "our all-reduces beside gloo's own, 1 KiB to 64 MiB",
    "pipeline": "tokens/s of our pipelines beside torch.distributed.pipelining's, by schedule",
    "bubble": "replayed bubble of every schedule beside the one predicted from median times",
    "simulate": "time and memory of the simulator on large pipelines",
    "player": "frame time of the player with 10,000 and 100,000 spans",
}
"""The benches by name, in the order `shardlab bench all` runs them."""

Say = Callable[[str], None]
"""Where a bench tells how far it is, one short line a call."""
