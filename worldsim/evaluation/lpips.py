"""LPIPS, how far two frames lie apart to the eye, from weights on disk (Zhang et al. 2018, version 0.1 on AlexNet).

Written out, because the package `lpips` downloads AlexNet whatever it is given; the numbers are the same.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from safetensors.torch import load_file
from torch import Tensor, nn

LpipsWeights = tuple[Path, Path]
"""AlexNet as torchvision names its tensors, and LPIPS's heads for it (v0.1/alex.pth); .safetensors, or .pth without code"""

TAPS = (1, 4, 7, 9, 11)
"""layers whose outputs are compared"""
CHANNELS = (64, 192, 384, 256, 256)
SMALLEST = 31
"""pixels along a side below which nothing comes out of AlexNet"""
# ImageNet's mean and deviation of colours, for colours in [-1, 1].
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class Lpips(nn.Module):
    """Weighted squared differences of AlexNet's normalised features: 0 for equal frames, some 0.7 for unlike ones."""

    def __init__(self) -> None:
        super().__init__()
        # Numbered as torchvision numbers them: `TAPS` and the names of the tensors go by that.
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.heads = nn.ParameterList(torch.zeros(1, channels, 1, 1) for channels in CHANNELS)

    @torch.no_grad()
    def forward(
        self,
        frames_u8: UInt8[Tensor, "batch height width 3"],
        truth_u8: UInt8[Tensor, "batch height width 3"],
    ) -> Float[Tensor, " batch"]:
        """One distance a frame, on the weights' device. ValueError for frames smaller than AlexNet takes."""
        if min(frames_u8.shape[1:3]) < SMALLEST:
            raise ValueError(
                f"frames of {frames_u8.shape[1]}x{frames_u8.shape[2]} are smaller than LPIPS takes, {SMALLEST} pixels; "
                "leave --lpips out"
            )
        far = torch.zeros(len(frames_u8), device=frames_u8.device)
        for head, one, other in zip(self.heads, self._taps(frames_u8), self._taps(truth_u8), strict=True):
            far += (head * (one - other).square()).sum(1).mean((1, 2))
        return far

    def _taps(
        self, frames_u8: UInt8[Tensor, "batch height width 3"]
    ) -> Iterator[Float[Tensor, "batch channel rows columns"]]:
        """Features of unit length at every place."""
        shift, scale = (torch.tensor(each, device=frames_u8.device) for each in (SHIFT, SCALE))
        x = ((frames_u8 / 127.5 - 1 - shift) / scale).permute(0, 3, 1, 2)
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in TAPS:
                yield x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)


def load_lpips(weights: LpipsWeights | None, device: torch.device) -> Lpips | None:
    """The metric with those weights; None without.

    Raises:
        OSError: a file is missing.
        ValueError: a file is torn, holds more than tensors, or is of another network.
    """
    if weights is None:
        return None
    lpips, (backbone, heads) = Lpips(), weights
    known = {f"features.{name}": tensor for name, tensor in lpips.features.state_dict().items()}
    _fill(known, backbone, "AlexNet's weights as torchvision has them")
    known = {f"lin{number}.model.1.weight": head.data for number, head in enumerate(lpips.heads)}
    _fill(known, heads, "LPIPS's heads for AlexNet, v0.1/alex.pth of the package lpips")
    return lpips.to(device).eval()


def weights_digest(weights: LpipsWeights) -> str:
    """16 hex digits that change with the files' content."""
    digest = hashlib.sha256()
    for path in weights:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _fill(tensors: Mapping[str, Tensor], path: Path, wanted: str) -> None:
    """Copy the file's tensors of those names. OSError or ValueError, one line, if they cannot be had."""
    known = _read(path, wanted)
    for name, tensor in tensors.items():
        found = known.get(name)
        shape = tuple(found.shape) if isinstance(found, Tensor) else "missing"
        if not isinstance(found, Tensor) or shape != tensor.shape:
            raise ValueError(f"{path}: {name} is {shape}, not {tuple(tensor.shape)}; give {wanted}")
        tensor.copy_(found)


def _read(path: Path, wanted: str) -> Mapping[str, object]:
    """Everything the file holds."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; give {wanted}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        known = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # A torn pickle fails in as many ways as there are places to tear it.
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ValueError(f"{path} is torn or holds more than tensors ({reason}); give {wanted}") from None
    return known if isinstance(known, dict) else {}
