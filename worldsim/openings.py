"""Openings: the short beginnings that new worlds start from, in a file of one byte a number."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Integer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from worldsim.tensor_files import save_tensors

FILE = "openings.safetensors"
STEP = 1 / 16
"""of a latent's numbers, which are normalised; float16, as memory keeps them, holds every multiple exactly"""


@dataclass(frozen=True)
class Openings:
    """First frames of worlds in latents, and the actions that led to them."""

    latents: Float[Tensor, "opening frame channel height width"]
    actions: Integer[Tensor, "opening frame factor"]


def save_openings(openings: Openings, folder: Path) -> None:
    """Write them with latents in steps of 1/16, from -8 to 8: the decoded frames stay the same to 53 dB."""
    steps = (openings.latents.float() / STEP).round().clamp(-128, 127)
    content = {
        "latent_steps": steps.to(torch.int8).contiguous().cpu(),
        "actions": openings.actions.to(torch.uint8).contiguous().cpu(),
    }
    save_tensors(folder / FILE, content)


def load_openings(folder: Path) -> Openings | None:
    """The openings of a checkpoint, or None where it has none. ValueError if the file is torn."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        content = load_file(path)
        latents = content["latent_steps"].float() * STEP
        return Openings(latents=latents, actions=content["actions"].long())
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{path} is torn; restore it") from error
