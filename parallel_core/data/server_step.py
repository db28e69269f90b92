"""The parameter server's step as a program; the last rank of the mesh is the server.

Synchronous, one step (W = 2, a layer left out):

    worker 0, 1   recv weights, F embed, F head, B head, B embed, send loss, send grads
    server        send weights -> 0, send weights -> 1, recv loss <- 0, recv grads <- 0,
                  recv loss <- 1, recv grads <- 1, add worker1, norm, O weights

Asynchronous, a whole run, since no moment in it belongs to all ranks. `mb` is the number of the
update a gradient becomes, `w[u,n]` the weights after n updates:

    worker 2      recv ticket mb3, recv weights mb3, F ... B ... mb3, send loss mb3, send grads mb3
    server        recv loss mb3 <- 2, recv grads mb3 <- 2, O worker2 mb3, send ticket mb7 -> 2,
                  send weights mb7 -> 2

A ticket says that there is more to do, or at the end that there is not. Losses and tickets are a
few bytes each and booked as control traffic.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from parallel_core import values as v
from parallel_core.cost import Cost
from parallel_core.data import step
from parallel_core.data.parameter_server import Desk, Update, in_order, order_of
from parallel_core.plan import Plan, Server
from parallel_core.program import Instr, Lane, Op, Program, Value
from parallel_core.trace import Kind

PREDICTED_ROUNDS = 8
"""Updates a worker, on average, of an asynchronous run that is only predicted."""


@dataclass(frozen=True)
class Roles:
    """What the instructions below need of a plan: its step's shape, and the server's rank."""

    shape: step.Shape
    server: int

    @classmethod
    def of(cls, plan: Plan) -> Roles:
        """The roles of a plan's ranks: workers 0 to dp - 1, then the server."""
        return cls(step.Shape.of(plan), plan.dp)

    def each(self, name: str, k: int) -> tuple[Value, ...]:
        """`name[u,k]` of every unit u."""
        return tuple(Value(name, (u, k)) for u in range(len(self.shape.units)))


def program(plan: Plan, order: Sequence[int] | None = None) -> Program:
    """The synchronous step, or the asynchronous run whose update i is worker order[i]'s.

    Without an order it is the one that the workers' speeds predict. Raises ProgramError for an
    order that the staleness bound does not allow.
    """
    if plan.parameter_server == Server.SYNC:
        return synchronous(plan)
    return asynchronous(plan, predicted_order(plan) if order is None else order)


def predicted_order(plan: Plan, updates: int | None = None) -> list[int]:
    """Whose update comes when, if gradients take what `speeds` says and the server no time."""
    count = PREDICTED_ROUNDS * plan.dp if updates is None else updates
    found = order_of(plan.worker_speeds, count, bound=plan.staleness_bound)
    return [update.worker for update in found]


def synchronous(plan: Plan) -> Program:
    """w[u,0] -> new[u]: the gradients of all workers summed in rank order, then one update."""
    roles, workers = Roles.of(plan), range(plan.dp)
    worker = [receive(roles, "weights", None, roles.each("w", 0)), *gradient(roles, 0, 0)]
    worker += push(roles, None, 0)
    serve = [send(rank, "weights", None, roles.each("w", 0)) for rank in workers]
    for rank in workers:
        serve += taken(rank, None, v.loss(rank), roles.each("came" if rank else "gsum", rank))
        serve += [_add(roles, rank)] if rank else []
    losses = tuple(v.loss(rank) for rank in workers)
    whole, new = (
        roles.each("gsum", plan.dp - 1),
        tuple(map(v.updated, range(len(roles.shape.units)))),
    )
    old = (*roles.each("w", 0), *whole)
    serve += [
        Instr(op=Op.NORM, where="tally", reads=(*losses, *whole), writes=(v.TOTAL,), frees=losses),
        Instr(op=Op.O, where="weights", reads=old, writes=new, frees=old),
    ]
    ids = ((v.ids(0),),) * plan.dp
    ranks = (*((tuple(worker),) * plan.dp), tuple(serve))
    holds, keeps = (*ids, roles.each("w", 0)), (*ids, (*new, v.TOTAL))
    return Program(plan.mesh, ranks, holds, keeps, plan.layout)


