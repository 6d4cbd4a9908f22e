"""`worldsim rollout`: one recorded action list played by the model, in the order that its schedule asks for, as a film."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from worldsim.checkpoint import default_checkpoint
from worldsim.errors import check_at_least
from worldsim.evaluation.held_out import HeldOut
from worldsim.evaluation.rollouts import (
    Beginning,
    Rollout,
    RolloutSettings,
    check_horizon,
    compare,
    roll_out,
    told,
)
from worldsim.recall import MemoryMode
from worldsim.video import VideoSettings, VideoWriter, enlarge, film_strip, video_suffix, write_png

SHOWN = 10
"""frames of the film strip"""
SCALE = 3


@dataclass(frozen=True, kw_only=True)
class RolloutFilm(RolloutSettings):
    """Roll one recorded episode out on its actions: forwards, with planned ends or inverted, as the schedule says."""

    data: Path
    """Folder of recorded episodes."""
    out: Path
    """Video to write (.mp4 or .gif), real play at the left; a film strip of the same name, .png, is written beside it."""
    checkpoint: Path | None = None
    """Checkpoint folder; the shipped one if left out."""
    episode: int = 0
    """Which of the folder's episodes."""
    step: int = 64
    """True frames that the world has seen before; inverted sampling begins at the newest of them."""
    frames: int = 96
    """Frames to make."""
    memory_mode: MemoryMode = "hybrid"
    """Memory mode."""
    seed: int = 0
    """Chooses the noise."""
    device: str = "auto"
    """auto, cpu, cuda ..."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "step", "frames")
        check_at_least(self, 0, "episode")
        video_suffix(self.out)


def run_rollout(settings: RolloutFilm) -> dict[str, float]:
    """Write the film and its strip; returns PSNR and SSIM against what was recorded.

    ValueError if there is no such episode or it is too short.
    """
    held_out = HeldOut(settings.data)
    models = held_out.load_models(settings.checkpoint or default_checkpoint(), settings.device)
    settings = told(settings, models)
    check_horizon(settings.frames, models.schedule.section)
    stop = settings.step + settings.frames
    if settings.episode >= len(held_out.paths) or held_out.lengths[settings.episode] < stop:
        lengths = held_out.lengths
        raise ValueError(
            f"episode {settings.episode} to frame {stop}: {settings.data} has {len(lengths)} episodes of up to "
            f"{max(lengths)} frames; choose --episode, --step and --frames within them"
        )
    encoded = held_out.encode(models, {settings.episode: stop})[settings.episode]
    beginning = Beginning.of(
        held_out, encoded, settings.episode, settings.step, settings.frames, settings.seed
    )
    with tqdm(total=settings.frames, desc="rollout", unit="frame") as progress:
        [rollout] = roll_out(
            models, [beginning], settings.world(settings.memory_mode), settings.plan, progress
        )
    truth = encoded.frames_u8[settings.step : stop]
    figures = compare(rollout.frames_u8, truth, models.device)
    _write(settings, truth.numpy(), rollout)
    return {name: float(figures[name].mean()) for name in ("psnr", "ssim")}


def _write(
    settings: RolloutFilm, truth_u8: UInt8[np.ndarray, "time height width 3"], rollout: Rollout
) -> None:
    made_u8 = rollout.frames_u8.numpy()
    with VideoWriter(settings.out, VideoSettings(scale=1)) as video:
        for real, made in zip(truth_u8, made_u8, strict=True):
            video.append(enlarge(np.concatenate((real, made), 1), SCALE))
    shown = np.linspace(0, len(made_u8) - 1, min(SHOWN, len(made_u8))).round().astype(int)
    rows = [
        (f"real play, frames {', '.join(map(str, shown + 1))}", [truth_u8[i] for i in shown]),
        (f"the model, memory {settings.memory_mode}", [made_u8[i] for i in shown]),
    ]
    write_png(settings.out.with_suffix(".png"), film_strip(rows))
    print(f"wrote {settings.out} and {settings.out.with_suffix('.png')}")
