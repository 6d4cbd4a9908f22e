"""A world model as a folder: world.json, autoencoder/, descriptor/, odometer/, transformer/, openings.safetensors."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError

from models.autoencoder import FrameAutoencoder
from models.flow import FlowSettings
from models.schedule import Schedule
from models.transformer import WorldTransformer
from retrieval.descriptor import LearnedDescriptor
from retrieval.odometer import Odometer
from worldsim.action_space import ActionSpace
from worldsim.device import choose_device, choose_dtype
from worldsim.files import read_json, write_json_atomic
from worldsim.openings import Openings, load_openings, save_openings
from worldsim.recall import ACTION_STEPS, WINDOW_AGES, RecallSettings
from worldsim.tensor_files import disk_errors

FORMAT_VERSION = 4
COMPONENTS: dict[str, type[ModelMixin]] = {
    "autoencoder": FrameAutoencoder,
    "descriptor": LearnedDescriptor,
    "odometer": Odometer,
    "transformer": WorldTransformer,
}


@dataclass
class WorldModels:
    """The networks of one world model, ready to run, and what they were trained to agree on."""

    autoencoder: FrameAutoencoder
    descriptor: LearnedDescriptor
    odometer: Odometer
    transformer: WorldTransformer
    action_space: ActionSpace
    flow: FlowSettings = field(default_factory=FlowSettings)
    recall: RecallSettings = field(default_factory=RecallSettings)
    openings: Openings | None = None
    trained: dict[str, Any] = field(default_factory=dict)
    """how it was made: frames, steps, minutes, measured figures"""
    makers: dict[FlowSettings, Any] = field(default_factory=dict, repr=False, compare=False)
    """what runs them step by step, one for each setting; see `SectionMaker.of`"""

    @property
    def schedule(self) -> Schedule:
        return self.transformer.schedule

    @property
    def device(self) -> torch.device:
        return self.transformer.patchify.proj.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.patchify.proj.weight.dtype


def default_checkpoint() -> Path:
    """The checkpoint that ships with the package."""
    return Path(__file__).parent / "assets" / "default"


@contextmanager
def _quiet_diffusers() -> Iterator[None]:
    """Its advice about dtypes and accelerate does not concern users of this package."""
    verbosity = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(verbosity)


def save_component(model: ModelMixin, folder: Path, name: str) -> None:
    """Write one component in bfloat16 safetensors beside its config. OSError, the old one kept, if the disk is full."""
    copy = type(model).from_config(model.config)
    copy.load_state_dict(model.state_dict())
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=target) as part:
        with _quiet_diffusers(), disk_errors(target):
            copy.to(torch.bfloat16).save_pretrained(part)
        for path in sorted(Path(part).iterdir()):
            path.replace(target / path.name)


def write_world_json(
    folder: Path,
    action_space: ActionSpace,
    flow: FlowSettings,
    recall: RecallSettings,
    trained: dict[str, Any],
) -> None:
    """Write world.json, which makes a folder a checkpoint."""
    content = {
        "format_version": FORMAT_VERSION,
        "action_space": json.loads(action_space.to_json()),
        "flow": asdict(flow),
        "recall": asdict(recall),
        "trained": trained,
    }
    write_json_atomic(folder / "world.json", content)


def save_checkpoint(models: WorldModels, folder: Path) -> None:
    """Write the whole folder; `load_checkpoint` reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in COMPONENTS:
        save_component(getattr(models, name), folder, name)
    if models.openings is not None:
        save_openings(models.openings, folder)
    write_world_json(folder, models.action_space, models.flow, models.recall, models.trained)


def load_checkpoint(
    folder: Path | str, device: str = "auto", dtype: torch.dtype | None = None
) -> WorldModels:
    """Read a checkpoint folder.

    FileNotFoundError if it or a part is missing; ValueError if a part is torn, of another version or another shape.
    """
    folder, where = Path(folder), choose_device(device)
    content = read_world_json(folder)
    number = dtype or choose_dtype(where)
    # Places are told to a few units of hundreds: bfloat16 has eight bits.
    numbers = {name: torch.float32 if name == "odometer" else number for name in COMPONENTS}
    parts = {name: load_component(folder, name, numbers[name]).to(where) for name in COMPONENTS}
    # Convolutions run a third faster on channels-last weights.
    for convolutions in (parts["autoencoder"], parts["transformer"].refiner):
        if convolutions is not None:
            convolutions.to(memory_format=torch.channels_last)
    for part in parts.values():
        part.eval().requires_grad_(False)
    openings = load_openings(folder)
    try:
        models = WorldModels(
            **parts,
            action_space=ActionSpace.from_json(json.dumps(content["action_space"])),
            flow=FlowSettings(**content["flow"]),
            recall=RecallSettings(**content["recall"]),
            openings=openings,
            trained=content["trained"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder / 'world.json'} does not fit this version ({error}); restore it or train again"
        ) from error
    check_parts_fit(models, folder)
    return models


def check_parts_fit(models: WorldModels, folder: Path) -> None:
    """ValueError names the part that is made for another transformer, as after a mixed copy."""
    config, openings = models.transformer.config, models.openings
    shape = (config.latent_channels, config.latent_height, config.latent_width)
    sizes, factors = tuple(config.action_sizes), len(config.action_sizes)
    described, moved = models.descriptor.config, models.odometer.config
    agreements: list[tuple[str, str, Any, Any]] = [
        ("world.json", "actions", models.action_space.sizes, sizes),
        ("autoencoder", "latent channels", models.autoencoder.config.latent_channels, shape[0]),
        ("descriptor", "latents", (described.channels, described.height, described.width), shape),
        ("descriptor", "actions", tuple(described.factor_sizes), sizes),
        ("odometer", "latents", (moved.channels, moved.height, moved.width), shape),
        ("odometer", "actions", models.odometer.motion.sizes, sizes),
        ("descriptor", "window", described.window, len(WINDOW_AGES)),
        ("descriptor", "steps", described.steps, ACTION_STEPS + models.schedule.section),
    ]
    if openings is not None:
        agreements.append(("openings.safetensors", "latents", tuple(openings.latents.shape[2:]), shape))
        agreements.append(("openings.safetensors", "action factors", openings.actions.shape[-1], factors))
    for part, what, found, wanted in agreements:
        if found != wanted:
            raise ValueError(
                f"{folder / part} is made for {what} {found}, the transformer for {wanted}; "
                "restore the checkpoint or train again"
            )


def read_world_json(folder: Path) -> dict[str, Any]:
    """The content of world.json, its version checked."""
    path = folder / "world.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} is not a checkpoint (no world.json); train one with worldsim train, or leave "
            "--checkpoint out to use the shipped one"
        )
    content = read_json(path)
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version}, this program reads {FORMAT_VERSION}; "
            "use the program that wrote it, or train again"
        )
    return content


def load_component(folder: Path, name: str, dtype: torch.dtype = torch.float32) -> Any:
    """One component of a checkpoint folder; errors name its file."""
    path = folder / name
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"{path} is missing from the checkpoint; restore it or run worldsim train")
    try:
        if not isinstance(read_json(path / "config.json"), dict):
            raise ValueError("config.json is not an object")
        with _quiet_diffusers():
            model, info = COMPONENTS[name].from_pretrained(
                path,
                torch_dtype=dtype,
                low_cpu_mem_usage=False,
                local_files_only=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(
            f"{path} is torn or does not fit its config.json ({reason}); restore it or train again"
        ) from error
    if info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"]:
        odd = (info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"])[0]
        raise ValueError(
            f"{path} does not fit this version (weight {odd}); use the version that wrote it, or train again"
        )
    return model
