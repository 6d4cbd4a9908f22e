"""Presets: sizes and recipes that belong together, as plain Python functions."""

from collections.abc import Callable
from dataclasses import dataclass, field

from models.autoencoder import AutoencoderSettings
from models.flow import FlowSettings
from models.schedule import Schedule
from models.transformer import TransformerSettings
from retrieval.descriptor import LearnedDescriptorSettings
from retrieval.odometer import OdometerSettings
from worldsim.recall import ACTION_STEPS, WINDOW_AGES, RecallSettings


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Settings of every component of one world model; frames are `8 * latent` cells large."""

    autoencoder: AutoencoderSettings = field(default_factory=AutoencoderSettings)
    transformer: TransformerSettings = field(default_factory=TransformerSettings)
    descriptor: LearnedDescriptorSettings = field(
        default_factory=lambda: LearnedDescriptorSettings(
            channels=16, window=len(WINDOW_AGES), steps=ACTION_STEPS + 1, hidden=32, head_channels=8
        )
    )
    odometer: OdometerSettings = field(
        default_factory=lambda: OdometerSettings(channels=16, witness_channels=16)
    )
    flow: FlowSettings = field(default_factory=lambda: FlowSettings(shift=0.75, layout_noise=0.25))
    recall: RecallSettings = field(default_factory=RecallSettings)

    @property
    def schedule(self) -> Schedule:
        return Schedule.parse(self.transformer.schedule)


def default() -> Preset:
    """What the next shipped model is trained from: 18.0 M parameters in all, plays on four CPU cores."""
    return Preset()


def tiny() -> Preset:
    """For tests: the same structure, trained and played in seconds."""
    return Preset(
        autoencoder=AutoencoderSettings(
            latent_channels=4, channels=8, encoder_blocks=(1, 1, 1, 1), decoder_blocks=(1, 1, 1, 1)
        ),
        transformer=TransformerSettings(
            latent_channels=4,
            width=32,
            layers=2,
            heads=2,
            mlp_ratio=2,
            action_width=8,
            refiner_channels=8,
            world_heads=1,
            warped_channels=4,
        ),
        descriptor=LearnedDescriptorSettings(
            channels=4, window=len(WINDOW_AGES), steps=ACTION_STEPS + 1, hidden=8, head_channels=4, dim=16
        ),
        odometer=OdometerSettings(channels=4, fine=8, coarse=8, head_width=16, witness_channels=8),
        flow=FlowSettings(denoising_steps=2),
    )


def large() -> Preset:
    """For GPUs: about 130 M parameters, more recalled frames, a wider autoencoder."""
    return Preset(
        autoencoder=AutoencoderSettings(channels=128),
        transformer=TransformerSettings(
            schedule="td_f16k4f8k2f4k1_r8k1_g1", width=768, layers=16, heads=12, mlp_ratio=4, action_width=128
        ),
    )


PRESETS: dict[str, Callable[[], Preset]] = {"tiny": tiny, "default": default, "large": large}


def preset(name: str) -> Preset:
    """The preset of that name; ValueError names the known ones."""
    if name not in PRESETS:
        raise ValueError(f"preset {name!r} is not known; use one of {', '.join(PRESETS)}")
    return PRESETS[name]()
