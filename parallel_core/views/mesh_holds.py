"""What one rank of a plan holds of every parameter: all of it, a slice, a shard, or nothing."""

from __future__ import annotations

from dataclasses import dataclass

from parallel_core.data.blocks import blocks, held_blocks
from parallel_core.params import Cut, ParamSpec, cuts, local, param_specs
from parallel_core.pieces import held_pieces, pieces, weights_of
from parallel_core.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Held:
    """One parameter on one rank. `part` is its slice of the whole in words, `shape` the slice's;
    `shard` is the run of elements of it that ZeRO leaves to this rank, None without ZeRO."""

    name: str
    whole: tuple[int, ...]
    shape: tuple[int, ...]
    part: str
    shard: tuple[int, int] | None = None

    @property
    def owned(self) -> int:
        """Elements that this rank updates."""
        if self.shard is not None:
            return self.shard[1] - self.shard[0]
        size = 1
        for length in self.shape:
            size *= length
        return size


def holds(plan: Plan, rank: int) -> list[Held]:
    """The parameters that a rank has something of, in forward order."""
    place = plan.mesh.coordinate(rank)
    here = {spec.name for u in held_pieces(plan, rank) for spec in pieces(plan)[u].specs}
    owned = _shards(plan, rank) if plan.zero else {}
    found = []
    for spec in param_specs(plan):
        if spec.name not in here:
            continue
        found.append(
            Held(
                name=spec.name,
                whole=spec.shape,
                shape=local(plan, spec).shape,
                part=_part(cuts(plan, spec, place)),
                shard=owned.get(spec.name, (0, 0)) if plan.zero else None,
            )
        )
    return found


def _part(found: tuple[Cut, ...]) -> str:
    words = []
    for cut in found:
        padding = cut.stop - cut.start - cut.real
        more = f", {padding} padding" if padding else ""
        words.append(f"dim {cut.dim}: {cut.start} to {cut.stop - 1} ({cut.axis}{more})")
    return "; ".join(words) or "all"


def _shards(plan: Plan, rank: int) -> dict[str, tuple[int, int]]:
    """The run of elements of each parameter that lies in this rank's shard."""
    place = plan.mesh.coordinate(rank)
    found: dict[str, tuple[int, int]] = {}
    for b in held_blocks(plan, rank):
        block = blocks(plan)[b]
        begin = place[block.axis] * block.shard
        at = 0
        for spec in _specs(plan, block.units):
            low, high = max(begin - at, 0), min(begin + block.shard - at, spec.numel)
            at += spec.numel
            if low < high:
                found[spec.name] = (low, high)
    return found


def _specs(plan: Plan, units: tuple[int, ...]) -> list[ParamSpec]:
    return [spec for u in units for spec in weights_of(plan, u)]


def rows(plan: Plan, rank: int) -> list[dict[str, str]]:
    """The same as a table."""
    told = []
    for held in holds(plan, rank):
        row = {
            "parameter": held.name,
            "whole": " x ".join(map(str, held.whole)),
            "here": " x ".join(map(str, held.shape)),
            "part": held.part,
        }
        if held.shard is not None:
            low, high = held.shard
            row[f"ZeRO-{plan.zero} owns"] = f"{low:,} to {high - 1:,}" if high > low else "none"
        told.append(row)
    return told
