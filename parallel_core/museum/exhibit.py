"""What an exhibit is: a silent bug, the layout it needs, and where it was met in public.

A bug is *silent* where the loss curve looks right. `asleep` is a change of the layout after which
the very same wrong code is right: that is where such code is written, and tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from parallel_core.plan import Plan

LOSS, NORM, PROBE = "loss", "gradient norm", "probe"
WITNESSES = (LOSS, NORM, PROBE)
"""Who may notice: two curves that every training logs, and the comparison with one process."""

PROBE_ALONE, AND_NORM = frozenset({PROBE}), frozenset({NORM, PROBE})
GITHUB = "https://github.com"

MODEL: Mapping[str, Any] = MappingProxyType(
    {"layers": 2, "hidden": 32, "heads": 4, "seq": 32, "global_batch": 16, "dtype": "float64"}
)
"""What every exhibit trains: small, and in float64, so that rounding is 1e-13 and a bug is not."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a bug was met: its name and address, and what was said there, in our words."""

    name: str
    url: str
    said: str


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """One bug: `wrong` is what the code does, `silent` why nobody notices, `shows` what the probe
    says, `cure` what the code should do.

    `fields` are its layout, `asleep` what of it to change for the bug to do nothing, `notices` who
    tells of it under AdamW (a test holds that against real runs), `suspects` words in the names of
    the tensors whose gradients are wrong, "" for all.
    """

    name: str
    title: str
    wrong: str
    silent: str
    shows: str
    cure: str
    fields: Mapping[str, Any]
    asleep: Mapping[str, Any]
    notices: frozenset[str]
    sources: tuple[Source, ...]
    suspects: tuple[str, ...] = ("",)
    lr: Mapping[str, float] = field(default_factory=dict)  # by optimizer, where not the usual

    def plan(self, optimizer: str = "adamw", **more: Any) -> Plan:
        """The plan of its training; `more` are flat fields to change."""
        lr = {"lr": self.lr[optimizer]} if optimizer in self.lr else {}
        return Plan.of(**{**MODEL, **self.fields, **lr, "optimizer": optimizer, **more})

    @property
    def sleeps(self) -> str:
        """The change of the layout that puts it to sleep, as fields."""
        return ", ".join(f"{name}={value}" for name, value in self.asleep.items())

    def suspected(self, tensor: str) -> bool:
        """Whether the bug makes this tensor's gradient wrong."""
        return any(word in tensor for word in self.suspects)


def github(repository: str, number: int, said: str, *, kind: str = "issues") -> Source:
    """An issue of a public repository, or with kind="pull" a change to it."""
    name = f"{repository.split('/')[1]} #{number}"
    return Source(name=name, url=f"{GITHUB}/{repository}/{kind}/{number}", said=said)
