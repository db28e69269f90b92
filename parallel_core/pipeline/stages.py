"""How layers fall into stages: the embedding with the first, the head with the last.

    layers=4 stages=4    stage 0   embed layer0
                         stage 1   layer1
                         stage 2   layer2
                         stage 3   layer3 head

Layers that are left over go to the stages in the middle, which carry neither end; with fewer
layers than stages the ends go without.
"""

from __future__ import annotations

import re

from parallel_core.fields import PlanError, shown


def split(layers: int, stages: int, given: str | None = None) -> tuple[int, ...]:
    """Layers of each stage; `given` is the reader's own cut, as in "2,1,1".

    Raises PlanError where a stage would hold nothing, or the cut does not add up.

    >>> split(6, 4), split(2, 4), split(4, 3, "2,1,1")
    ((1, 2, 2, 1), (0, 1, 1, 0), (2, 1, 1))
    """
    if given is not None:
        return _given(layers, stages, given)
    if layers + 2 < stages:
        rule = f"is too few for {stages} stages: with embedding and head each must hold something"
        raise PlanError("layers", layers, rule, stages - 2)
    each, over = divmod(layers, stages)
    counts = [each] * stages
    inward = sorted(range(stages), key=lambda s: (min(s, stages - 1 - s) == 0, s))
    for s in inward[:over]:
        counts[s] += 1
    return tuple(counts)


def _given(layers: int, stages: int, text: str) -> tuple[int, ...]:
    near = ",".join(map(str, split(layers, stages))) if stages <= 32 else "none"
    if not re.fullmatch(r"\s*[0-9]{1,6}(\s*,\s*[0-9]{1,6})*\s*", text):
        raise PlanError("stage_layers", shown(text), "must be whole numbers between commas", near)
    counts = tuple(int(part) for part in text.split(","))
    if len(counts) != stages or sum(counts) != layers:
        rule = f"must name {stages} stages that hold {layers} layers together"
        raise PlanError("stage_layers", shown(text), rule, near)
    if 0 in counts[1:-1]:
        raise PlanError("stage_layers", shown(text), "leaves a stage in the middle empty", near)
    return counts
