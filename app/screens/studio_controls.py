"""What the reader chooses on the studio page, and the sentence for what cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import streamlit as st

from parallel_core.cli.sizes_option import bytes_of
from parallel_core.collectives import ALGORITHMS, CollectiveError
from parallel_core.collectives.request import CollectiveRequest
from parallel_core.fields import PlanError, parse
from parallel_core.hardware.links import WIRES, Wire
from parallel_core.hardware.topologies import topology
from parallel_core.hardware.topology import Topology
from parallel_core.quantities import bytes_text
from parallel_core.views.scene import MOST_RANKS
from screens import chrome, studio_runs

BOUND = "query-params"
NOBODY = "nobody"
HERE = "this machine"
NETWORKS = {
    "a link for every pair": "",
    "ring": "ring:{n}",
    "torus": "torus:{torus}",
    "fat tree": "fat-tree:{n}",
    "nodes in a cluster": "two-level:{nodes}x{node}",
}
SIZES = ("1KiB", "16KiB", "64KiB", "256KiB", "1MiB", "4MiB", "16MiB", "64MiB", "1GiB")
MOST_BYTES = 1 << 28  # a rank's buffer on a live run
SPECS = {spec.name: spec for spec in fields(CollectiveRequest)}


@dataclass(frozen=True)
class Choice:
    """What is asked for, against whom it races, and over which links it is modelled."""

    request: CollectiveRequest
    rival: CollectiveRequest | None
    network: Topology | None
    wire: Wire
    overlap: bool

    @property
    def both(self) -> tuple[CollectiveRequest, ...]:
        """One request, or the two of a race."""
        return (self.request,) if self.rival is None else (self.request, self.rival)

    @property
    def here(self) -> bool:
        """Whether the model is of this machine, so that runs may be laid beside it."""
        return self.network is None and self.wire.name == WIRES["loopback"].name


def choose() -> Choice | None:
    """The controls; None after the sentence that says what cannot be, and what can."""
    first = st.columns(4)
    op = _one_of(first[0], "Collective", "op", list(ALGORITHMS), "all_reduce")
    names = list(ALGORITHMS[op])
    algorithm = _one_of(
        first[1], "Algorithm", "algorithm", names, "ring" if "ring" in names else names[0]
    )
    with first[2]:
        ranks = _whole("Ranks", "ranks", low=2, high=MOST_RANKS)
    typed = st.session_state.get("bytes") or st.query_params.get("bytes")
    size = first[3].selectbox(
        "Buffer of a rank",
        SIZES if typed is None or typed in SIZES else (*SIZES, typed),
        index=SIZES.index("1MiB"),
        key="bytes",
        bind=BOUND,
        accept_new_options=True,
        help="or type a number and a unit: 10kB, 1.5MiB, 1000",
    )
    second = st.columns(3)
    others = [NOBODY, *(name for name in names if name != algorithm)]
    against = _one_of(second[0], "Race against", "against", others, NOBODY)
    network = _one_of(second[1], "Network of the model", "network", list(NETWORKS), None)
    link = _one_of(second[2], "Links of the model", "link", [HERE, *WIRES], HERE)
    more = _more(ranks)
    try:
        nbytes = bytes_of(str(size))
        asked = {"op": op, "algorithm": algorithm, "ranks": ranks, "bytes": nbytes, **more}
        request = CollectiveRequest(**asked)
    except PlanError as error:
        if error.field == "bytes":
            error.nearest = str(error.nearest)  # the box holds texts
        chrome.complain(error, mend=error.field in ("bytes", "root"))
        return None
    if not _buildable(request):
        return None
    rival = None if against == NOBODY else replace(request, algorithm=against)
    if rival is not None and not _buildable(rival):
        return None
    wire = studio_runs.this_machine() if link == HERE else WIRES[link]
    overlap = bool(st.session_state.get("overlap"))
    return Choice(request, rival, _network(network, request, wire), wire, overlap)


def live_request(request: CollectiveRequest) -> bool:
    """Whether this machine bears it live; says so in one sentence if not."""
    try:
        request.checked()
    except PlanError as error:
        chrome.complain(error)
        return False
    if request.bytes > MOST_BYTES:
        st.error(f"A live run takes buffers up to {bytes_text(MOST_BYTES)} a rank; choose fewer.")
        return False
    return True


def _more(ranks: int) -> dict[str, Any]:
    with st.expander("Root, nodes, segments, element type"):
        places = st.columns(4)
        with places[0]:
            root = _whole("Root", "root", low=0, high=MOST_RANKS - 1)
        with places[1]:
            node = _whole("Ranks a node", "node", low=1, high=MOST_RANKS)
        with places[2]:
            segments = _whole("Segments", "segments", low=1, high=16)
        kinds = list(SPECS["dtype"].metadata["choices"])
        dtype = _one_of(places[3], "Element type", "dtype", kinds, "float32")
        st.toggle(
            "Latencies of one step overlap (model)",
            key="overlap",
            bind=BOUND,
            help="as with loads from shared memory: the messages of a step pay one alpha together",
        )
    return {"root": root, "node": node, "segments": segments, "dtype": dtype}


def _buildable(request: CollectiveRequest) -> bool:
    """Whether the algorithm takes so many ranks; says in a sentence why not, and what would."""
    try:
        _ = request.program
    except CollectiveError as error:
        st.error(chrome.sentence(str(error)))
        near = _nearest_ranks(request)
        if near is not None:
            take = {"on_click": st.session_state.update, "args": ({"ranks": near},)}
            st.button(f"Use {near} ranks", key=f"mend.{request.algorithm}", **take)
        return False
    return True


@lru_cache(maxsize=64)
def _nearest_ranks(request: CollectiveRequest) -> int | None:
    """The number of ranks closest to the one asked for that the algorithm takes."""
    for ranks in sorted(range(2, MOST_RANKS + 1), key=lambda n: (abs(n - request.ranks), n)):
        try:
            _ = replace(request, ranks=ranks, root=0).program
        except CollectiveError:
            continue
        return ranks
    return None


def _network(name: str, request: CollectiveRequest, wire: Wire) -> Topology | None:
    """The topology of that name, as large as it must be."""
    if not NETWORKS[name]:
        return None
    n = request.ranks
    node = request.node if n % request.node == 0 else 1
    rows = max(k for k in range(1, n + 1) if n % k == 0 and k * k <= n)
    torus = f"{n // rows}x{rows}" if rows > 1 else f"{n}"
    text = NETWORKS[name].format(n=n, torus=torus, nodes=n // node, node=node)
    return topology(text, wire=wire)


def _one_of(place: Any, label: str, key: str, options: Sequence[str], default: str | None) -> str:
    """A select box; a word in the URL, or left from another op, that is no option is dropped."""
    if key in st.session_state and st.session_state[key] not in options:
        del st.session_state[key]
    typed = st.query_params.get(key)
    if key not in st.session_state and typed is not None and typed not in options:
        st.error(
            chrome.plain(f"In the address: {key}={typed} is no choice here; the default is used.")
        )
        del st.query_params[key]
    at = list(options).index(default) if default else 0
    return str(place.selectbox(label, options, index=at, key=key, bind=BOUND))


def _whole(label: str, key: str, *, low: int, high: int) -> int:
    """A whole-number field of the request, within the page's limits."""
    spec = SPECS[key]
    if key not in st.session_state and key in st.query_params:
        try:
            number = parse(spec, st.query_params[key])
            if not low <= number <= high:
                raise PlanError(key, number, f"must be from {low} to {high} on this page", high)
        except PlanError as error:
            st.error(chrome.plain(f"In the address: {error}. The default is used instead."))
            del st.query_params[key]
    usual = min(max(int(spec.default), low), high)
    said = st.number_input(
        label, low, high, usual, 1, key=key, bind=BOUND, help=spec.metadata["help"]
    )
    return int(said)
