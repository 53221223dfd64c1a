"""The processes that ``torchrun`` or ``accelerate launch`` started side by side; one where none did."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Processes:
    """One process, among those that work together.

    Attributes:
        index: its own.
        count: of all.
        device: where it computes.
    """

    index: int
    count: int
    device: torch.device

    @classmethod
    def joined(cls, device: torch.device | str) -> Processes:
        """Join the others: over gloo on CPUs, over nccl on GPUs, each process on its own.

        Args:
            device: where to compute; of several GPUs each process takes the one of its place.
        """
        device = torch.device(device)
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls(0, 1, device)
        from accelerate import PartialState

        state = PartialState(cpu=device.type == "cpu")
        return cls(state.process_index, state.num_processes, state.device or device)

    def gather(self, item: Any) -> list[Any]:
        """What each process has, in their order; every process must ask."""
        if self.count == 1:
            return [item]
        from accelerate.utils import gather_object

        return gather_object([item])

    def share(self, item: Any) -> Any:
        """What the first process has, on the CPU; every process must ask."""
        if self.count == 1:
            return item
        from accelerate.utils import broadcast_object_list

        items = [item if self.is_first() else None]
        broadcast_object_list(items)
        return items[0]

    def is_first(self) -> bool:
        """Whether this one prints and writes for all."""
        return self.index == 0


def leave() -> None:
    """Part from the other processes, where this one had joined any.

    What listens to them may otherwise end a process badly that had done its work.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
