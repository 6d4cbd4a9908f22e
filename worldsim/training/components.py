"""The run folder of a training: parts trained so far, and what the next training needs of them."""

from pathlib import Path
from typing import Any

from torch import nn

from models.transformer import WorldTransformer
from models.warm_start import start_from
from worldsim.checkpoint import COMPONENTS, load_component, save_component
from worldsim.presets import preset
from worldsim.training.processes import Processes


def checkpoint_folder(run: Path) -> Path:
    """The checkpoint that a run folder grows into."""
    return run / "checkpoint"


def trained_component(run: Path, name: str) -> Any:
    """A part trained before, as it will be at play (bfloat16 weights), in float32.

    FileNotFoundError names the training to run first.
    """
    folder = checkpoint_folder(run)
    if not (folder / name / "config.json").is_file():
        command = "model" if name == "transformer" else name
        raise FileNotFoundError(f"{folder / name} is missing; run worldsim train {command} --out {run} first")
    return load_component(folder, name).eval().requires_grad_(False)


def trained_autoencoder(run: Path, preset_name: str) -> Any:
    """The run's autoencoder. ValueError if it was trained with a preset of other latents."""
    autoencoder = trained_component(run, "autoencoder")
    found, wanted = autoencoder.config.latent_channels, preset(preset_name).autoencoder.latent_channels
    if found != wanted:
        raise ValueError(
            f"{checkpoint_folder(run) / 'autoencoder'} makes {found} latent channels, preset {preset_name!r} has "
            f"{wanted}; give the --preset that it was trained with, or another --out"
        )
    return autoencoder


def start_weights(module: Any, name: str, start: Path | None) -> None:
    """Warm start: copy the part's weights from another checkpoint folder.

    A world model may have another schedule, and what the other lacks altogether (a refiner, foresight) starts anew.
    ValueError if shapes differ.
    """
    if start is None:
        return
    trained = load_component(start, name)
    try:
        whole_world = isinstance(module, WorldTransformer)
        fresh = start_from(module, trained) if whole_world else _load_all_but_new(module, trained)
    except (RuntimeError, ValueError) as error:
        told = str(error) if isinstance(error, ValueError) else "other names or shapes"
        raise ValueError(f"{start / name} does not fit the preset: {told}; leave --warm-start out") from error
    if fresh:
        print(f"{start / name} has no {', '.join(fresh)}; that starts anew", flush=True)


def _load_all_but_new(module: nn.Module, trained: nn.Module) -> tuple[str, ...]:
    """Returns the parts of `module` that `trained` has nothing of; RuntimeError if anything else differs."""
    old, new = trained.state_dict(), module.state_dict()
    fresh = {name.partition(".")[0] for name in new} - {name.partition(".")[0] for name in old}
    module.load_state_dict(old | {name: new[name] for name in new if name.partition(".")[0] in fresh})
    return tuple(sorted(fresh))


def keep_component(module: Any, name: str, run: Path, processes: Processes) -> None:
    """Write a trained part into the run's checkpoint folder; everybody waits until it is there."""
    assert name in COMPONENTS
    if processes.main:
        save_component(module, checkpoint_folder(run), name)
    processes.barrier()
