"""`worldsim walk`: a long way away through an imagined world and back, with and without memory: is it the same place?"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from tqdm import tqdm

from envs.rambler import Phase, Rambler, RamblerSettings
from retrieval.place import place_keys, place_queries
from worldsim.checkpoint import WorldModels
from worldsim.evaluation import metrics
from worldsim.memory_pair import FilmSettings, MemoryPair, Moment
from worldsim.panel import BACKGROUND, FAINT, MARGIN, WORDS, Panel
from worldsim.recall import PLACE
from worldsim.video import VideoSettings, VideoWriter, film_strip, write_png

LARGE, SMALL = 4, 2
"""Pixels a pixel, of the world with memory and of the one without."""
PLAN = 104
"""Pixels of the plan's sides."""
NARROWEST = 500.0
"""Map units that the plan shows at least: two rooms."""
PATH, PLAYER = (120, 140, 170), (250, 200, 60)
CRF = 30
"""H.264's quality, 0 (lossless) to 51: a long film is to stay small."""
LAST = 8
"""Frames of the return that are compared, its last."""


@dataclass(frozen=True, kw_only=True)
class WalkFilmSettings(FilmSettings):
    """A scripted player goes by the poses that the world with memory estimates; both worlds get its actions."""

    walk: RamblerSettings = field(default_factory=RamblerSettings)
    """How long the player is away."""


@dataclass(frozen=True)
class Shown:
    """One frame of the film: what was seen, and what the player was about."""

    moment: Moment
    phase: Phase


def walk(models: WorldModels, settings: WalkFilmSettings) -> Iterator[Shown]:
    """The player's walk in both worlds, the opening's last frame first. ValueError for actions that it does not know."""
    space = models.action_space
    if (space.names, space.sizes) != (("move", "turn", "strafe"), (3, 3, 3)):
        raise ValueError(
            f"the checkpoint's actions {space.names} of {space.sizes} choices are not the maze's move, turn, strafe of "
            "three each; the walk needs those"
        )
    pair, player = MemoryPair(models, settings.seed), Rambler(settings.walk)
    moment = pair.first
    yield Shown(moment, player.phase)
    with tqdm(desc="walk", unit="step") as progress:
        while True:
            action = player.act(moment.pose, moment.hybrid_u8)
            if player.done:
                return
            progress.set_postfix_str(player.phase, refresh=False)
            for moment in pair.step(np.repeat(action[None], models.schedule.section, axis=0)):
                yield Shown(moment, player.phase)
            progress.update()


def paint(
    shown: Shown, path: Sequence[Float32[np.ndarray, "3"]], slots: int
) -> UInt8[np.ndarray, "rows cols 3"]:
    """One picture: memory large, with the plan; none small at the right, and below it what memory recalled."""
    moment = shown.moment
    height, width = moment.off_u8.shape[:2]
    left, columns = width * LARGE, max(1, math.ceil(math.sqrt(slots)))
    picture = Panel(left + width * SMALL, height * LARGE + 2 * MARGIN)
    picture.view(moment.hybrid_u8, (0, 0), LARGE, "with memory")
    picture.view(moment.off_u8, (left, 0), SMALL, "without memory, same actions")
    below = height * SMALL + MARGIN
    picture.words((left + 6, below + 2), "recalled, best first; steps ago")
    picture.small(
        moment.recalled_u8, (left, below + MARGIN), (width * SMALL // columns, height * SMALL // columns),
        columns, [f"{age}" for age in moment.ages],
    )  # fmt: skip
    picture.words((6, height * LARGE + MARGIN + 2), f"step {len(path) - 1}: {shown.phase}", WORDS)
    paint_plan(picture, path, (left - PLAN - 4, MARGIN + 4))
    return picture.pixels()


def paint_plan(picture: Panel, path: Sequence[Float32[np.ndarray, "3"]], corner: tuple[int, int]) -> None:
    """The way so far as the world estimates it; up is where the player looked at first."""
    places = np.stack(path)[:, :2].astype(float)
    low, high = places.min(0), places.max(0)
    scale = (PLAN - 20) / max(NARROWEST, float((high - low).max()))

    def pixel(x: float, y: float) -> tuple[float, float]:
        forward, aside = (np.array((x, y)) - (low + high) / 2) * scale
        return corner[0] + PLAN / 2 - aside, corner[1] + PLAN / 2 - forward

    picture.draw.rectangle(
        (*corner, corner[0] + PLAN - 1, corner[1] + PLAN - 1), fill=BACKGROUND, outline=FAINT
    )
    if len(path) > 1:
        picture.draw.line([pixel(*place) for place in places], fill=PATH, width=2)
    x, y = pixel(*places[0])
    picture.draw.ellipse((x - 4, y - 4, x + 4, y + 4), outline=WORDS)
    (x, y), yaw = pixel(*places[-1]), math.radians(float(path[-1][2]))
    picture.draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=PLAYER)
    picture.draw.line((x, y, x - 10 * math.sin(yaw), y - 10 * math.cos(yaw)), fill=PLAYER, width=2)


