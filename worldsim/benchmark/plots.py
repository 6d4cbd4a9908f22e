"""Plots of a benchmark: quality frame by frame, gain by gap, coverage by the number of recalled frames."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldsim.evaluation.revisit_tables import BASELINES
from worldsim.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def write_plots(out: Path, summary: Mapping[str, Any]) -> list[Path]:
    """One picture of all three."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.2), layout="constrained")
    frames, gaps, recall = figure.subplots(1, 3)
    _frames(frames, summary["true_history"]["revisits"]["modes"])
    _gaps(gaps, summary["true_history"]["by_gap"])
    _recall(recall, summary["recall"]["all"]["modes"])
    path = out / "benchmark_plots.png"
    with atomic_path(path) as part:
        figure.savefig(part, dpi=110, format="png")
    return [path]


def _frames(axes: "Axes", modes: Mapping[str, Any]) -> None:
    for mode, figures in modes.items():
        values = figures["psnr_by_frame"]
        dashed = mode in BASELINES
        axes.plot(
            range(1, len(values) + 1),
            values,
            "--" if dashed else "-",
            label=mode,
            linewidth=1 if dashed else 1.6,
        )
    axes.set(xlabel="frame of the return", ylabel="PSNR (dB)", title="Returns after true history")
    axes.legend(frameon=False, fontsize=7, ncols=2)


def _gaps(axes: "Axes", by_gap: Mapping[str, Any]) -> None:
    names = [mode for mode in next(iter(by_gap.values()))["modes"] if mode not in (*BASELINES, "off")]
    width = 0.8 / max(1, len(names))
    for index, mode in enumerate(names):
        gains = [part["modes"][mode]["psnr_gain_last"] for part in by_gap.values()]
        means = [gain.mean for gain in gains]
        errors = [[gain.mean - gain.low for gain in gains], [gain.high - gain.mean for gain in gains]]
        axes.bar(
            [i + index * width for i in range(len(gains))],
            means,
            width,
            yerr=errors,
            label=mode,
            error_kw={"lw": 0.6},
        )
    axes.axhline(0, color="#444", linewidth=0.6)
    axes.set_xticks([i + 0.4 - width / 2 for i in range(len(by_gap))], list(by_gap))
    axes.set(xlabel="gap, in recent contexts", ylabel="gain over memory off, last 4 (dB)", title="By gap")
    axes.legend(frameon=False, fontsize=7, ncols=2)


def _recall(axes: "Axes", modes: Mapping[str, Any]) -> None:
    first = next(iter(modes.values()))
    ks = sorted(int(name.removeprefix("coverage@")) for name in first if name.startswith("coverage@"))
    for mode, figures in modes.items():
        axes.plot(ks, [figures[f"coverage@{k}"].mean for k in ks], marker="o", markersize=3, label=mode)
    axes.set_xticks(ks)
    axes.set(
        xlabel="recalled frames",
        ylabel="share of the view's old pixels",
        title="Recall alone",
        ylim=(0, 1.02),
    )
    axes.legend(frameon=False, fontsize=7)