def asynchronous(plan: Plan, order: Sequence[int], *, total: int | None = None) -> Program:
    """w[u,0] -> w[u,n]: n gradients, each an update of its own, in this order of workers.

    With a `total` beyond its length, `order` is the beginning of a run that still goes on: then
    the server's last messages have nobody yet who receives them.
    """
    roles, bound = Roles.of(plan), plan.staleness_bound
    count = len(order) if total is None else total
    updates = in_order(order, plan.dp, total=count, bound=bound)
    serve, home = _served(roles, updates, Desk(plan.dp, count, bound))
    ranks, holds, keeps = [], [], []
    for worker in range(plan.dp):
        mine = [update for update in updates if update.worker == worker]
        instrs = [
            instr for update in mine for instr in minibatch(roles, update.number, update.version)
        ]
        ids = tuple(v.ids(update.number) for update in mine)
        left = (ticket(home[worker]),) if worker in home else ()
        ranks.append((*instrs, *(receive(roles, "ticket", None, (t,)) for t in left)))
        holds.append(ids)
        keeps.append((*ids, *left))
    last, losses = len(updates), tuple(v.loss(update.number) for update in updates)
    return Program(
        plan.mesh,
        (*ranks, tuple(serve)),
        (*holds, (*roles.each("w", 0), ticket(0))),
        (*keeps, (*roles.each("w", last), ticket(last), *losses)),
        plan.layout,
    )


def _served(
    roles: Roles, updates: Sequence[Update], desk: Desk
) -> tuple[list[Instr], dict[int, int]]:
    """What the server does, and the version at which it sends each worker home."""
    numbers: dict[int, list[int]] = defaultdict(list)
    for update in reversed(updates):
        numbers[update.worker].append(update.number)
    home: dict[int, int] = {}

    def answer() -> Iterator[Instr]:
        for worker in desk.hand_out():
            # of a run that still goes on nobody knows which update this will become
            mb = numbers[worker].pop() if numbers[worker] else None
            yield from hand_out(roles, worker, mb, desk.applied)
        for worker in desk.send_home():
            home[worker] = desk.applied
            yield send_home(worker, desk.applied)

    instrs = [*answer()]
    for update in updates:
        desk.apply(update.worker)
        instrs += [*take(roles, update.worker, update.number), apply(roles, update), *answer()]
    return instrs, home


def minibatch(roles: Roles, mb: int, n: int) -> list[Instr]:
    """All that an asynchronous worker does for one gradient, on weights of version n."""
    weights = receive(roles, "weights", mb, roles.each("w", n))
    weights = replace(weights, reads=(ticket(n),), frees=(ticket(n),))
    return [
        receive(roles, "ticket", mb, (ticket(n),)),
        weights,
        *gradient(roles, mb, n),
        *push(roles, mb, mb),
    ]


def gradient(roles: Roles, mb: int, n: int) -> list[Instr]:
    """Forward and backward of minibatch mb on weights of version n, which go as they are used."""
    names = {v.weight(u): v.version(u, n) for u in range(len(roles.shape.units))}

    def named(value: Value) -> Value:
        if value in names:
            return names[value]
        at = (value.at[0], mb) if value.name == "grad" else (mb, *value.at[1:])
        return Value(value.name, at)

    instrs = []
    for instr in step.forward(roles.shape, 0) + step.backward(roles.shape, 0):
        reads, writes, frees = (
            tuple(map(named, x)) for x in (instr.reads, instr.writes, instr.frees)
        )
        if instr.op == Op.B:
            frees += (v.version(roles.shape.units.index(instr.where), n),)
        instrs.append(replace(instr, mb=mb, reads=reads, writes=writes, frees=frees))
    return instrs


