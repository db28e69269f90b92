"""Send and receive: every rank sends its buffer one place on, as nccl-tests' sendrecv does.

A point-to-point message is the only thing there is; every collective is made of these.
"""

from __future__ import annotations

from parallel_core.collectives.group import Group
from parallel_core.collectives.script import Script
from parallel_core.program import Program


def send_recv(group: Group) -> Program:
    """x[C] of rank r -> rank r + 1.  All at once, so a send that waits needs a receive beside it.

    Time α + S/β.

        n=3   step 0
        r0    c0 -> r1
        r1    c0 -> r2
        r2    c0 -> r0
    """
    script = Script("send_recv", "shift", group, 1)
    for rank in group.ranks:
        script.hand(0, rank, (rank + 1) % group.n, (0,))
    return script.program()
