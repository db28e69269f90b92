"""A hand-made data-parallel step, so that figures can be tested without a simulator or a run.

Every rank runs F and B of each layer; each B hands its gradients to an all-reduce on the comm
lane; the optimizer waits for all of them. `slow` makes ranks slower, so that others wait.
"""

from __future__ import annotations

from dataclasses import replace

from parallel_core.trace import Kind, Provenance, Span, Trace

MS = 1_000_000
MB = 1 << 20


def dp_step(
    *,
    kind: Kind = Kind.MODELLED,
    ranks: int = 4,
    layers: int = 4,
    slow: dict[int, float] | None = None,
    steps: int = 1,
    title: str = "One data-parallel step",
) -> Trace:
    """`steps` steps of bucketed data parallelism; times in ns from the first start."""
    spans: list[Span] = []
    begin = [0] * ranks
    for step in range(steps):
        done = _one_step(spans, step, begin, layers, slow or {})
        begin = done
    provenance = Provenance(kind=kind, title=title, backend="made by hand", seed=0)
    return Trace(_with_memory(spans), provenance, ranks)


def _one_step(
    spans: list[Span], step: int, begin: list[int], layers: int, slow: dict[int, float]
) -> list[int]:
    ranks = len(begin)
    clock, memory, ready = list(begin), [24 * MB] * ranks, [[0] * layers for _ in range(ranks)]
    for rank in range(ranks):
        pace = slow.get(rank, 1.0)
        for index in range(2 * layers):
            forward = index < layers
            layer = index if forward else 2 * layers - 1 - index
            memory[rank] += 3 * MB if forward else -2 * MB
            took = int((0.6 if forward else 1.25) * MS * pace)
            spans.append(
                Span(
                    rank=rank,
                    step=step,
                    index=index,
                    lane="compute",
                    op="F" if forward else "B",
                    where=f"layer{layer}",
                    mb=0,
                    t_post=clock[rank],
                    t_start=clock[rank],
                    t_done=clock[rank] + took,
                    cpu_ns=took,
                    memory=memory[rank],
                    deps=(index - 1,) if index else (),
                    source="demo_trace.py",
                )
            )
            clock[rank] += took
            if not forward:
                ready[rank][layer] = clock[rank]
    free = list(begin)
    for layer in reversed(range(layers)):
        posts = [max(ready[rank][layer], free[rank]) for rank in range(ranks)]
        end = max(posts) + int(1.1 * MS)
        for rank in range(ranks):
            message = _reduce(rank, step, layers, layer, (ready[rank][layer], posts[rank], end))
            spans.append(replace(message, peers=tuple(range(ranks))))
            free[rank] = end
    return [_finish(spans, rank, step, layers, clock[rank], free[rank]) for rank in range(ranks)]


def _with_memory(spans: list[Span]) -> tuple[Span, ...]:
    """A message changes nothing: what is live after it is what the last compute op left."""
    live: dict[int, int] = {}
    out = []
    for span in sorted(spans, key=lambda s: (s.t_done, s.lane == "comm")):
        if span.lane == "compute":
            live[span.rank] = span.memory
        out.append(replace(span, memory=live.get(span.rank, span.memory)))
    return tuple(out)


def _reduce(rank: int, step: int, layers: int, layer: int, times: tuple[int, int, int]) -> Span:
    post, start, done = times
    position = layers - 1 - layer
    return Span(
        rank=rank,
        step=step,
        index=2 * layers + position,
        lane="comm",
        op="all_reduce",
        where=f"bucket{position}",
        t_post=post,
        t_start=start,
        t_done=done,
        bytes=4 * MB,
        axis="dp",
        seq=step * layers + position,
        memory=24 * MB,
        deps=(layers + position,),
    )


def _finish(spans: list[Span], rank: int, step: int, layers: int, idle: int, reduced: int) -> int:
    """The wait for the last bucket, and the optimizer."""
    wait = Span(
        rank=rank,
        step=step,
        index=3 * layers,
        lane="compute",
        op="wait",
        where="gradients",
        t_post=idle,
        t_start=idle,
        t_done=max(idle, reduced),
        memory=28 * MB,
        deps=tuple(range(2 * layers, 3 * layers)),
    )
    end = wait.t_done + int(0.5 * MS)
    update = replace(
        wait,
        index=3 * layers + 1,
        op="O",
        where="",
        t_post=wait.t_done,
        t_start=wait.t_done,
        t_done=end,
        deps=(3 * layers,),
    )
    spans += [wait, update]
    return end
