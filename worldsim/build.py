"""A world model with fresh weights from a preset: where training starts, and what tests play."""

import torch

from models.autoencoder import FrameAutoencoder
from models.transformer import WorldTransformer
from retrieval.descriptor import LearnedDescriptor
from retrieval.motion import Motion
from retrieval.odometer import Odometer
from worldsim.action_space import ActionSpace
from worldsim.checkpoint import WorldModels
from worldsim.openings import Openings
from worldsim.presets import Preset


def build_models(preset: Preset, action_space: ActionSpace, seed: int = 0) -> WorldModels:
    """Random weights from the seed; ValueError if the action space is not of the preset's sizes."""
    if action_space.sizes != preset.transformer.action_sizes:
        raise ValueError(
            f"the action space has sizes {action_space.sizes}, the preset {preset.transformer.action_sizes}; "
            "choose a preset with the recordings' action sizes"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        models = WorldModels(
            autoencoder=FrameAutoencoder.of(preset.autoencoder),
            descriptor=LearnedDescriptor.from_settings(preset.descriptor),
            odometer=Odometer.of(preset.odometer, Motion.still(action_space.sizes)),
            transformer=WorldTransformer.of(preset.transformer),
            action_space=action_space,
            flow=preset.flow,
            recall=preset.recall,
        )
    for part in (models.autoencoder, models.descriptor, models.odometer, models.transformer):
        part.eval().requires_grad_(False)
    return models


def random_openings(models: WorldModels, count: int, frames: int, seed: int = 0) -> Openings:
    """Openings of noise, for tests and benches of untrained models."""
    config = models.transformer.config
    generator = torch.Generator().manual_seed(seed)
    shape = (count, frames, config.latent_channels, config.latent_height, config.latent_width)
    actions = torch.zeros(count, frames, len(config.action_sizes), dtype=torch.int64)
    return Openings(latents=torch.randn(shape, generator=generator), actions=actions)
