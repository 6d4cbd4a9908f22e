"""The autoencoder between frames and latents: diffusers' AutoencoderTiny at our size, with latent statistics."""

from dataclasses import asdict, dataclass

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float, UInt8
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class AutoencoderSettings:
    """Sizes of the autoencoder; frames shrink by 8 along each side."""

    latent_channels: int = 16
    channels: int = 64
    """feature channels of every stage"""
    encoder_blocks: tuple[int, ...] = (1, 3, 3, 3)
    decoder_blocks: tuple[int, ...] = (3, 3, 3, 1)


class FrameAutoencoder(ModelMixin, ConfigMixin):
    """`encode_frames` and `decode_frames` between uint8 frames and latents of zero mean and unit variance."""

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        channels: int = 64,
        encoder_blocks: tuple[int, ...] | list[int] = (1, 3, 3, 3),
        decoder_blocks: tuple[int, ...] | list[int] = (3, 3, 3, 1),
    ) -> None:
        super().__init__()
        self.tiny = AutoencoderTiny(
            latent_channels=latent_channels,
            encoder_block_out_channels=(channels,) * len(encoder_blocks),
            decoder_block_out_channels=(channels,) * len(decoder_blocks),
            num_encoder_blocks=tuple(encoder_blocks),
            num_decoder_blocks=tuple(decoder_blocks),
        )
        self.register_buffer("latent_mean", torch.zeros(latent_channels))
        self.register_buffer("latent_std", torch.ones(latent_channels))

    @classmethod
    def of(cls, settings: AutoencoderSettings) -> "FrameAutoencoder":
        return cls(**asdict(settings))

    @torch.no_grad()
    def encode_frames(
        self, frames_u8: UInt8[Tensor, "batch frame_height frame_width 3"]
    ) -> Float[Tensor, "batch channel height width"]:
        """Normalised latents; frame sides must be multiples of 8 (ValueError names the size)."""
        height, width = frames_u8.shape[1:3]
        if height % 8 or width % 8:
            raise ValueError(
                f"frames of {width}x{height} do not divide by 8; record at a multiple of 8, e.g. 128x96"
            )
        latents = self.tiny.encoder(to_signed(frames_u8).to(self.dtype))
        return (latents - self.latent_mean[:, None, None]) / self.latent_std[:, None, None]

    @torch.no_grad()
    def decode_frames(
        self, latents: Float[Tensor, "batch channel height width"]
    ) -> UInt8[Tensor, "batch frame_height frame_width 3"]:
        """Frames of normalised latents."""
        frames = self.tiny.decoder(self.denormalise(latents))
        return ((frames.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)

    def denormalise(
        self, latents: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch channel height width"]:
        """What the decoder takes."""
        latents = latents.to(self.dtype)
        return latents * self.latent_std[:, None, None] + self.latent_mean[:, None, None]

    @torch.no_grad()
    def fit_statistics(self, raw_latents: Float[Tensor, "batch channel height width"]) -> None:
        """Set the statistics that normalise latents from a sample of the encoder's raw output."""
        self.latent_mean.copy_(raw_latents.float().mean(dim=(0, 2, 3)))
        self.latent_std.copy_(raw_latents.float().std(dim=(0, 2, 3)))


def to_signed(
    frames_u8: UInt8[Tensor, "batch frame_height frame_width 3"],
) -> Float[Tensor, "batch 3 frame_height frame_width"]:
    """uint8 [0, 255] channels last -> float [-1, 1] channels first."""
    return frames_u8.permute(0, 3, 1, 2).float() / 127.5 - 1
