"""The table of an ablation, as HTML with film strips, Markdown and JSON."""

import base64
import html
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worldsim.ablation.suites import Variant
from worldsim.evaluation.elo import choices_by_distance, elo_ratings, ranks
from worldsim.evaluation.reports import markdown_table, number, write_json, write_text

DRIFTING = ("sharpness", "contrast", "colourfulness")
HEADER = (
    "variant", "what it is", "tokens", "parameters", "ms a frame", "Δ sharpness %", "Δ contrast %", "Δ colour %",
    "sharpness at the end", "features at the end",
    "turns, moves as told at the end", "collapsed", "ELO (place)", "revisits, mean / last 4 dB", "over no memory",
)  # fmt: skip
STYLE = """body{font-family:sans-serif;margin:2em;max-width:120em} table{border-collapse:collapse}
td,th{border:1px solid #ccc;padding:.3em .6em;text-align:right} td:nth-child(-n+2),th:nth-child(-n+2){text-align:left}
img{max-width:100%} p{max-width:60em}"""


def write_tables(
    out: Path, variants: Sequence[Variant], budget: dict[str, str], failures: dict[str, str]
) -> list[dict[str, Any]]:
    """Write ablation.json, .md and .html of what has been judged so far; returns the rows."""
    rows = []
    for variant in variants:
        judged = all(path.exists() for path in variant.reports(out))
        rows.append(row_of(variant, out) if judged else {"name": variant.name, "says": variant.says})
    rate(rows)
    for row in rows:
        row["failure"] = failures.get(row["name"], "")
    write_json(out / "ablation.json", {"budget": budget, "rows": rows})
    cells = [cells_of(row) for row in rows]
    notes = notes_of(rows, budget)
    write_text(out / "ablation.md", "\n\n".join(["# Ablation", markdown_table(HEADER, cells), *notes]) + "\n")
    write_text(
        out / "ablation.html", page(cells, notes, [(each.name, each.folder(out)) for each in variants])
    )
    return rows


def row_of(variant: Variant, out: Path) -> dict[str, Any]:
    """Figures of one variant from its evaluations."""
    drift, revisits = (json.loads(path.read_text(encoding="utf-8")) for path in variant.reports(out))
    modes = {each: revisits["revisits"]["modes"][each] for each in dict.fromkeys(("off", variant.memory))}
    metrics = drift["metrics"]
    return {
        "name": variant.name,
        "says": variant.says,
        **drift["model"],
        "train": list(variant.train),
        "play": list(variant.play),
        "guidance": variant.guidance,
        "memory": variant.memory,
        "ms_a_frame": 1000 * drift["seconds_a_frame"],
        "drift": {name: metrics[name]["model"]["drift"]["mean"] / metrics[name]["real"]["first"] for name in DRIFTING},
        "real_drift": {name: metrics[name]["real"]["drift"]["mean"] / metrics[name]["real"]["first"] for name in DRIFTING},
        "sharpness_at_the_end": metrics["sharpness"]["model"]["ratio_to_real_last"],
        "features_at_the_end": drift["features"]["model"]["last"],
        "as_told": {
            name: drift["action_fidelity"][name]["model"]["last"]["mean"] for name in ("turns", "moves")
        } if "action_fidelity" in drift else {},
        "collapsed": drift["collapsed"]["model"],
        "rollouts": drift["rollouts"],
        "distances": distances(drift["by_rollout"]),
        "revisits": modes,
    }  # fmt: skip


def distances(by_rollout: dict[str, dict[str, dict[str, list[float]]]]) -> list[float]:
    """How far each rollout's last part is from real play's: mean |ln ratio| of what may drift."""
    parts = []
    for name in DRIFTING:
        made, real = (by_rollout[name][source]["last"] for source in ("model", "real"))
        parts.append([abs(math.log(max(a, 1e-9) / max(b, 1e-9))) for a, b in zip(made, real, strict=True)])
    return [sum(each) / len(parts) for each in zip(*parts, strict=True)]


