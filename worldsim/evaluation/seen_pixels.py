"""Which pixels of a view showed something seen before: from the game's own depth and poses, by reprojection."""

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

STRIDE = 2
"""Every so many pixels along each side of a view are asked for; their neighbours get the same answer."""
TOLERANCE = (20.0, 0.06)
"""Map units, and share of the distance, by which two depths of one point may differ: the engine counts depth in steps
of about 7, and takes the nearest of a pixel's."""
NEAREST = 8.0
"""Map units in front of an eye within which nothing is seen."""
AT_ONCE = 128
"""Past frames compared at once."""
FEWEST = 0.05
"""Share of a frame's pixels below which no figure is told of them."""


def masked_psnr(
    made_u8: UInt8[Tensor, "time height width 3"],
    truth_u8: UInt8[Tensor, "time height width 3"],
    mask: Bool[Tensor, "time height width"],
) -> list[float | None]:
    """PSNR in dB of each frame's pixels in the mask; None where there are too few."""
    error = (made_u8.double() - truth_u8.double()).square().mean(-1)
    counts = mask.flatten(1).sum(1)
    mean = (error * mask).flatten(1).sum(1) / counts.clamp(min=1)
    psnr = 10 * torch.log10(255.0**2 / mean.clamp(min=1e-3))
    enough = counts >= FEWEST * mask[0].numel()
    return [round(float(value), 4) if told else None for value, told in zip(psnr, enough, strict=True)]


def seen_before(
    depth: Float[Tensor, "height width"],
    pose: Float[Tensor, "4"],
    depths: Float[Tensor, "time height width"],
    poses: Float[Tensor, "time 4"],
) -> Bool[Tensor, "height width"]:
    """Which pixels of the view with this depth, from this pose, some earlier frame showed."""
    height, width = depth.shape
    seen = shown_by(depth, pose, depths, poses).any(0)
    return seen.repeat_interleave(STRIDE, 0).repeat_interleave(STRIDE, 1)[:height, :width]


def shown_by(
    depth: Float[Tensor, "height width"],
    pose: Float[Tensor, "4"],
    depths: Float[Tensor, "time height width"],
    poses: Float[Tensor, "time 4"],
    stride: int = STRIDE,
) -> Bool[Tensor, "time rows columns"]:
    """Which of every `stride`-th pixels of a view each of other frames showed too.

    Poses are x, y, z in map units and the heading in degrees (0 east, 90 north); depth is along the view's axis, and
    the view 90° wide. A pixel's point p lies at depth d and side s = d (u − W/2) / (W/2) of the eye; another frame
    shows it where the point falls inside its picture, (u', v') = (W/2 + W/2 · s'/d', H/2 + (v − H/2) d/d'), and its own
    depth there is d'. Eyes are taken to be equally high, as on flat floors.
    """
    height, width = depth.shape
    rows = torch.arange(0, height, stride, device=depth.device)
    columns = torch.arange(0, width, stride, device=depth.device)
    far = depth[rows][:, columns]
    side = far * ((columns + 0.5) / (width / 2) - 1)
    up = far * ((rows + 0.5) / (height / 2) - 1)[:, None]
    x, y = _world(far, side, pose)
    parts = zip(depths.split(AT_ONCE), poses.split(AT_ONCE), strict=True)
    return torch.cat([_shown(x, y, up, *part) for part in parts])


def _world(
    far: Float[Tensor, "rows columns"], side: Float[Tensor, "rows columns"], pose: Float[Tensor, "4"]
) -> tuple[Float[Tensor, "rows columns"], Float[Tensor, "rows columns"]]:
    """East and north of points so far ahead and to the right."""
    yaw = pose[3].deg2rad()
    return (
        pose[0] + far * yaw.cos() + side * yaw.sin(),
        pose[1] + far * yaw.sin() - side * yaw.cos(),
    )


def _shown(
    x: Float[Tensor, "rows columns"],
    y: Float[Tensor, "rows columns"],
    up: Float[Tensor, "rows columns"],
    depths: Float[Tensor, "time height width"],
    poses: Float[Tensor, "time 4"],
) -> Bool[Tensor, "time rows columns"]:
    """Whether each frame shows each point."""
    count, height, width = depths.shape
    yaw = poses[:, 3].deg2rad()[:, None, None]
    east, north = x - poses[:, 0, None, None], y - poses[:, 1, None, None]
    far = east * yaw.cos() + north * yaw.sin()
    side = east * yaw.sin() - north * yaw.cos()
    ahead = far > NEAREST
    safe = far.clamp(min=NEAREST)
    column = ((side / safe + 1) * (width / 2)).floor().long()
    row = ((up / safe + 1) * (height / 2)).floor().long()
    inside = ahead & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    flat = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    there = depths.reshape(count, -1).gather(1, flat.reshape(count, -1)).view_as(far)
    near, share = TOLERANCE
    return inside & ((there - far).abs() < near + share * far)
