"""How messages share links: each link serves whoever comes first, one message at a time.

A message is *cut through*: its head takes `latency` to the end of a link and goes on at once,
its bytes follow at the pace of the link. A link is taken from the moment the head enters until
the last byte has; a head that comes earlier stands in the queue.

    link a>b   |== message 1 ==|
    link b>c     |== message 1 ==|== message 2 ==|     message 2 came while 1 was passing
                 latency of a>b

Alone on its way a message takes the latencies of its links plus bytes / slowest bandwidth. Of
heads that come at one moment the one on its earlier link goes first, then the earlier
instruction, then the lower rank: so ranks that do the same are served alike.

A sender's next message may set out once this one's head has entered its last link and its bytes
are out: a queue anywhere on the way holds up the port, and latencies of large messages overlap.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import NamedTuple

from parallel_core.fields import PlanError
from parallel_core.hardware.topology import Link, Pace, Topology


class Route(NamedTuple):
    """The way of a message: names of its links, their paces, seconds for its head in all."""

    links: tuple[Hashable, ...]
    paces: tuple[Pace, ...]
    latency: float
    slowest: float  # bytes/s


@dataclass(frozen=True)
class Network:
    """Ranks on a topology: rank r sits on host `hosts[r]`, or on host r where none are given."""

    topology: Topology
    hosts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.hosts)) != len(self.hosts):
            raise ValueError("hosts names one host twice: give every rank a host of its own")
        if self.hosts and not 0 <= min(self.hosts) <= max(self.hosts) < self.topology.ranks:
            raise ValueError(f"hosts must be in 0..{self.topology.ranks - 1} of {self.topology}")

    def must_hold(self, ranks: int) -> None:
        """PlanError unless there is a host for each of so many ranks."""
        room = len(self.hosts) or self.topology.ranks
        if ranks > room:
            rule = f"is too many for the {room} hosts of {self.topology.text}"
            raise PlanError("ranks", ranks, rule, room)

    def links(self, source: int, target: int) -> tuple[Link, ...]:
        """The links between two ranks, named by hosts."""
        if self.hosts:
            source, target = self.hosts[source], self.hosts[target]
        return self.topology.route(source, target)

    def route(self, source: int, target: int) -> Route:
        """The same with the pace of every link."""
        links = self.links(source, target)
        return route_of(links, [self.topology.pace(link) for link in links])

    def say(self, link: Hashable) -> str:
        """A link in words: `2 > 3`, `leaf 0 > spine 1`."""
        if not isinstance(link, tuple):
            return str(link)
        return " > ".join(self.topology.name(vertex) for vertex in link)

    def __str__(self) -> str:
        wires = " and ".join(map(str, self.topology.wires))
        return f"{self.topology.text} of {wires}" + (", ranks placed" if self.hosts else "")


def route_of(links: Iterable[Hashable], paces: Iterable[Pace]) -> Route:
    """A route over links of those paces."""
    each = tuple(paces)
    slowest = min((pace.bandwidth for pace in each), default=float("inf"))
    return Route(tuple(links), each, sum(pace.latency for pace in each), slowest)


@dataclass(slots=True)
class Message:
    """One send on its way: its number, its place in the program, bytes, when it set out."""

    number: int
    rank: int
    at: int
    target: int
    size: int
    entered: float
    tail: float = 0.0  # when its last byte is at the end of the link
    waited: float = 0.5e-9  # longest stand in one queue; shorter ones are rounding
    busy: Hashable = None  # the link of that queue


class Landing(NamedTuple):
    """A message that arrived: when it began to move freely, when the port was free, when it came.

    `wire` is its bytes over the slowest link, `busy` the link it waited for longest, if any.
    """

    number: int
    begun: float
    out: float
    arrival: float
    wire: float
    busy: Hashable


class Hop(NamedTuple):
    """One message (the send at (rank, at)) on one link: nanoseconds at which its head asked for
    the link, its head entered, and its last byte had entered; bytes.
    """

    rank: int
    at: int
    link: Hashable
    asked: int
    began: int
    ended: int
    size: int


class Traffic:
    """The links during one run, and the messages on them."""

    def __init__(self, route: Callable[[int, int], Route]) -> None:
        self.hops: list[Hop] = []
        self._route = route
        self._routes: dict[tuple[int, int], Route] = {}
        self._free: dict[Hashable, float] = defaultdict(float)
        self._asking: list[tuple[float, int, int, int, Message]] = []  # a heap

    def enter(self, message: Message) -> None:
        """A message asks for its first link."""
        heappush(self._asking, (message.entered, 0, message.at, message.rank, message))

    def next(self) -> list[Landing]:
        """Serve the links in order of time until messages arrive; [] if none is on its way.

        All who ask at one moment are served before any of them has arrived, so that what one
        arrival sets off cannot get before its equals.
        """
        landings: list[Landing] = []
        while self._asking and not landings:
            now = self._asking[0][0]
            while self._asking and self._asking[0][0] == now:
                _, hop, _, _, message = heappop(self._asking)
                landing = self._pass(message, hop, now)
                if landing is not None:
                    landings.append(landing)
        return landings

    def _pass(self, message: Message, hop: int, asked: float) -> Landing | None:
        route = self._routes.get((message.rank, message.target))
        if route is None:
            route = self._route(message.rank, message.target)
            self._routes[message.rank, message.target] = route
        link, pace = route.links[hop], route.paces[hop]
        began = max(asked, self._free[link])
        ended = began + message.size / pace.bandwidth
        self._free[link] = ended
        if began - asked > message.waited:
            message.waited, message.busy = began - asked, link
        message.tail = max(message.tail, ended) + pace.latency
        times = (round(asked * 1e9), round(began * 1e9), round(ended * 1e9))
        self.hops.append(Hop(message.rank, message.at, link, *times, message.size))
        if hop + 1 < len(route.links):
            place = (hop + 1, message.at, message.rank)
            heappush(self._asking, (began + pace.latency, *place, message))
            return None
        return _landing(message, route, began)


def _landing(message: Message, route: Route, last: float) -> Landing:
    """How a message arrived whose head entered its last link at `last`."""
    wire = message.size / route.slowest
    begun = message.tail - route.latency - wire if message.busy is not None else message.entered
    # The head must have got through before the next message may follow; large messages are still
    # leaving then.
    out = max(last, begun + wire)
    return Landing(message.number, begun, out, message.tail, wire, message.busy)


@dataclass
class Use:
    """What one link carried: bytes, messages, nanoseconds it was taken and was queued for."""

    bytes: int = 0
    messages: int = 0
    busy_ns: int = 0
    waited_ns: int = 0


def link_use(hops: Iterable[Hop]) -> dict[Hashable, Use]:
    """What every link carried, links in order of their first message."""
    uses: dict[Hashable, Use] = {}
    for hop in hops:
        use = uses.setdefault(hop.link, Use())
        use.bytes += hop.size
        use.messages += 1
        use.busy_ns += hop.ended - hop.began
        use.waited_ns += hop.began - hop.asked
    return uses
