"""`worldsim schedule`: what a schedule string makes of every history frame, as a table and as a picture."""

from collections.abc import Sequence
from pathlib import Path

import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models.schedule import Schedule, Slot

COLOURS = {"first": "#7b5ea7", "recent": "#2b6cb0", "coming": "#2f855a", "last": "#b7791f", "tail": "#718096"}


def show_schedule(
    string: tyro.conf.Positional[str],
    before: int = 40,
    after: int = 0,
    latent_height: int = 12,
    latent_width: int = 16,
    out: Path | None = None,
) -> None:
    """Print what each history frame becomes under a schedule and how many tokens the context has.

    Args:
        string: Schedule in FramePack's notation, e.g. td_f16k4f4k2f2k1_r4k1_g1 (quote it in a shell).
        before: Known frames before the section.
        after: Known frames after it, for planned ends and inverted sampling.
        latent_height: Rows of a latent.
        latent_width: Columns of a latent.
        out: PNG to draw the schedule to; None draws nothing.
    """
    if min(before, after) < 0 or min(latent_height, latent_width) < 1:
        raise ValueError(
            f"{before} frames before, {after} after, latents of {latent_width}x{latent_height}: "
            "frames must be 0 or more, sides 1 or more"
        )
    schedule = Schedule.parse(string)
    slots = schedule.slots(before, after)
    print(table(schedule, slots, latent_height, latent_width))
    if out is not None:
        draw(schedule, slots, before, latent_height, latent_width, out)
        print(f"drawn to {out}")


def tokens_of(slot: Slot, height: int, width: int) -> int:
    """Tokens of one group of frames; an appended or compressed tail is one latent cell."""
    if slot.kernel is None:
        return 0
    return 1 if slot.part == "tail" else slot.kernel.tokens(height, width)


def table(schedule: Schedule, slots: Sequence[Slot], height: int, width: int) -> str:
    """One line for neighbouring frames that share part and kernel, then recalled frames, and the sum."""
    rows: list[tuple[str, ...]] = [("part", "kernel", "frames", "groups", "tokens")]
    runs: list[list[Slot]] = []
    for slot in slots:
        joined = runs and (runs[-1][-1].part, runs[-1][-1].kernel) == (slot.part, slot.kernel)
        if joined and runs[-1][-1].frames[-1] + 1 == slot.frames[0]:
            runs[-1].append(slot)
        else:
            runs.append([slot])
    for run in runs:
        numbers = f"{run[0].frames[0]}–{run[-1].frames[-1]}"
        tokens = sum(tokens_of(slot, height, width) for slot in run)
        rows.append((run[0].part, str(run[0].kernel or "–"), numbers, str(len(run)), str(tokens)))
    recalled = schedule.recalled
    found = recalled.groups * recalled.kernel.tokens(height, width)
    if recalled.frames:
        rows.append(
            ("recalled", str(recalled.kernel), f"any {recalled.frames}", str(recalled.groups), str(found))
        )
    total = found + sum(tokens_of(slot, height, width) for slot in slots)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join([
        f"{schedule}: makes {schedule.section} frames at once", *lines,
        f"context: {total} tokens, {schedule.tokens(height, width)} once all levels are full (tail left out)",
    ])  # fmt: skip


def draw(schedule: Schedule, slots: Sequence[Slot], before: int, height: int, width: int, out: Path) -> None:
    """Every group of frames as a bar along the video: as wide as its frames, as high as its tokens a frame."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    axes: Axes = figure.subplots()
    named: set[tuple[str, str]] = set()
    for slot in slots:
        tokens = tokens_of(slot, height, width) / len(slot.frames)
        name = (slot.part, str(slot.kernel or "dropped"))
        axes.bar(
            slot.frames[0] - 0.45, max(tokens, 0.02), width=len(slot.frames) - 0.1, align="edge",
            color=COLOURS[slot.part], alpha=0.35 if slot.kernel is None else 0.9,
            label=None if slot.part in (part for part, _ in named) else slot.part,
        )  # fmt: skip
        if name not in named:
            named.add(name)
            middle = (slot.frames[0] + slot.frames[-1]) / 2
            place = (middle, 1.3 * max(tokens, 0.02))
            axes.annotate(name[1], place, ha="center", va="bottom", fontsize=8, rotation=90)
    axes.axvspan(before - 0.5, before + schedule.section - 0.5, color="#f6ad55", alpha=0.5)
    axes.annotate("made now", (before + (schedule.section - 1) / 2, 1500), ha="center", va="top", fontsize=8)
    recalled = schedule.recalled
    beside = f", and {recalled.frames} recalled frames through {recalled.kernel}" if recalled.frames else ""
    axes.set(
        yscale="log", ylim=(0.01, 2000), xlabel="frame", ylabel="tokens a frame",
        title=f"{schedule}: {schedule.tokens(height, width)} tokens{beside}",
    )  # fmt: skip
    if slots:
        axes.legend(loc="upper center", ncols=len(COLOURS), fontsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)
