"""Two levels: sum inside each node, then across nodes, then gather inside.

    node 0   r0 r1      inside: ring reduce-scatter over the g ranks of a node
    node 1   r2 r3      across: ring all-reduce of each shard over the k nodes (r0 r2, r1 r3)
                        inside: ring all-gather

Only a g-th of the buffer leaves a rank's node: 2(k-1)/k S/g. Mikami et al. 2018, arXiv:1811.05233.
"""

from __future__ import annotations

from parallel_core.collectives import names as v
from parallel_core.collectives.group import Group
from parallel_core.collectives.ring import pass_round, sum_round
from parallel_core.collectives.script import Script
from parallel_core.program import Program


def all_reduce(group: Group) -> Program:
    """x[C]+r -> x[C].  Inside, across, inside; the slow link between nodes carries shards.

    Time 2(g-1)(α + S/(gβ)) + 2(k-1)(α + S/(nβ)), k nodes of g ranks.

        n=4 node=2   step 0       step 1     step 2     step 3
        r0           c2-3 -> r1   c1 -> r2   c0 -> r2   c0-1 -> r1
        r1           c0-1 -> r0   c3 -> r3   c2 -> r3   c2-3 -> r0
        r2           c2-3 -> r3   c0 -> r0   c1 -> r0   c0-1 -> r3
        r3           c0-1 -> r2   c2 -> r1   c3 -> r1   c2-3 -> r2
    """
    group.needs_whole_nodes("the two-level all-reduce")
    g, k = group.node, group.nodes
    script = Script("all_reduce", "hierarchical", group, group.n)
    inside = [range(node * g, (node + 1) * g) for node in range(k)]
    across = [range(local, group.n, g) for local in range(g)]
    shards = [range(local * k, (local + 1) * k) for local in range(g)]
    for ring in inside:
        sum_round(script, ring, shards, 0)
    for ring, shard in zip(across, shards, strict=True):
        pieces = [(c,) for c in shard]
        sum_round(script, ring, pieces, g - 1)
        pass_round(script, ring, pieces, g - 1 + k - 1, v.total)
    for ring in inside:
        pass_round(script, ring, shards, g - 1 + 2 * (k - 1), v.total)
    return script.program()
