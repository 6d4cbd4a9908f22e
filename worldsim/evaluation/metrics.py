"""Picture metrics, batched in torch on whatever device the frames are on. All take uint8 RGB frames.

Luma is Rec. 601 (0.299 R + 0.587 G + 0.114 B) in [0, 1].
"""

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

PSNR_CEILING_DB = 100.0
"""PSNR of equal frames (infinite by the formula), so that means stay finite."""

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
LUMA_WEIGHTS = (0.299, 0.587, 0.114)


def luma(frames_u8: UInt8[Tensor, "batch height width 3"]) -> Float[Tensor, "batch height width"]:
    """Brightness of every pixel in [0, 1]."""
    weights = torch.tensor(LUMA_WEIGHTS, device=frames_u8.device) / 255.0
    return frames_u8.float() @ weights


def mean_squared_error(
    frames_u8: UInt8[Tensor, "batch height width 3"], truth_u8: UInt8[Tensor, "batch height width 3"]
) -> Float[Tensor, " batch"]:
    """Mean squared error over pixels and channels, with colours in [0, 1]."""
    return ((frames_u8.float() - truth_u8.float()) / 255.0).square().mean(dim=(1, 2, 3))


def psnr(
    frames_u8: UInt8[Tensor, "batch height width 3"], truth_u8: UInt8[Tensor, "batch height width 3"]
) -> Float[Tensor, " batch"]:
    """Peak signal-to-noise ratio in dB, one a frame, at most `PSNR_CEILING_DB`."""
    error = mean_squared_error(frames_u8, truth_u8)
    return (-10.0 * error.clamp_min(1e-30).log10()).clamp_max(PSNR_CEILING_DB)


def _gaussian_band(size: int, like: Float[Tensor, "*shape"]) -> Float[Tensor, "{size} {size}-10"]:
    """Matrix whose columns are the Gaussian window at every place where it fits."""
    offsets = torch.arange(SSIM_WINDOW, device=like.device, dtype=like.dtype) - (SSIM_WINDOW - 1) / 2
    window = torch.exp(-0.5 * (offsets / SSIM_SIGMA).square())
    window = window / window.sum()
    band = torch.zeros(size, size - SSIM_WINDOW + 1, device=like.device, dtype=like.dtype)
    for place, weight in enumerate(window):
        band.diagonal(-place).copy_(weight.expand(band.shape[1]))
    return band


def ssim(
    frames_u8: UInt8[Tensor, "batch height width 3"], truth_u8: UInt8[Tensor, "batch height width 3"]
) -> Float[Tensor, " batch"]:
    """Structural similarity in [-1, 1], one a frame (Wang et al. 2004, eq. 13), the mean over RGB.

    Gaussian window of 11 pixels, sigma 1.5, K1 = 0.01, K2 = 0.03, population variances, windows that fit in
    the frame only: skimage's `structural_similarity(gaussian_weights=True, use_sample_covariance=False)`.

    Raises:
        ValueError: frames smaller than the window.
    """
    batch, height, width, _ = frames_u8.shape
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(f"frames of {height}x{width} are smaller than SSIM's window of {SSIM_WINDOW} pixels")
    # Double precision: E[x^2] - E[x]^2 cancels badly on flat walls in float32, worse in TF32.
    planes = [
        (each.double() / 255.0).permute(0, 3, 1, 2).reshape(batch * 3, height, width)
        for each in (frames_u8, truth_u8)
    ]
    x, y = planes
    # Both blurs as matrix products: six times as fast as a convolution of one channel on a CPU.
    down, across = _gaussian_band(height, x).T, _gaussian_band(width, x)
    mean_x, mean_y, square_x, square_y, product = (
        down @ (plane @ across) for plane in (x, y, x * x, y * y, x * y)
    )
    variance_x, variance_y = square_x - mean_x * mean_x, square_y - mean_y * mean_y
    covariance = product - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x * mean_x + mean_y * mean_y + c1) * (variance_x + variance_y + c2)
    )
    return similarity.mean(dim=(1, 2)).view(batch, 3).mean(dim=1).float()


def sharpness(frames_u8: UInt8[Tensor, "batch height width 3"]) -> Float[Tensor, " batch"]:
    """Gradient energy: mean over pixels of (dY/dx)^2 + (dY/dy)^2 by forward differences of luma."""
    plane = luma(frames_u8)
    across = (plane[:, :, 1:] - plane[:, :, :-1]).square().mean(dim=(1, 2))
    down = (plane[:, 1:] - plane[:, :-1]).square().mean(dim=(1, 2))
    return across + down


def brightness(frames_u8: UInt8[Tensor, "batch height width 3"]) -> Float[Tensor, " batch"]:
    """Mean luma in [0, 1]."""
    return luma(frames_u8).mean(dim=(1, 2))


def contrast(frames_u8: UInt8[Tensor, "batch height width 3"]) -> Float[Tensor, " batch"]:
    """Standard deviation of luma over the frame, in [0, 0.5]."""
    return luma(frames_u8).std(dim=(1, 2), correction=0)


def colourfulness(frames_u8: UInt8[Tensor, "batch height width 3"]) -> Float[Tensor, " batch"]:
    """Hasler and Suesstrunk 2003, eq. 3 (M3): 0 is grey, 45 "quite colourful", 109 "extremely colourful"."""
    red, green, blue = frames_u8.float().flatten(1, 2).unbind(dim=2)
    red_green, yellow_blue = red - green, 0.5 * (red + green) - blue
    spread = (red_green.var(dim=1, correction=0) + yellow_blue.var(dim=1, correction=0)).sqrt()
    distance = (red_green.mean(dim=1).square() + yellow_blue.mean(dim=1).square()).sqrt()
    return spread + 0.3 * distance


def motion(
    frames_u8: UInt8[Tensor, "batch height width 3"], previous_u8: UInt8[Tensor, "batch height width 3"]
) -> Float[Tensor, " batch"]:
    """Mean absolute difference of luma between each frame and the one before it, in [0, 1]."""
    return (luma(frames_u8) - luma(previous_u8)).abs().mean(dim=(1, 2))


def is_flat(
    frame_contrast: Float[Tensor, "*shape"], real_contrast: Float[Tensor, "*other"], share: float = 0.25
) -> Bool[Tensor, "*shape"]:
    """Whether a frame has collapsed to one colour: contrast below `share` of real play's median contrast."""
    return frame_contrast < share * real_contrast.median()
