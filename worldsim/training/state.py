"""Everything that exact resume needs, in one safetensors file: weights, their average, optimisers, judge, step."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from worldsim.tensor_files import save_tensors
from worldsim.training.adversary import Adversary
from worldsim.training.sharding import is_sharded, own_part, split_like, whole

FORMAT = "worldsim-training-1"


class WeightAverage:
    """Exponential moving average of weights; its memory grows with the steps taken, as 1 − 9 / (10 + step)."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        averages = [own_part(each) for each in self.tensors.values()]
        torch._foreach_lerp_(averages, [own_part(p.detach()) for p in module.parameters()], weight)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        for name, parameter in module.named_parameters():
            parameter.copy_(whole(self.tensors[name]))


class TrainingState:
    """A module in training with its average, optimisers, the adversary that judges it if it has one, and step count."""

    def __init__(
        self,
        module: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        adversary: Adversary | None = None,
        decay: float = 0.999,
    ) -> None:
        self.module = module
        self.average = WeightAverage(module, decay)
        self.optimizers = list(optimizers)
        self.judge = nn.Module()
        if adversary is not None:
            self.judge = adversary.discriminator
            self.optimizers.append(adversary.optimizer)
        self.step = 0
        self.minutes = 0.0
        """wall-clock minutes trained, all runs together"""

    def copy_average_to(self, module: nn.Module) -> None:
        """Averaged weights, and what is not trained (buffers) as it is."""
        module.load_state_dict({name: whole(value) for name, value in self.module.state_dict().items()})
        self.average.copy_to(module)

    def save(self, path: Path, write: bool = True) -> None:
        """Write through a temporary file and rename: a kill leaves the old state or the new one.

        Where weights are split over processes all must call it, and one of them writes.
        """
        if not write and not is_sharded(self.module):
            return
        tensors: dict[str, Tensor] = {f"module.{k}": v for k, v in self.module.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.tensors.items()}
        tensors |= {f"judge.{k}": v for k, v in self.judge.state_dict().items()}
        for i, optimizer in enumerate(self.optimizers):
            for index, values in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{i}.{index}.{k}": torch.as_tensor(v) for k, v in values.items()}
        metadata = {"format": FORMAT, "step": str(self.step), "minutes": str(self.minutes)}
        kept = {k: whole(v.detach()).contiguous().cpu().clone() for k, v in tensors.items()}
        if write:
            save_tensors(path, kept, metadata)

    def load(self, path: Path) -> None:
        """Go on where `save` left off. ValueError if the file is torn or belongs to another model."""
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is torn; delete it to start training anew") from error
        if metadata.get("format") != FORMAT:
            raise ValueError(f"{path} is not a training state of this version; delete it to start anew")
        try:
            current = self.module.state_dict()
            self.module.load_state_dict(
                {
                    name: split_like(tensor, current[name]) if name in current else tensor
                    for name, tensor in _part(tensors, "module.").items()
                }
            )
            self.judge.load_state_dict(_part(tensors, "judge."))
        except RuntimeError as error:
            raise ValueError(
                f"{path} is of another model than the settings describe; use the settings it was made with, "
                "or another --out"
            ) from error
        for name, tensor in _part(tensors, "average.").items():
            self.average.tensors[name].copy_(split_like(tensor, self.average.tensors[name]))
        for i, optimizer in enumerate(self.optimizers):
            _load_optimizer(optimizer, _part(tensors, f"optimizer.{i}."))
        self.step, self.minutes = int(metadata["step"]), float(metadata["minutes"])


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = split_like(tensor, parameters[int(index)])
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
