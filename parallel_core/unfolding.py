"""One rank's instructions run as they are decided, where nobody knows them beforehand.

lanes.py runs a program that is there. Here each next instruction may depend on what has come, so
they run one at a time, on the caller's thread, and are noted in the same way: what a rank did is a
program afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from parallel_core.lanes import Kernel, now, own_time
from parallel_core.program import Instr, Lane, Op, Value
from parallel_core.recording import Note


class Unfolding:
    """Runs instructions, and notes what happened; `store` holds the values that exist now.

    `labels` are the instructions without their microbatch, as the rank described them to the
    supervisor, and `beat` shows it which one begins; `memory` and `sync` as for Lanes.
    """

    def __init__(
        self,
        kernels: Mapping[Op, Kernel],
        labels: Sequence[str],
        *,
        beat: Callable[[int, int], None] = lambda step, index: None,
        memory: Callable[[], int] = lambda: 0,
        sync: Callable[[], None] = lambda: None,
    ) -> None:
        self.notes: list[Note] = []
        self.store: dict[Value, Any] = {}
        self.round = 0  # what the supervisor calls the step
        self._kernels, self._beat, self._memory, self._sync = kernels, beat, memory, sync
        self._places = {label: i for i, label in enumerate(labels)}
        self._step = self._index = self._live = 0

    def begin(self, step: int) -> None:
        """Count the instructions of a new step of the program."""
        self._step, self._index, self.round = step, 0, step

    def run(self, instrs: Iterable[Instr]) -> None:
        """Run instructions one after another; what they read must be there."""
        for instr in instrs:
            self._run(instr)

    def taken(self) -> list[Note]:
        """The notes since the last call."""
        notes, self.notes = self.notes, []
        return notes

    def _run(self, instr: Instr) -> None:
        self._beat(self.round, self._places.get(bare_label(instr), 0))
        start, spent = now(), own_time()
        reads = {value: self.store[value] for value in instr.reads}
        written = list(self._kernels[instr.op](instr, reads))
        self._sync()
        done, spent = now(), own_time() - spent
        size = int(written.pop(0)) if instr.op.is_message else 0
        self.store.update(zip(instr.writes, written, strict=True))
        del reads, written
        for value in instr.frees:
            del self.store[value]
        if instr.lane == Lane.COMPUTE:
            self._live = self._memory()
        note: Note = (self._step, self._index, start, start, done, spent, size, self._live, [])
        self.notes.append(note)
        self._index += 1


def bare_label(instr: Instr) -> str:
    """An instruction's label without its microbatch: `F layer3`."""
    return f"{instr.op.value} {instr.where}"
