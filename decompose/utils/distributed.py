"""Work in the processes that ``torchrun`` or ``accelerate launch`` started, or in a single one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Processes:
    """The own process among those of a launch.

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
        """Join the process group: over gloo on CPUs, over nccl on GPUs, one GPU a process.

        Args:
            device: where to compute; of several GPUs each process takes the one of its local rank.
        """
        device = torch.device(device)
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls(0, 1, device)
        from accelerate import PartialState

        state = PartialState(cpu=device.type == "cpu")
        return cls(state.process_index, state.num_processes, state.device or device)

    def gather(self, item: Any) -> list[Any]:
        """Gather an object from every process, in their order; all processes must call it."""
        if self.count == 1:
            return [item]
        from accelerate.utils import gather_object

        return gather_object([item])

    def share(self, item: Any) -> Any:
        """Share the first process's object with all, on the CPU; all processes must call it."""
        if self.count == 1:
            return item
        from accelerate.utils import broadcast_object_list

        items = [item if self.is_first() else None]
        broadcast_object_list(items)
        return items[0]

    def is_first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.index == 0


def leave() -> None:
    """Leave the process group, if this process joined one.

    What listens to them may otherwise end a process badly that had done its work.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
