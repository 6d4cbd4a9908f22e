"""What an ablation compares: variants, each a training and a way to play, named as the field names them."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from worldsim.recall import MemoryMode


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of the table."""

    name: str
    says: str
    """what it is, in a line"""
    train: tuple[str, ...] = ()
    """flags of `worldsim train model`"""
    play: tuple[str, ...] = ()
    """flags of `worldsim evaluate drift` and `… revisits`"""
    guidance: float = 0.0
    """weight of history guidance that it is judged with, whatever its preset plays with"""
    layout_noise: float = 0.0
    """level of the noise that its history is seen under while the layout is decided, likewise"""
    memory: MemoryMode = "off"
    """memory mode that it is judged with"""
    weights: str | None = None
    """another variant whose weights it plays; None trains its own"""

    def folder(self, out: Path) -> Path:
        """Where its evaluations are, and its training if it has one."""
        return out / _file_name(self.name)

    def reports(self, out: Path) -> list[Path]:
        """The files that tell that it is judged, and all that the table needs of it."""
        return [self.folder(out) / name / f"{name}.json" for name in ("drift", "revisits")]

    def run(self, out: Path) -> Path:
        """The run folder whose weights it plays."""
        return out / _file_name(self.weights or self.name) / "run"


def _file_name(name: str) -> str:
    """Without what file systems do not like."""
    return re.sub(r"[^A-Za-z0-9+._-]+", "_", name).strip("_")


PLAIN = "td_f16k4f4k2f2k1_g1"
RECALLS = "td_f16k4f4k2f2k1_r4k1_g1"
SCHEDULES = ("td_f16k4f2k2f1k1_g1", PLAIN, "f1k1_td_f16k4f2k2f1k1_g1")
INVERTED = "f1k1_x_g1_f2k1f4k2f16k4_td"
PLANNED = "td_f16k4f4k2f2k1_g1_x_f1k1"
SORTED = "x_s16k4s4k2s1k1_f1k1_g1"
FORCED = ("--history-noise", "0.9", "--clean-share", "0.1")
"""Diffusion Forcing: history of any noise level that is told (Chen et al. 2024)"""


def paper() -> tuple[Variant, ...]:
    """FramePack's comparison on our game: packings, anti-drifting methods and the baselines."""
    return (
        *(
            Variant(name=schedule, says="packing alone", train=("--schedule", schedule))
            for schedule in SCHEDULES
        ),
        *(
            Variant(
                name=f"{schedule}+D", says="on a discretised history",
                train=("--schedule", f"{schedule}+D", "--codes", "512"),
            )
            for schedule in SCHEDULES
        ),
        Variant(
            name="similarity packing", says="history sorted by the paper's sim_hybrid", memory="hybrid",
            train=("--schedule", SORTED, "--measure", "latent"),
        ),
        Variant(
            name="hybrid recall", says="packing, and four remembered frames at full resolution", memory="hybrid",
            train=("--schedule", RECALLS),
        ),
        Variant(
            name="inverted", says="from last to first", train=("--schedule", INVERTED),
        ),
        Variant(name="planned ends", says="an end every 48 frames", train=("--schedule", PLANNED)),
        Variant(
            name="remembered ends", says="remembered frames as ends where the player comes back",
            play=("--plan.remembered",), weights="planned ends",
        ),
        Variant(name="sliding window", says="four recent frames", train=("--schedule", "td_f4k1_g1")),
        Variant(name="repeated image-to-video", says="the newest frame alone", train=("--schedule", "td_f1k1_g1")),
        Variant(
            name="causal", says="no history frame looks at a newer one",
            train=("--schedule", PLAIN, "--attention", "causal"),
        ),
        Variant(
            name="joint", says="the history looks at the section too",
            train=("--schedule", PLAIN, "--attention", "joint"),
        ),
        Variant(name="Diffusion Forcing, σ 0", says="history shown clean", train=("--schedule", PLAIN, *FORCED)),
        *(
            Variant(
                name=f"Diffusion Forcing, σ {level}", says=f"history shown under noise of {level}",
                play=("--history-noise", level), weights="Diffusion Forcing, σ 0",
            )
            for level in ("0.1", "0.5")
        ),
        Variant(
            name="own frames", says="half of the histories made by the model itself",
            train=("--schedule", PLAIN, "--own-frames.share", "0.5", "--own-frames.after-steps", "0"),
        ),
        Variant(
            name="history guidance", says="led away from a veiled history, weight 0.5",
            guidance=0.5, weights=PLAIN,
        ),
        Variant(
            name="layout noise", says="layout after a history under noise of 0.25, detail after the clean one",
            layout_noise=0.25, weights=PLAIN,
        ),
    )  # fmt: skip


def quick() -> tuple[Variant, ...]:
    """Three variants, for trying an ablation out."""
    return (
        Variant(name="sliding window", says="four recent frames", train=("--schedule", "td_f4k1_g1")),
        Variant(name=PLAIN, says="packing alone", train=("--schedule", PLAIN)),
        Variant(
            name="noise 0.1", says="its history under noise", play=("--history-noise", "0.1"), weights=PLAIN
        ),
    )


SUITES: dict[str, Callable[[], tuple[Variant, ...]]] = {"paper": paper, "quick": quick}


def suite(name: str) -> tuple[Variant, ...]:
    """The suite of that name; ValueError names the known ones."""
    if name not in SUITES:
        raise ValueError(f"suite {name!r} is not known; use one of {', '.join(SUITES)}")
    return SUITES[name]()
