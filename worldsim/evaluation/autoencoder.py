"""How much does the autoencoder lose? It caps every other figure."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from worldsim.errors import check_at_least
from worldsim.evaluation.bootstrap import cluster_bootstrap, ratio_bootstrap
from worldsim.evaluation.held_out import HeldOut, decode, encode
from worldsim.evaluation.reports import markdown_table, settings_text, with_interval, write_json, write_text
from worldsim.evaluation.rollouts import compare
from worldsim.video import film_strip, write_png

COLUMNS = 8
"""Frames of the film strip, evenly from the worst PSNR to the best."""


@dataclass(frozen=True, kw_only=True)
class AutoencoderEvaluation:
    """Encode and decode held-out frames and compare them with the originals."""

    checkpoint: Path
    """Checkpoint folder."""
    data: Path
    """Folder of held-out episodes."""
    out: Path
    """Folder for autoencoder.json, autoencoder.md and the film strip."""
    frames: int = 2000
    """Frames, spread evenly over the episodes, random within each."""
    seed: int = 0
    """Chooses frames and bootstrap samples."""
    device: str = "auto"
    """auto, cpu, cuda ..."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "frames")


def run_autoencoder(settings: AutoencoderEvaluation) -> dict:
    """Measure what encoding and decoding loses; writes autoencoder.json, .md and a film strip, returns the JSON.

    Raises:
        OSError: checkpoint or data missing.
    """
    held_out = HeldOut(settings.data)
    models = held_out.load_models(settings.checkpoint, settings.device)
    truth_u8, clusters = held_out.sample(settings.frames, np.random.default_rng(settings.seed))
    made_u8 = decode(models.autoencoder, encode(models.autoencoder, truth_u8))
    figures = compare(made_u8, truth_u8, models.device)
    sharpness_ratio = ratio_bootstrap(
        figures["sharpness"], figures["truth_sharpness"], clusters, np.random.default_rng(settings.seed)
    )
    summary = {
        "settings": settings_text(settings),
        "frames": len(clusters),
        "maps": len(np.unique(clusters)),
        "psnr": cluster_bootstrap(figures["psnr"], clusters, np.random.default_rng(settings.seed)),
        "ssim": cluster_bootstrap(figures["ssim"], clusters, np.random.default_rng(settings.seed)),
        "psnr_percentiles": dict(
            zip(("5", "50", "95"), np.percentile(figures["psnr"], [5, 50, 95]).tolist(), strict=True)
        ),
        "sharpness_ratio": sharpness_ratio,
    }
    write_json(settings.out / "autoencoder.json", summary)
    strip = settings.out / "autoencoder.png"
    _write_strip(truth_u8, made_u8, figures["psnr"], strip)
    write_text(settings.out / "autoencoder.md", _page(summary, strip))
    return summary


def _page(summary: dict, strip: Path) -> str:
    row = [with_interval(summary["psnr"]), with_interval(summary["ssim"], 4)]
    row.append(with_interval(summary["sharpness_ratio"], 3))
    parts = [
        "# Autoencoder",
        markdown_table(
            ("frames", "maps", "PSNR dB", "SSIM", "sharpness ratio"),
            [(str(summary["frames"]), str(summary["maps"]), *row)],
        ),
        "Held-out frames, encoded and decoded. Intervals: 95 %, bootstrap over maps.",
        f"![{strip.stem}]({strip.name})",
    ]
    return "\n\n".join(parts) + "\n"


def _write_strip(truth_u8: torch.Tensor, made_u8: torch.Tensor, psnr: np.ndarray, path: Path) -> None:
    order = np.argsort(psnr, kind="stable")
    shown = order[np.linspace(0, len(order) - 1, min(COLUMNS, len(order))).astype(int)]
    figures = ", ".join(f"{psnr[index]:.1f}" for index in shown)
    rows = [
        (
            f"truth, from the worst frame to the best; PSNR {figures} dB",
            [truth_u8[int(i)].numpy() for i in shown],
        ),
        ("decoded", [made_u8[int(i)].numpy() for i in shown]),
    ]
    write_png(path, film_strip(rows))