def rate(rows: list[dict[str, Any]]) -> None:
    """ELO of the judged rows, from which of two rollouts of the same start ends nearer to real play."""
    judged = {row["name"]: row["distances"] for row in rows if "distances" in row}
    if len(judged) < 2:
        return
    ratings = elo_ratings(choices_by_distance(judged), judged)
    places = ranks(ratings)
    for row in rows:
        if row["name"] in ratings:
            row["elo"], row["place"] = ratings[row["name"]], places[row["name"]]


def cells_of(row: dict[str, Any]) -> list[str]:
    """One line of the table; dashes where a variant has not been judged."""
    if "drift" not in row:
        return [row["name"], row["failure"] or row["says"], *["–"] * (len(HEADER) - 2)]
    memory = row["revisits"][row["memory"]]
    gain = number(memory["psnr_gain_last"]["mean"], signed=True) if row["memory"] != "off" else "–"
    rating = f"{row['elo']:.0f} ({row['place']})" if "elo" in row else "–"
    return [
        row["name"], row["says"], str(row["tokens"]), f"{row['parameters'] / 1e6:.1f} M", number(row["ms_a_frame"], 1),
        *(number(100 * row["drift"][name], 1) for name in DRIFTING), number(row["sharpness_at_the_end"]["mean"]),
        number(row["features_at_the_end"]), ", ".join(number(each) for each in row["as_told"].values()) or "–",
        f"{row['collapsed']} of {row['rollouts']}", rating,
        f"{number(memory['psnr']['mean'])} / {number(memory['psnr_last']['mean'])}", gain,
    ]  # fmt: skip


def notes_of(rows: Sequence[dict[str, Any]], budget: dict[str, str]) -> list[str]:
    """How the figures came to be."""
    judged = [row for row in rows if "drift" in row]
    floor = ""
    if judged:
        parts = [f"{name} {100 * judged[0]['real_drift'][name]:.1f}" for name in DRIFTING]
        floor = f" Real play on the same steps: {', '.join(parts)} %."
    return [
        f"Each training: {budget['steps']} steps, `{budget['train']}`, on {budget['data']}; judged on "
        f"{budget['held_out']}: {budget['rollouts']} free rollouts of {budget['frames']} frames, "
        f"{budget['starts']} revisits of 16 frames.",
        "Δ: |first 15 % − last 15 %| of a rollout, mean over rollouts, in percent of real play's first 15 %."
        + floor,
        "ELO: of two rollouts of one start that is chosen whose sharpness, contrast and colourfulness end nearer to real "
        "play's (mean |ln ratio|); K = 32, mean over 200 orders, places shared within 16 points.",
        "Features: Fréchet distance of the last 15 % of all rollouts to real play, in the autoencoder's latents. As told: "
        "share of steps, judged by a network trained on real play.",
        "Milliseconds a frame are of all rollouts in one batch. Commands: the `train.log` and `judge.log` of each variant.",
    ]


def page(cells: Sequence[Sequence[str]], notes: Sequence[str], shown: Sequence[tuple[str, Path]]) -> str:
    """The HTML page, film strips inside."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in HEADER)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in cells
    )
    parts = [
        f"<!doctype html><meta charset='utf-8'><title>Ablation</title><style>{STYLE}</style><h1>Ablation</h1>"
    ]
    parts.append(f"<table><tr>{head}</tr>{body}</table>")
    parts += [f"<p>{html.escape(note)}</p>" for note in notes]
    for name, folder in shown:
        strips = [
            *sorted((folder / "drift").glob("drift_*_of_*.png")),
            *sorted((folder / "revisits").glob("*.png")),
        ]
        if strips:
            parts.append(f"<h2>{html.escape(name)}</h2>")
        for path in strips:
            data = base64.b64encode(path.read_bytes()).decode()
            parts.append(f"<p>{html.escape(path.stem)}<br><img src='data:image/png;base64,{data}'></p>")
    return "\n".join(parts) + "\n"
