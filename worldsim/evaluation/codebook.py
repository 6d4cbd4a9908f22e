"""What is left of latents when every pixel becomes its nearest code, for few codes and for many."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm import tqdm

from models.codebook import Codebook, fit_codebook, report
from worldsim.errors import check_at_least
from worldsim.evaluation.held_out import HeldOut, decode, encode
from worldsim.evaluation.reports import markdown_table, number, settings_text, write_json, write_text
from worldsim.evaluation.rollouts import compare
from worldsim.files import atomic_path
from worldsim.video import film_strip, write_png

COLUMNS = 8
"""frames of the film strip"""


@dataclass(frozen=True, kw_only=True)
class CodebookEvaluation:
    """Fit codebooks of several sizes to half of the episodes and measure on the other half what they keep."""

    checkpoint: Path
    """Checkpoint folder, for its autoencoder."""
    data: Path
    """Folder of held-out episodes, two or more."""
    out: Path
    """Folder for codebook.json, codebook.md, a plot and a film strip."""
    sizes: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
    """Numbers of codes, K."""
    frames: int = 400
    """Frames of each half, spread evenly over its episodes, random within each."""
    seed: int = 0
    """Chooses frames and where K-Means begins."""
    device: str = "auto"
    """auto, cpu, cuda ..."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "frames")
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"sizes {self.sizes}: give one number of codes or more, each 1 or more")


def run_codebook(settings: CodebookEvaluation) -> dict:
    """Sweep the number of codes; writes codebook.json, .md, a plot and a film strip, returns the JSON.

    Raises:
        ValueError: fewer than two episodes, or more codes than latent pixels.
        OSError: checkpoint or data missing.
    """
    held_out = HeldOut(settings.data)
    if len(held_out.paths) < 2:
        raise ValueError(
            f"{settings.data} holds one episode; half are fitted and half measured: record two or more"
        )
    models = held_out.load_models(settings.checkpoint, settings.device)
    generator = np.random.default_rng(settings.seed)
    (fitted, _), (truth, _) = (
        held_out.sample(settings.frames, generator, range(half, len(held_out.paths), 2)) for half in (0, 1)
    )
    pixels = encode(models.autoencoder, fitted).float().movedim(1, -1).flatten(0, -2)
    latents = encode(models.autoencoder, truth).float()
    shown = torch.linspace(0, len(truth) - 1, min(COLUMNS, len(truth))).long()
    rows, strip = [], [("truth", truth[shown].numpy())]
    for size in tqdm(settings.sizes, desc="codebooks", unit="size"):
        codebook = Codebook(size, pixels.shape[1]).to(latents.device)
        codebook.codes.copy_(fit_codebook(pixels, size, settings.seed))
        found = report(codebook, latents)
        made = decode(models.autoencoder, codebook(latents))
        psnr = float(compare(made, truth, models.device)["psnr"].mean())
        rows.append({
            "codes": size, "variance_kept": found.variance_kept, "dead_codes": found.dead_codes, "psnr": psnr
        })  # fmt: skip
        strip.append((f"{size} codes, {psnr:.1f} dB", made[shown].numpy()))
    whole = decode(models.autoencoder, latents)
    ceiling = float(compare(whole, truth, models.device)["psnr"].mean())
    strip.append((f"without codes, {ceiling:.1f} dB", whole[shown].numpy()))
    summary = {
        "settings": settings_text(settings),
        "frames": len(truth),
        "autoencoder_psnr": ceiling,
        "sizes": rows,
    }
    write_json(settings.out / "codebook.json", summary)
    _draw(rows, ceiling, settings.out / "codebook.png")
    write_png(
        settings.out / "codebook_strip.png", film_strip([(name, list(frames)) for name, frames in strip])
    )
    write_text(settings.out / "codebook.md", _page(summary))
    return summary


def _page(summary: dict) -> str:
    rows = [
        (str(row["codes"]), f"{row['variance_kept']:.1%}", str(row["dead_codes"]), number(row["psnr"]))
        for row in summary["sizes"]
    ]
    parts = [
        "# Codebook",
        markdown_table(("codes", "variance kept", "dead codes", "PSNR dB, decoded"), rows),
        f"K-Means over latent pixels of every second episode, measured on {summary['frames']} frames of the others. "
        f"Without codes the autoencoder reaches {number(summary['autoencoder_psnr'])} dB. A dead code is nearest to no "
        "pixel of these frames.",
        "![codebook](codebook.png)",
        "![codebook_strip](codebook_strip.png)",
    ]
    return "\n\n".join(parts) + "\n"


def _draw(rows: list[dict], ceiling: float, path: Path) -> None:
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes: Axes = figure.subplots()
    sizes = [row["codes"] for row in rows]
    axes.plot(sizes, [row["psnr"] for row in rows], "o-", color="#2b6cb0", label="decoded, dB")
    axes.axhline(ceiling, color="#2b6cb0", linestyle=":", label="without codes, dB")
    axes.set(xscale="log", xlabel="codes", ylabel="PSNR dB", title="What codes leave of latents")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    kept: Axes = axes.twinx()
    kept.plot(
        sizes, [100 * row["variance_kept"] for row in rows], "s--", color="#b7791f", label="variance kept, %"
    )
    kept.set(ylabel="variance kept, %", ylim=(0, 100))
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    with atomic_path(path) as part:
        figure.savefig(part, dpi=120, format="png")
