"""The benchmark's pages: tables in Markdown, the same with plots and film strips as one HTML file."""

import base64
import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import markdown

from worldsim.benchmark.plots import write_plots
from worldsim.evaluation.reports import markdown_table, number, with_interval, write_text
from worldsim.evaluation.revisit_tables import LAST, part_tables

STYLE = """body{font-family:sans-serif;margin:2em auto;max-width:90em;padding:0 1em;color:#222;line-height:1.45}
table{border-collapse:collapse;margin:1em 0;font-size:.9em} td,th{border:1px solid #ccc;padding:.3em .6em;text-align:right}
td:first-child,th:first-child{text-align:left} img{max-width:100%;image-rendering:pixelated} p{max-width:62em}"""


def write_pages(out: Path, summary: Mapping[str, Any]) -> None:
    """Write benchmark.md, its plots and benchmark.html, of the summary."""
    plots = write_plots(out, summary)
    strips = [
        *sorted((out / "true_history").glob("revisit_*.png")),
        *sorted((out / "own_history").glob("own_*.png")),
    ]
    text = benchmark_page(summary, [path.relative_to(out) for path in (*plots, *strips)])
    write_text(out / "benchmark.md", text)
    write_text(out / "benchmark.html", to_html("Revisit benchmark", text, out))


def to_html(title: str, text: str, folder: Path) -> str:
    """A page of Markdown as HTML, its pictures inside."""

    def inlined(found: re.Match[str]) -> str:
        data = base64.b64encode((folder / html.unescape(found[1])).read_bytes()).decode()
        return f'src="data:image/png;base64,{data}"'

    body = re.sub(r'src="([^"]+\.png)"', inlined, markdown.markdown(text, extensions=["tables"]))
    head = f"<!doctype html><meta charset='utf-8'><title>{html.escape(title)}</title><style>{STYLE}</style>"
    return f"{head}\n{body}\n"


def benchmark_page(summary: Mapping[str, Any], pictures: Sequence[Path]) -> str:
    """All tables, then the pictures."""
    settings, true = summary["settings"], summary["true_history"]
    routes = ", ".join(f"{count} {kind}" for kind, count in summary["routes"].items())
    parts = [
        "# Revisit benchmark",
        f"{routes}: routes on {summary['maps']} held-out maps, each replayed exactly in the game before it counts. "
        f"{settings['horizon']} frames from each start, drawn {settings['samples']} times, {settings['sampler']}, on "
        f"{summary['hardware']}. Recent context: {summary['recent_frames']} frames. Intervals: 95 %, bootstrap over maps, "
        "paired by start.",
        "## In short",
        markdown_table(("what", "figure"), headline(summary)),
        "## True history: the model makes the return",
        *part_tables(true, "###"),
        "## Recall alone",
        *recall_parts(summary["recall"]),
        *latency_parts(summary["latency"]),
        "## Own history: the model makes the first visit, the way and the return",
        *own_parts(summary["own_history"]),
        "## Pictures",
        *(f"![{path.stem}]({path.as_posix()})" for path in pictures),
    ]
    return "\n\n".join(parts) + "\n"