def strip(film: Sequence[Shown]) -> list[int]:
    """Numbers of the frames of the film strip: first views, the way, the return."""
    bounds = {
        phase: [i for i, shown in enumerate(film) if shown.phase == phase]
        for phase in {s.phase for s in film}
    }
    chosen = [(bounds["look round"], share) for share in (0.0, 0.4, 0.7)]
    chosen += [(bounds["walk away"], share) for share in (0.35, 0.7, 1.0)]
    chosen += [(bounds["walk back"], 0.5), (bounds["stand"], 1.0)]
    return [numbers[round(share * (len(numbers) - 1))] for numbers, share in chosen]


def describe_return(film: Sequence[Shown]) -> str:
    """How near the player came to where it set out, and whether its views are those of the first look-around.

    The last frames are compared with the frames of the look-around that were seen from nearest, as the world with
    memory estimates; each world with its own.
    """
    poses = torch.from_numpy(np.stack([shown.moment.pose for shown in film]))
    round_about = [i for i, shown in enumerate(film) if shown.phase == "look round"]
    back = list(range(len(film) - LAST, len(film)))
    nearness = place_queries(poses[back], PLACE) @ place_keys(poses[round_about], PLACE).T
    first = [round_about[i] for i in nearness.argmax(1).tolist()]
    figures = []
    for name, frames in (
        ("with memory", [shown.moment.hybrid_u8 for shown in film]),
        ("without", [shown.moment.off_u8 for shown in film]),
    ):
        made, aim = (torch.from_numpy(np.stack([frames[i] for i in numbers])) for numbers in (back, first))
        psnr, ssim = metrics.psnr(made, aim).mean(), metrics.ssim(made, aim).mean()
        figures.append(f"{name} {psnr:.2f} dB, SSIM {ssim:.3f}")
    away = (poses[:, :2] - poses[0, :2]).norm(dim=1)
    return (
        f"{len(film) - 1} steps, at most {away.max():.0f} units away; back at {away[-1]:.0f} units from the start; "
        f"last {LAST} views against the first look-around: {'; '.join(figures)}"
    )


def run_walk(settings: WalkFilmSettings) -> None:
    """Write the video and the film strip, and tell how the place that was come back to compares."""
    models = settings.load_models()
    film: list[Shown] = []
    with VideoWriter(settings.out, VideoSettings(frames_per_s=12.0, scale=1, crf=CRF)) as video:
        for shown in walk(models, settings):
            film.append(shown)
            video.append(paint(shown, [each.moment.pose for each in film], models.schedule.recalled.frames))
    numbers = strip(film)
    labels = ", ".join(str(number) for number in numbers)
    rows = [
        ("without memory, same actions, weights and noise", [film[i].moment.off_u8 for i in numbers]),
        (
            f"with memory; steps {labels}: first views, the way away and back, the return",
            [film[i].moment.hybrid_u8 for i in numbers],
        ),
    ]
    write_png(settings.out.with_suffix(".png"), film_strip(rows).quantize(256))
    print(f"seed {settings.seed}: {describe_return(film)}")
    print(f"wrote {settings.out} and {settings.out.with_suffix('.png')}")
