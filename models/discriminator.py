"""A patch discriminator: tells real frames or latents from made ones, so that their maker learns to paint texture.

Squared error alone paints the mean of all textures that could be meant, and that is blur.
"""

from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm


@dataclass(frozen=True, kw_only=True)
class DiscriminatorSettings:
    """Size of the discriminator; with these strides every logit judges a patch of 34 × 34 pixels."""

    channels: int = 64
    """feature channels of the first stage; the second has twice, the third four times as many"""
    strides: tuple[int, int, int] = (2, 2, 1)
    """of the three stages; 1, 1, 1 judges patches of 13 × 13 cells"""


class NormalisedConv(nn.Conv2d):
    """A convolution whose weight, parametrised by `spectral_norm`, is divided in float32 under autocast too.

    Autocast would run the power iteration in bfloat16, too coarse for it, and mix the two number types.
    """

    def forward(
        self, input: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch out_channel out_height out_width"]:
        with torch.autocast(input.device.type, enabled=False):
            weight = self.weight
        return functional.conv2d(input, weight, self.bias, self.stride, self.padding)


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al. 2017, section 3.2.2) with spectral norm (Miyato et al. 2018) in place of batch norm.

    Statistics of a batch would differ between real and made frames and between processes; weights do not.
    """

    def __init__(
        self, channels: int = 64, strides: tuple[int, int, int] = (2, 2, 1), inputs: int = 3
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        widths = inputs, channels, 2 * channels, 4 * channels
        for narrow, wide, stride in zip(widths[:-1], widths[1:], strides, strict=True):
            layers.append(spectral_norm(NormalisedConv(narrow, wide, 4, stride, padding=1)))
            layers.append(nn.LeakyReLU(0.2))
        layers.append(spectral_norm(NormalisedConv(4 * channels, 1, 4, padding=1)))
        self.layers = nn.Sequential(*layers)

    @classmethod
    def of(cls, settings: DiscriminatorSettings, inputs: int = 3) -> "PatchDiscriminator":
        """For images of `inputs` channels."""
        return cls(**asdict(settings), inputs=inputs)

    def forward(
        self, images: Float[Tensor, "batch inputs height width"]
    ) -> Float[Tensor, "batch 1 patch_height patch_width"]:
        """Logits, above 0 for real, of frames in [-1, 1] or of latents."""
        return self.layers(images)

    def judge(
        self,
        real: Float[Tensor, "batch inputs height width"],
        made: Float[Tensor, "batch inputs height width"],
    ) -> tuple[
        Float[Tensor, "batch 1 patch_height patch_width"], Float[Tensor, "batch 1 patch_height patch_width"]
    ]:
        """Float32 logits of both, by the same weights: one power iteration serves both passes."""
        with parametrize.cached():
            return self(real).float(), self(made).float()


def hinge_loss(
    real_logits: Float[Tensor, "*shape"], made_logits: Float[Tensor, "*shape"]
) -> Float[Tensor, ""]:
    """The discriminator's loss (Lim and Ye 2017): 2 when it cannot tell, 0 when it is sure of every patch."""
    return functional.relu(1 - real_logits).mean() + functional.relu(1 + made_logits).mean()