def headline(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a reader looks for first, of recall as it plays."""
    revisits, controls = summary["true_history"]["revisits"]["modes"], summary["true_history"]["controls"]
    mode = "hybrid"
    ours = revisits[mode]
    rows = [
        (f"{mode}: PSNR of the last {LAST} frames, dB", with_interval(ours["psnr_last"])),
        ("… over memory off", with_interval(ours["psnr_gain_last"], signed=True)),
    ]
    if "recovery_ssim" in ours:
        rows.append(("recovery, true history (1 − SSIM)", with_interval(ours["recovery_ssim"])))
        rows.append(("recovery, true history (squared error)", with_interval(ours["recovery_mse"])))
    own = summary["own_history"]
    if own is not None and mode in own["modes"]:
        figures = own["modes"][mode]
        rows.append(("recovery, own history (1 − SSIM)", with_interval(figures["recovery_ssim"])))
        rows.append(("recovery, own history (squared error)", with_interval(figures["recovery_mse"])))
    for name, part in summary["recall"].items():
        ks = sorted(
            int(each.removeprefix("of_oracle@"))
            for each in part["modes"][mode]
            if each.startswith("of_oracle@")
        )
        if ks:
            k = 4 if 4 in ks else ks[-1]
            rows.append(
                (
                    f"recall@{k} of the oracle's, gaps {name}",
                    with_interval(part["modes"][mode][f"of_oracle@{k}"]),
                )
            )
    twins = summary["true_history"]["by_kind"].get("twins")
    if twins and twins["modes"][mode].get("twins_told_apart") is not None:
        rows.append(("twins told apart", number(twins["modes"][mode]["twins_told_apart"])))
    if controls:
        rows.append(
            (
                f"never visited: {mode} over off, last {LAST}, dB",
                with_interval(controls["modes"][mode]["psnr_gain_last"], signed=True),
            )
        )
    return rows


def recall_parts(recall: Mapping[str, Any]) -> list[str]:
    """A table for all gaps and one for long ones."""
    parts = [
        "What the k best recalled frames show of the coming view, by the game's depth and poses, after true history. A "
        "frame shows the view if it shows half of its pixels. Recall@k: of the frames there are to find, at most k, how "
        "many the k best are; precision@k: how many of the k best show it; coverage@k: pixels that they show together, of "
        "those that all old frames do; of oracle: recall@k over that of recall by true pose."
    ]
    for name, part in recall.items():
        modes = part["modes"]
        ks = sorted({int(each.split("@")[1]) for each in next(iter(modes.values()))})
        header = ["memory"]
        for k in ks:
            header += [f"recall@{k}", f"coverage@{k}"]
        k = 4 if 4 in ks else ks[-1]
        rows = []
        for mode, figures in modes.items():
            cells = [number(figures[f"{what}@{k}"].mean) for k in ks for what in ("recall", "coverage")]
            cells += [number(figures[f"precision@{k}"].mean), with_interval(figures[f"of_oracle@{k}"])]
            rows.append((mode, *cells))
        parts += [
            f"Gaps {name}, {part['questions']} questions:",
            markdown_table((*header, f"precision@{k}", f"recall@{k} of oracle"), rows),
        ]
    return parts


def latency_parts(latency: Mapping[str, Any] | None) -> list[str]:
    """The table of how long a recall takes; nothing for models that cannot be played."""
    if latency is None:
        return []
    names = ("search_p50_ms", "search_p95_ms", "recall_p50_ms", "step_p50_ms")
    rows = [
        (f"{row['frames']:,}", *(number(row[name]) for name in names), f"{row['share']:.1%}")
        for row in latency["rows"]
    ]
    header = (
        "frames in memory",
        "search, p50 ms",
        "p95 ms",
        "recall, p50 ms",
        "step, p50 ms",
        "recall of step",
    )
    return [
        f"How long it takes, of {latency['queries']} searches by hybrid score on {latency['processor']} and of "
        f"{latency['steps']} steps of one world on {latency['device']}, {latency['threads']} threads. Recall is the "
        "search, what foresees the coming view, and what registers the frames that were found.",
        markdown_table(header, rows),
    ]


def own_parts(own: Mapping[str, Any] | None) -> list[str]:
    """The table of own histories."""
    if own is None:
        return ["No route came back to its very view soon enough."]
    first = next(iter(own["modes"].values()))
    told, lpips = "turns" in first, "own_lpips" in first
    header = (
        "memory", "PSNR to own first visit", "over off", "SSIM", *(("LPIPS",) if lpips else ()),
        "recovery (1 − SSIM)", "recovery (sq. error)", "PSNR to the game", "sharpness",
        *(("turns as told", "moves as told") if told else ()),
    )  # fmt: skip
    rows = []
    for mode, figures in own["modes"].items():
        each = figures
        rows.append(
            (mode, with_interval(each["own_psnr"]), with_interval(each["own_gain"], signed=True) if mode != "off" else "",
             with_interval(each["own_ssim"], 3), *((with_interval(each["own_lpips"], 3),) if lpips else ()),
             with_interval(each["recovery_ssim"]) if mode != "off" else "",
             with_interval(each["recovery_mse"]) if mode != "off" else "", number(each["engine_psnr"].mean),
             number(each["sharpness"].mean),
             *((number(each["turns"].mean), number(each["moves"].mean)) if told else ()))
        )  # fmt: skip
    parts = [
        f"{own['routes']} routes on {own['maps']} maps, {own['frames']:.0f} frames on average, from 16 true frames on the "
        "recorded actions. The return is compared with the world's own first visit, the last 4 frames, which the game sees "
        f"from nearly the same pose: its own return is {number(own['true_psnr'].mean)} dB from its first visit.",
        markdown_table(header, rows),
    ]
    if told:
        turns, moves = (number(first[f"true_{name}"].mean) for name in ("turns", "moves"))
        parts.append(f"Real play on the same steps, by the same judge: turns {turns}, moves {moves}.")
    return parts
