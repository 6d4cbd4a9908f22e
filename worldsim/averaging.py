"""`worldsim average`: transformers of several trainings made one by averaging their weights.

A training that goes on from another's weights ends beside them in one valley of the loss; the middle lies lower than
either end (model soups, Wortsman et al. 2022, section 3; uniform soup).
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from torch import Tensor, nn

from worldsim.checkpoint import WorldModels, load_checkpoint, save_checkpoint


@dataclass(frozen=True, kw_only=True)
class AveragingSettings:
    """Average the transformers of checkpoints of which each was trained on from another; all else is the first one's."""

    checkpoints: tyro.conf.Positional[tuple[Path, ...]]
    """checkpoint folders, two or more"""
    out: Path
    """checkpoint folder to write"""

    def __post_init__(self) -> None:
        if len(self.checkpoints) < 2:
            raise ValueError(f"{len(self.checkpoints)} checkpoint is no average; name two or more")
        if self.out.resolve() in {each.resolve() for each in self.checkpoints}:
            raise ValueError(f"--out {self.out} is one of the checkpoints; give another folder")


def average_checkpoints(settings: AveragingSettings) -> None:
    """Write the average to `settings.out`.

    ValueError names the checkpoint whose transformer is of another size, or was trained on other latents.
    """
    first, *others = (load_checkpoint(each, "cpu", torch.float32) for each in settings.checkpoints)
    for folder, models in zip(settings.checkpoints[1:], others, strict=True):
        _check_alike(first, models, folder)
    mean_weights([first.transformer, *(models.transformer for models in others)])
    trained = {"average_of": [models.trained for models in (first, *others)]}
    save_checkpoint(replace(first, trained=trained), settings.out)
    print(f"checkpoint written to {settings.out}")


@torch.no_grad()
def mean_weights(modules: list[nn.Module]) -> None:
    """Give the first of the modules, which are of one size, the mean of the weights of all."""
    for same in zip(*(module.parameters() for module in modules), strict=True):
        same[0].copy_(torch.stack([each.double() for each in same]).mean(0))


def _check_alike(first: WorldModels, other: WorldModels, folder: Path) -> None:
    for name, value in _sizes(first).items():
        if _sizes(other)[name] != value:
            raise ValueError(
                f"{folder / 'transformer'} has {name} {_sizes(other)[name]}, the first checkpoint {value}; "
                "average trainings of one preset and schedule"
            )
    ours, theirs = _vocabulary(first), _vocabulary(other)
    odd = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    if odd:
        raise ValueError(
            f"{folder} speaks of other latents than the first checkpoint ({odd[0]}); average trainings that began "
            "with one autoencoder and one codebook"
        )


def _sizes(models: WorldModels) -> dict[str, object]:
    return {name: value for name, value in models.transformer.config.items() if not name.startswith("_")}


def _vocabulary(models: WorldModels) -> dict[str, Tensor]:
    """What a transformer's latents mean: the encoder, whatever decodes them, and the codes of discretised histories."""
    encoder = {f"autoencoder {name}": value for name, value in models.autoencoder.state_dict().items()}
    encoder = {name: value for name, value in encoder.items() if "tiny.decoder" not in name}
    learned = {name for name, _ in models.transformer.named_parameters()}
    state = models.transformer.state_dict().items()
    return encoder | {f"transformer {name}": value for name, value in state if name not in learned}
