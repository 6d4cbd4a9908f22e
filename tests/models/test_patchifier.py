"""Patches against average pooling, diffusers' FramePack, and the way back."""

import copy

import pytest
import torch
from diffusers.models.transformers import transformer_hunyuan_video_framepack as framepack
from torch.nn import functional

from models.kernel import Kernel
from models.patchifier import LatentPatchifier, unpatchify
from models.transformer import WorldTransformer
from worldsim.presets import tiny


def patchifier(kernel: Kernel, seed: int = 0) -> LatentPatchifier:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LatentPatchifier(3, kernel, 10).requires_grad_(False)


K1 = Kernel.of_rate(1)
COARSE = ["k2", "k4", "k8", "k16", "k1h8w8", "k4h4w4", "k16h2w2", "k1h2w4"]


@pytest.mark.parametrize("kernel", [Kernel.parse(text) for text in COARSE], ids=str)
def test_coarse_projection_starts_as_the_finer_one_of_pooled_latents(kernel: Kernel) -> None:
    """proj_k2(x) = proj_k1(avg_pool3d(x, 2)), and so on: a factor forgotten blows the distant past up."""
    fine, coarse = patchifier(K1), patchifier(kernel, seed=1)
    coarse.initialise_from(fine)
    latents = torch.randn(2, 16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    ratio = kernel.frames, kernel.rows // 2, kernel.cols // 2
    pooled = functional.avg_pool3d(latents.transpose(1, 2), ratio).transpose(1, 2)
    torch.testing.assert_close(coarse(latents), fine(pooled), rtol=1e-4, atol=1e-5)


def test_k4_starts_the_same_from_k2_as_from_k1() -> None:
    by_way, direct, k2 = (
        patchifier(Kernel.of_rate(4)),
        patchifier(Kernel.of_rate(4)),
        patchifier(Kernel.of_rate(2)),
    )
    k2.initialise_from(patchifier(K1))
    by_way.initialise_from(k2)
    direct.initialise_from(patchifier(K1))
    torch.testing.assert_close(by_way.proj.weight, direct.proj.weight)


@pytest.mark.parametrize("kernel", [Kernel(64, 1, 1), Kernel(2, 1, 8)], ids=str)
def test_kernels_with_a_finer_side_start_alike_on_even_latents(kernel: Kernel) -> None:
    """Rate 64 may be long in time and a single cell in space: nothing is pooled there, so weights add up."""
    fine, other = patchifier(K1), patchifier(kernel, seed=1)
    other.initialise_from(fine)
    even = torch.randn(1, 1, 3, 1, 1, generator=torch.Generator().manual_seed(0)).expand(1, 64, 3, 8, 8)
    tokens = other(even)
    torch.testing.assert_close(tokens, fine(even)[:, :1, :1].expand_as(tokens), rtol=1e-4, atol=1e-5)


def test_kernels_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="k2h6w6 is no multiple of k2 "):
        patchifier(Kernel(2, 6, 6)).initialise_from(patchifier(Kernel.of_rate(2)))


def test_k16_is_pooled_and_goes_through_a_k8() -> None:
    """FramePack, section 3.1: the coarsest rate needs no kernel of its own size."""
    k16 = patchifier(Kernel.of_rate(16))
    assert k16.proj.weight.shape == (10, 3, 8, 16, 16)
    latents = torch.randn(1, 16, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    padded = functional.pad(latents.transpose(1, 2), (0, 16, 0, 20, 0, 0), mode="replicate")
    pooled = functional.avg_pool3d(padded, 2)
    expected = functional.conv3d(pooled, k16.proj.weight, k16.proj.bias, stride=(8, 16, 16))
    torch.testing.assert_close(k16(latents), expected.flatten(3).permute(0, 2, 3, 1))


def test_packer_starts_every_level_from_one_projection() -> None:
    """Levels differ in what they cover, not in how they begin; recalled frames begin as the finest level."""
    packer = WorldTransformer.of(tiny().transformer).packer
    k4, k2, k1 = (level.proj for level in packer.levels)
    for coarse, fine in ((k2, k1), (k4, k2)):
        summed = functional.avg_pool3d(coarse.weight, 2) * 8
        torch.testing.assert_close(summed, fine.weight)
        assert torch.equal(coarse.bias, fine.bias)
    assert torch.equal(packer.recalled.proj.weight, k1.weight)


def test_projections_equal_diffusers_framepack() -> None:
    """Its history embedding pads and projects the same three kernels: ours must order tokens as it does."""
    theirs = framepack.HunyuanVideoHistoryPatchEmbed(3, 10).requires_grad_(False)
    latents = torch.randn(2, 8, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    video = latents.transpose(1, 2)
    expected = theirs(video, video, video)
    for rate, proj, tokens in zip(
        (1, 2, 4), (theirs.proj, theirs.proj_2x, theirs.proj_4x), expected, strict=True
    ):
        ours = patchifier(Kernel.of_rate(rate))
        ours.proj.load_state_dict(proj.state_dict())
        torch.testing.assert_close(ours(latents).flatten(1, 2), tokens)


@pytest.mark.parametrize("rate", [1, 2, 4])
def test_projections_in_bfloat16_are_those_of_float32(rate: int) -> None:
    """At the shipped model's size: a CPU's convolution in bfloat16 made something else of the k2 and k4 frames."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exact = LatentPatchifier(16, Kernel.of_rate(rate), 384).requires_grad_(False)
    latents = torch.randn(2, 16, 16, 12, 16, generator=torch.Generator().manual_seed(0))
    made = copy.deepcopy(exact).bfloat16()(latents.bfloat16()).float()
    assert (made - exact(latents)).norm() < 0.01 * exact(latents).norm()


def test_unpatchify_inverts_the_k1_patches() -> None:
    """Channel, row and column within a patch must come back to their places."""
    latents = torch.randn(2, 3, 4, 12, 16, generator=torch.Generator().manual_seed(0))
    identity = LatentPatchifier(4, Kernel.of_rate(1), 16).requires_grad_(False)
    identity.proj.weight.copy_(torch.eye(16).view(16, 4, 1, 2, 2))
    identity.proj.bias.zero_()
    assert torch.equal(unpatchify(identity(latents), 4, 6, 8), latents)
