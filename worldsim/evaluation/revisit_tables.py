"""Rows of a revisit evaluation -> figures with intervals -> a page."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import Int

from worldsim.evaluation.bootstrap import Interval, cluster_bootstrap, ratio_bootstrap, recovery
from worldsim.evaluation.reports import markdown_table, number, with_interval

LAST = 4
"""The last frames of a rollout, where most of the view is new and memory counts most."""
GAPS = ((0, 1), (1, 4), (4, 16), (16, None))
"""Gaps since a view was last seen, in units of the recent context."""
MEASURES = {"psnr": ("PSNR dB", 2, 1.0), "ssim": ("SSIM", 3, 1.0), "lpips": ("LPIPS", 3, -1.0)}
"""Title, digits and the sign of better of what frames are compared by; LPIPS only where its weights were given."""
BASELINES = ("copy last frame", "copy best recalled", "autoencoder")


def summarise(rows: Sequence[dict], recent: int, seed: int) -> dict:
    """Figures of the revisits, of the controls, and of the revisits by gap."""
    revisits = [row for row in rows if row["gap"] >= 0]
    controls = [row for row in rows if row["gap"] < 0]
    gaps = {}
    for low, high in GAPS:
        inside = [
            row
            for row in revisits
            if row["gap"] > low * recent and (high is None or row["gap"] <= high * recent)
        ]
        if inside:
            name = f"≤{high}x" if not low else f"{low}–{high}x" if high else f">{low}x"
            gaps[name] = table(inside, seed)
    kinds = sorted({kind for row in revisits if (kind := row.get("kind"))})
    return {
        "revisits": table(revisits, seed),
        "controls": table(controls, seed) if controls else None,
        "by_gap": gaps,
        "by_kind": {
            kind: table([row for row in revisits if row.get("kind") == kind], seed) for kind in kinds
        },
    }


def table(rows: Sequence[dict], seed: int) -> dict:
    """Figures of every mode over the same starts."""
    by_mode: dict[str, list[dict]] = {}
    for row in rows:
        by_mode.setdefault(row["mode"], []).append(row)
    maps = np.array([row["map_seed"] for row in by_mode["off"]])
    return {
        "starts": len({(row["episode"], row["step"]) for row in by_mode["off"]}),
        "maps": len(np.unique(maps)),
        "modes": {mode: _figures(each, by_mode, maps, seed) for mode, each in by_mode.items()},
    }


def _array(rows: Sequence[dict], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows], dtype=np.float64)


def _figures(rows: Sequence[dict], by_mode: dict[str, list[dict]], maps: np.ndarray, seed: int) -> dict:
    def mean(values: np.ndarray) -> Interval:
        return cluster_bootstrap(values, maps, np.random.default_rng(seed))

    figures: dict[str, object] = {}
    for name, (_, _, better) in MEASURES.items():
        if name not in rows[0]:
            continue
        values, off = _array(rows, name), _array(by_mode["off"], name)
        figures[name] = mean(values.mean(axis=1))
        figures[f"{name}_last"] = mean(values[:, -LAST:].mean(axis=1))
        figures[f"{name}_gain"] = mean(better * (values - off).mean(axis=1))
        figures[f"{name}_gain_last"] = mean(better * (values - off)[:, -LAST:].mean(axis=1))
        figures[f"{name}_by_frame"] = values.mean(axis=0).tolist()
    figures["sharpness_ratio"] = ratio_bootstrap(
        _array(rows, "sharpness").mean(axis=1),
        _array(rows, "truth_sharpness").mean(axis=1),
        maps,
        np.random.default_rng(seed),
    )
    if "oracle" in by_mode:
        for name, sign in (("ssim", -1.0), ("mse", 1.0)):
            off, mode, oracle = (
                sign * _array(each, name)[:, -LAST:].mean(axis=1)
                for each in (by_mode["off"], rows, by_mode["oracle"])
            )
            figures[f"recovery_{name}"] = recovery(off, mode, oracle, maps, np.random.default_rng(seed))
    if "hits" in rows[0]:
        hits = [hit for row in rows for hit in row["hits"] if hit is not None]
        figures["recall_hit_rate"] = float(np.mean(hits)) if hits else None
    for part in ("psnr_seen", "psnr_unseen"):
        if part in rows[0]:
            figures[f"{part}_last"] = _mean_where_told([row[part][-LAST:] for row in rows], maps, seed)
    pairs = np.array([row["twins"] for row in rows if "twins" in row]).reshape(-1, 2)
    if len(pairs):
        # Of a start's frames from either twin the share from the right one; starts that recalled neither do not count.
        share = [float(right / (right + wrong)) for right, wrong in pairs if right + wrong]
        figures["twins_told_apart"] = float(np.mean(share)) if share else None
    return figures


def _mean_where_told(
    values: Sequence[Sequence[float | None]], maps: Int[np.ndarray, " starts"], seed: int
) -> Interval | None:
    """Mean over frames and starts that tell a value; None where none does."""
    told = [[value for value in row if value is not None] for row in values]
    means = np.array([float(np.mean(each)) if each else np.nan for each in told])
    there = ~np.isnan(means)
    if not there.any():
        return None
    return cluster_bootstrap(means[there], maps[there], np.random.default_rng(seed))


def revisit_page(summary: dict, strips: Sequence[Path]) -> str:
    """The Markdown page: tables, then the film strips."""
    revisits = summary["revisits"]
    settings = summary["settings"]
    parts = [
        "# Revisits",
        f"{revisits['starts']} starts on {revisits['maps']} held-out maps, {settings['horizon']} frames each on the "
        f"recorded actions after true history, {settings['sampler']}. Same weights and same "
        f"noise in every row; only memory differs. Recent context: {summary['recent_frames']} frames. "
        f"Revisits by true pose: {settings['thresholds']}. Intervals: 95 %, bootstrap over maps.",
        *part_tables(summary, "##"),
    ]
    if strips:
        parts += ["## Film strips", *(f"![{path.stem}]({path.name})" for path in strips)]
    return "\n\n".join(parts) + "\n"


def part_tables(summary: dict, heading: str) -> list[str]:
    """Tables of all revisits, by gap, by kind, by pixels, of twins and of the controls, each with what it says."""
    revisits = summary["revisits"]
    parts = [
        _mode_table(revisits),
        "Gain is over *off*, paired by start. Recovery = (off − mode) / (off − oracle) in 1 − SSIM of the last "
        f"{LAST} frames. Recall hit: share of frames made for which a recalled frame sees the same view. The oracle "
        "recalls by true pose. PSNR prefers blur: read it beside sharpness (1 = as sharp as the truth)."
        + (" LPIPS: less is nearer, its gain is off − mode." if "lpips" in revisits["modes"]["off"] else ""),
    ]
    if summary["by_gap"]:
        parts += [
            f"{heading} By gap since the view was last seen, in recent contexts",
            _part_table("gap", summary["by_gap"]),
        ]
    if summary["by_kind"]:
        parts += [f"{heading} By kind of route", _part_table("route", summary["by_kind"])]
    if "psnr_seen_last" in revisits["modes"]["off"]:
        parts += [
            f"{heading} Pixels that history has shown, and those that it has not: PSNR of the last {LAST}",
            _pixel_table(summary),
        ]
    if "twins" in summary["by_kind"]:
        modes = summary["by_kind"]["twins"]["modes"]
        told = {
            mode: each["twins_told_apart"]
            for mode, each in modes.items()
            if each.get("twins_told_apart") is not None
        }
        lines = [(mode, number(share)) for mode, share in told.items()]
        parts += [
            "Twins told apart: of the true frames recalled from either of two rooms that look the same, the share from the "
            "right one (chance: 0.5).",
            markdown_table(("memory", "right twin"), lines),
        ]
    if summary["controls"]:
        controls = summary["controls"]
        parts += [
            f"{heading} Controls: views never seen before",
            f"{controls['starts']} starts on {controls['maps']} maps. Memory must do no harm here.",
            _mode_table(controls),
        ]
    return parts


def _mode_table(figures: dict) -> str:
    shown = {name: each for name, each in MEASURES.items() if name in figures["modes"]["off"]}
    titles = [(title, f"last {LAST}", f"gain, last {LAST}") for title, _, _ in shown.values()]
    header = ("memory", *chain(*titles), "recovery", "sharpness ratio", "recall hit")
    lines = []
    for mode, each in figures["modes"].items():
        gain = mode not in ("off", *BASELINES)
        cells = [mode]
        for name, (_, digits, _) in shown.items():
            cells += [with_interval(each[name], digits), with_interval(each[f"{name}_last"], digits)]
            cells.append(with_interval(each[f"{name}_gain_last"], digits, signed=True) if gain else "")
        cells += [
            with_interval(each["recovery_ssim"]) if gain and "recovery_ssim" in each else "",
            number(each["sharpness_ratio"].mean),
            number(each["recall_hit_rate"])
            if mode != "off" and each.get("recall_hit_rate") is not None
            else "",
        ]
        lines.append(cells)
    return markdown_table(header, lines)


def _part_table(name: str, parts: dict) -> str:
    """Gains over no memory in each part of the starts."""
    modes = [mode for mode in next(iter(parts.values()))["modes"] if mode not in BASELINES]
    lines = []
    for part, figures in parts.items():
        cells = [
            with_interval(figures["modes"][mode]["psnr_gain_last"], signed=True)
            for mode in modes
            if mode != "off"
        ]
        lines.append(
            (part, str(figures["starts"]), number(figures["modes"]["off"]["psnr_last"].mean), *cells)
        )
    header = (
        name,
        "starts",
        f"off: PSNR, last {LAST}",
        *(f"{mode}: gain" for mode in modes if mode != "off"),
    )
    return markdown_table(header, lines)


def _pixel_table(summary: dict) -> str:
    """Both kinds of pixels, at revisits and at views never seen before."""
    sets = [summary[name] for name in ("revisits", "controls") if summary[name]]
    lines = []
    for mode in sets[0]["modes"]:
        figures = [
            each["modes"][mode].get(f"psnr_{part}_last") for each in sets for part in ("seen", "unseen")
        ]
        lines.append((mode, *(with_interval(each) if each else "–" for each in figures)))
    header = ["memory", "revisits: seen", "not seen", "controls: seen", "not seen"]
    return markdown_table(header[: 1 + 2 * len(sets)], lines)
