"""The slot that engines serve from: taken when the first one starts, given back when a job wants it or none is left."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.worker.inference.engine_kinds import budget_bytes
from tunesmith.worker.machine.slot_use import Serving, SlotUse
from tunesmith.worker.machine.slots import Slot, Slots, hardware_of_slot


@dataclass(frozen=True, kw_only=True)
class HeldSlot:
    """Locks for engines to inherit, and the hardware as it was before the first of them."""

    descriptors: tuple[int, ...]
    hardware: HardwareProfile
    use: SlotUse

    @property
    def memory_bytes(self) -> int:
        """What all engines together may take."""
        return budget_bytes(self.hardware)


class SlotHold:
    """At most one slot of the host. An exclusive hold is kept for ever, and jobs do not get that slot."""

    def __init__(
        self,
        slots: Slots,
        *,
        probe: Callable[[], HardwareProfile],
        mark: Path,
        grace_seconds: float,
        is_exclusive: bool = False,
    ) -> None:
        self._slots, self._probe, self._mark, self._grace_seconds = slots, probe, mark, grace_seconds
        self._is_exclusive = is_exclusive
        self._held: HeldSlot | None = None
        self._kept: Slot | None = None

    def take(self) -> HeldSlot | None:
        """The slot, held from now on; None while jobs have all that there are. Attempts take the first, so the last."""
        if self._held is None:
            for index in self._choices():
                if held := self._try(index):
                    self._held = held
                    break
        return self._held

    def release(self) -> None:
        """Let go. Engines that inherited the locks still hold it."""
        if self._held is not None and self._kept is None:
            for descriptor in self._held.descriptors:
                os.close(descriptor)
            self._held = None

    def is_wanted(self) -> bool:
        """Whether a job waits for the slot that is held."""
        return self._held is not None and self._kept is None and self._held.use.is_wanted()

    def is_taken_by_training(self) -> bool:
        """Whether `take` would find none."""
        if self._held is not None:
            return False
        return not any(self._slots.use(index).is_free() for index in range(self._slots.count))

    def _choices(self) -> list[int]:
        if not self._is_exclusive:
            return list(reversed(range(self._slots.count)))
        self._kept = self._kept or self._slots.acquire()
        return [] if self._kept is None else [self._kept.index]

    def _try(self, index: int) -> HeldSlot | None:
        hardware = hardware_of_slot(self._probe(), index=index, count=self._slots.count)
        use = self._slots.use(index)
        serving = Serving.about_to_begin(hardware, mark=self._mark, grace_seconds=self._grace_seconds)
        descriptors = use.take_to_serve(serving)
        return None if descriptors is None else HeldSlot(descriptors=descriptors, hardware=hardware, use=use)
