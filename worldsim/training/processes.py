"""One process or many (torchrun): who am I, which device is mine, and gradients that agree."""

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from worldsim.device import choose_device


@dataclass(frozen=True)
class Processes:
    """This process among those that torchrun started; one process without it."""

    rank: int
    count: int
    device: torch.device

    @classmethod
    def join(cls, device: str) -> "Processes":
        """Join the group that torchrun's environment describes; alone without it."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        rank = int(os.environ.get("RANK", "0"))
        chosen = choose_device(device)
        if chosen.type == "cuda" and chosen.index is None:
            chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
            torch.set_float32_matmul_precision("high")
        if count > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
        return cls(rank=rank, count=count, device=chosen)

    @property
    def main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def barrier(self) -> None:
        if self.count > 1:
            dist.barrier()

    def leave(self) -> None:
        """Leave the group, after everybody has arrived."""
        if self.count > 1 and dist.is_initialized():
            dist.barrier()
            dist.destroy_process_group()

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over all processes."""
        if self.count > 1:
            dist.all_reduce(value)
            value = value / self.count
        return value

    def agreed(self, value: float) -> float:
        """The main process's value, in every process: clocks differ."""
        if self.count == 1:
            return value
        tensor = torch.tensor([value], device=self.device, dtype=torch.float64)
        dist.broadcast(tensor, src=0)
        return float(tensor.item())

    def same_start(self, module: nn.Module) -> None:
        """Give every process the main process's weights."""
        if self.count > 1:
            for tensor in (*module.parameters(), *module.buffers()):
                dist.broadcast(tensor.data, src=0)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes, in one transfer."""
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = _flatten_dense_tensors(gradients)
        dist.all_reduce(flat)
        flat /= self.count
        for gradient, mean in zip(gradients, _unflatten_dense_tensors(flat, gradients), strict=True):
            gradient.copy_(mean)

    def seed(self, *numbers: int) -> int:
        """A seed that differs by process and by the numbers given, for batches that need no stored state."""
        value = 0x9E3779B97F4A7C15
        for number in (self.rank, *numbers):
            value = (value ^ (number + 0x632BE59BD9B4E019)) * 0xD6E8FEB86659FD93 & (2**64 - 1)
            value ^= value >> 32
        return value >> 1

    def generator(self, *numbers: int) -> torch.Generator:
        """Random numbers of this process for these numbers (seed, step): the same whenever the step is run again."""
        return torch.Generator(device=self.device).manual_seed(self.seed(*numbers))
