"""What a machine's ranks may talk over: interfaces, InfiniBand, GPUs that reach each other."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import psutil

INFINIBAND = Path("/sys/class/infiniband")


def links(gpus: int, peers: list[list[int]], infiniband: Path = INFINIBAND) -> dict[str, Any]:
    """What ranks may talk over.

    `network` has the interfaces that are up, each with its speed (Mbit/s; None where the system
    does not know) and whether it is the loopback; `infiniband` the names of such devices. `peers`
    are the pairs of GPUs that reach each other's memory without the host, of so many GPUs.
    """
    addresses = psutil.net_if_addrs()
    network = [
        {
            "name": name,
            "mbit_s": state.speed or None,
            "loopback": any(
                a.family == socket.AF_INET and a.address.startswith("127.")
                for a in addresses.get(name, ())
            ),
        }
        for name, state in sorted(psutil.net_if_stats().items())
        if state.isup
    ]
    devices = sorted(path.name for path in infiniband.iterdir()) if infiniband.is_dir() else []
    pairs = gpus * (gpus - 1) // 2
    return {"network": network, "infiniband": devices, "gpu_pairs": pairs, "gpu_peers": peers}


def link_words(found: dict[str, Any]) -> str:
    """The links in one line."""
    words = []
    for one in found["network"]:
        speed = f"{one['mbit_s'] / 1000:g} Gbit/s" if one["mbit_s"] else "speed unknown"
        words.append(f"{one['name']} ({'loopback' if one['loopback'] else speed})")
    words += [f"{name} (InfiniBand or RoCE)" for name in found["infiniband"]]
    if found["gpu_pairs"]:
        direct = len(found["gpu_peers"])
        words.append(f"{direct} of {found['gpu_pairs']} pairs of GPUs reach each other directly")
    return ", ".join(words) or "none is up"