def push(roles: Roles, mb: int | None, k: int) -> list[Instr]:
    """A worker's loss[k] and grad[u,k] to the server."""
    grads = roles.each("grad", k)
    return [
        replace(send(roles.server, "loss", mb, (v.loss(k),)), frees=(v.loss(k),)),
        replace(send(roles.server, "grads", mb, grads), frees=grads),
    ]


def hand_out(roles: Roles, worker: int, mb: int | None, n: int) -> list[Instr]:
    """The server's answer to a push: weights of version n, for the gradient of update mb."""
    go, weights = (ticket(n),), roles.each("w", n)
    return [send(worker, "ticket", mb, go), send(worker, "weights", mb, weights)]


def send_home(worker: int, n: int) -> Instr:
    """The server's answer when no more gradients are asked for."""
    return send(worker, "ticket", None, (ticket(n),))


def take(roles: Roles, worker: int, number: int) -> list[Instr]:
    """The server takes the push that becomes this update."""
    return taken(worker, number, v.loss(number), roles.each("came", number))


def apply(roles: Roles, update: Update) -> Instr:
    """w[u,n] -> w[u,n+1] by the gradient of one worker."""
    n = update.number
    old = (*roles.each("w", n), ticket(n), *roles.each("came", n))
    new = (*roles.each("w", n + 1), ticket(n + 1))
    where = f"worker{update.worker}"
    return Instr(op=Op.O, where=where, mb=n, reads=old, writes=new, frees=old)


def ticket(n: int) -> Value:
    """The word that weights of version n may be had, or that there is no more to do."""
    return Value("ticket", (n,))


def taken(worker: int, mb: int | None, loss: Value, grads: tuple[Value, ...]) -> list[Instr]:
    """The two messages of a push, as the server receives them."""
    parts = (("loss", (loss,)), ("grads", grads))
    return [
        Instr(op=Op.RECV, where=where, mb=mb, lane=Lane.COMM, peer=worker, writes=values)
        for where, values in parts
    ]


def send(peer: int, where: str, mb: int | None, values: tuple[Value, ...]) -> Instr:
    """Values to a rank."""
    return Instr(op=Op.SEND, where=where, mb=mb, lane=Lane.COMM, peer=peer, reads=values)


def receive(roles: Roles, where: str, mb: int | None, values: tuple[Value, ...]) -> Instr:
    """Values from the server."""
    return Instr(op=Op.RECV, where=where, mb=mb, lane=Lane.COMM, peer=roles.server, writes=values)


def _add(roles: Roles, worker: int) -> Instr:
    """The gradient of one more worker added to those before it."""
    both = (*roles.each("gsum", worker - 1), *roles.each("came", worker))
    total = roles.each("gsum", worker)
    return Instr(op=Op.ADD, where=f"worker{worker}", reads=both, writes=total, frees=both)


def paced(plan: Plan) -> bool:
    """Whether a run of the plan sleeps in its gradients; its badge must say so."""
    return bool(plan.pace_ms) or any(speed > 1 for speed in plan.worker_speeds)


@dataclass(frozen=True)
class SpeedCost:
    """Another clock, with the compute of each worker as many times longer as its speed says."""

    clock: Cost
    speeds: tuple[float, ...]

    @property
    def kind(self) -> Kind:
        """As the clock's."""
        return self.clock.kind

    @property
    def text(self) -> str:
        """The clock's words, and the speeds where they differ."""
        if set(self.speeds) == {1.0}:
            return self.clock.text
        return f"{self.clock.text}, compute x {', '.join(f'{s:g}' for s in self.speeds)} by rank"

    @property
    def latency(self) -> float:
        """As the clock's."""
        return self.clock.latency

    def seconds(self, rank: int, instr: Instr) -> float:
        """The clock's seconds, times the speed of a worker that computes."""
        slow = self.speeds[rank] if instr.op in (Op.F, Op.B) else 1.0
        return slow * self.clock.seconds(rank, instr)

    def bytes(self, value: Value) -> int:
        """As the clock's."""
        return self.clock.bytes(value)

    def payload(self, instr: Instr) -> int:
        """As the clock's."""
        return self.clock.payload(instr)
