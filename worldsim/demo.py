"""`worldsim demo`: look away, wait, look back, with and without memory: is the place found again?"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt8
from tqdm import tqdm

from worldsim.checkpoint import WorldModels
from worldsim.errors import check_at_least
from worldsim.memory_pair import FilmSettings, MemoryPair, Moment
from worldsim.panel import MARGIN, Panel
from worldsim.video import VideoSettings, VideoWriter, film_strip, write_png

SCALE = 2


@dataclass(frozen=True, kw_only=True)
class DemoSettings(FilmSettings):
    """Two worlds from the same opening, weights and noise; one has its memory switched off."""

    turn_steps: int = 10
    """Steps of turning away, and of turning back; about 14 degrees each."""
    wait_steps: int = 24
    """Steps of standing still between; more than the recent context holds with the turning."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "turn_steps", "wait_steps")


def look_away_and_back(
    models: WorldModels, settings: DemoSettings
) -> list[Int64[np.ndarray, "section factor"]]:
    """Actions of every section: turn left, stand, turn right. ValueError if the actions know no turning."""
    space = models.action_space
    keys = {factor.name: factor.keys for factor in space.factors}
    if "turn" not in keys:
        raise ValueError(f"the checkpoint's actions {space.names} have no 'turn'; the demo needs one")
    left, right = (space.from_keys([keys["turn"][i][0]]) for i in (0, 1))
    order = (
        [left] * settings.turn_steps
        + [space.none] * settings.wait_steps
        + [right] * (settings.turn_steps + 2)
    )
    return [np.repeat(action[None], models.schedule.section, axis=0) for action in order]


def play_both(models: WorldModels, settings: DemoSettings) -> Iterator[Moment]:
    """Both worlds side by side, the opening's last frame first."""
    pair = MemoryPair(models, settings.seed)
    yield pair.first
    for actions in tqdm(look_away_and_back(models, settings), desc="demo", unit="step"):
        yield from pair.step(actions)


def panel(moment: Moment, caption: str, slots: int) -> UInt8[np.ndarray, "rows cols 3"]:
    """One picture: no memory at the left, memory at the right, what memory recalled below."""
    height, width = moment.off_u8.shape[:2]
    thumb = (2 * width * SCALE // max(slots, 4), 2 * height * SCALE // max(slots, 4))
    picture = Panel(2 * width * SCALE, height * SCALE + thumb[1] + 2 * MARGIN)
    picture.view(moment.off_u8, (0, 0), SCALE, f"without memory · {caption}")
    picture.view(moment.hybrid_u8, (width * SCALE, 0), SCALE, "with memory")
    below = height * SCALE + MARGIN
    picture.words((6, below + 2), "recalled, best first")
    picture.small(moment.recalled_u8, (0, below + MARGIN), thumb, columns=max(slots, 4))
    return picture.pixels()


def run_demo(settings: DemoSettings) -> None:
    """Write the video and the film strip."""
    models = settings.load_models()
    turn, wait = settings.turn_steps * models.schedule.section, settings.wait_steps * models.schedule.section
    moments = []
    with VideoWriter(settings.out, VideoSettings(scale=1)) as video:
        for i, moment in enumerate(play_both(models, settings)):
            caption = "look away" if i <= turn else "wait" if i <= turn + wait else "look back"
            video.append(panel(moment, caption, models.schedule.recalled.frames))
            moments.append(moment)
    back = len(moments) - 1 - 2 * models.schedule.section
    shown = [0, turn // 3, 2 * turn // 3, turn, turn + wait // 2, turn + wait]
    shown += [turn + wait + (back - turn - wait) * k // 4 for k in (1, 2, 3, 4)]
    rows = [
        ("without memory: look away, wait, look back", [moments[i].off_u8 for i in shown]),
        ("with memory, same weights and noise", [moments[i].hybrid_u8 for i in shown]),
    ]
    write_png(settings.out.with_suffix(".png"), film_strip(rows))
    print(f"wrote {settings.out} and {settings.out.with_suffix('.png')}")
