"""The page, plot and film strips of a drift evaluation."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from worldsim.evaluation.reports import markdown_table, number, with_interval
from worldsim.files import atomic_path
from worldsim.video import film_strip, write_png

DIGITS = {"sharpness": 4, "brightness": 3, "contrast": 3, "colourfulness": 1, "motion": 4}
LABELS = {
    "model": "model",
    "real": "real play",
    "autoencoder": "real play through the autoencoder",
    "displaced": "real play, the same steps elsewhere",
}

DISPLACED = (
    "The same steps elsewhere: what the game shows of each rollout's steps in the place where another one begins. They "
    "run into its walls, as those of a rollout do that has left the recorded place: a perfect world that has done so "
    "would come no nearer to real play than this."
)


def drift_page(summary: dict, plot: Path, strips: Sequence[Path]) -> str:
    """The Markdown page."""
    settings = summary["settings"]
    rows = []
    for name, sources in summary["metrics"].items():
        digits = DIGITS[name]
        for source, figures in sources.items():
            rows.append(
                (
                    f"{name}, {LABELS[source]}",
                    number(figures["first"], digits),
                    number(figures["last"], digits),
                    number(figures["drift_of_mean"], digits),
                    with_interval(figures["drift"], digits),
                    with_interval(figures["ratio_to_real_last"]),
                )
            )
    header = (
        "metric",
        "first 15 %",
        "last 15 %",
        "Δ of the means",
        "mean Δ of a rollout",
        "last 15 % / real play",
    )
    collapsed = summary["collapsed"]
    after = settings["still_after"]
    told = "on the recorded actions" if after == "None" else f"standing still after {after} frames more"
    parts = [
        "# Drift",
        f"{summary['rollouts']} free rollouts of {settings['frames']} frames on {summary['maps']} held-out maps, "
        f"{told}, memory {settings['memory_mode']}, {settings['sampler']}.",
        markdown_table(header, rows),
        "Δ = |first − last|. Real play changes too as the player walks, so its Δ is the floor to compare with. Sharpness "
        "is gradient energy of luma; brightness, contrast and motion are in [0, 1]; colourfulness after Hasler and "
        "Suesstrunk. Intervals: 95 %, bootstrap over maps.",
        *([DISPLACED] if "displaced" in summary["collapsed"] else []),
        _others(summary),
        f"Collapsed to flat colour in the last 15 %: **{collapsed['model']} of {summary['rollouts']}** (real play by "
        f"the same rule: {collapsed['real']}).",
        f"![{plot.stem}]({plot.name})",
        *(f"![{path.stem}]({path.name})" for path in strips),
    ]
    return "\n\n".join(parts) + "\n"


def write_sharpness_plot(series: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    """Median sharpness over rollouts against the frame, with the middle half of the rollouts shaded."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    for source, metrics in series.items():
        low, middle, high = np.percentile(metrics["sharpness"], [25, 50, 75], axis=0)
        frames = np.arange(len(middle))
        [line] = axes.plot(frames, middle, label=LABELS[source], linewidth=1.2)
        if source in ("model", "real"):
            axes.fill_between(frames, low, high, alpha=0.15, color=line.get_color(), linewidth=0)
    axes.set(xlabel="frame", ylabel="sharpness (gradient energy)", ylim=(0, None))
    axes.legend(frameon=False)
    with atomic_path(path) as part:
        figure.savefig(part, dpi=130, format="png")


def write_drift_strip(
    truth_u8: UInt8[Tensor, "time height width 3"],
    made_u8: UInt8[Tensor, "time height width 3"],
    shown: Sequence[int],
    title: str,
    path: Path,
) -> Path:
    """Truth above, ours below, at the frames `shown`."""
    label = f"{title} | real play, frames {', '.join(map(str, shown))}"
    rows = [
        (label, [truth_u8[index].numpy() for index in shown]),
        ("model", [made_u8[index].numpy() for index in shown]),
    ]
    write_png(path, film_strip(rows))
    return path


def _others(summary: dict) -> str:
    """Feature distance and action fidelity, which have no value a frame."""
    features = summary["features"]
    rows = []
    for source in ("model", "real"):
        parts = (number(features[source][part]) for part in ("first", "last"))
        rows.append((f"feature distance to real play, {LABELS[source]}", *parts))
    text = markdown_table(("", "first 15 %", "last 15 %"), rows)
    text += "\n\nFeature distance: Fréchet distance (as FID) of means and deviations of the autoencoder's latents."
    if "action_fidelity" in summary:
        fidelity = summary["action_fidelity"]
        rows = []
        for name in ("turns", "moves"):
            for source in fidelity[name]:
                parts = (with_interval(fidelity[name][source][when]) for when in ("all", "first", "last"))
                rows.append((f"{name}, {LABELS[source]}", *parts))
        header = ("steps as told", "all", "first 15 %", "last 15 %")
        text += "\n\n" + markdown_table(header, rows)
        text += (
            "\n\nJudged by a network that was trained on pairs of frames of real play. Walls make true moves differ from "
            "what is told as well, and the judge errs: real play is the ceiling, "
            "displaced play where rollouts have left the recorded place."
        )
    return text
