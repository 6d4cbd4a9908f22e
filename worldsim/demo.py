"""`worldsim demo`: look away, wait, look back, with and without memory: is the place found again?"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image, ImageDraw
from tqdm import tqdm

from worldsim.checkpoint import WorldModels, default_checkpoint, load_checkpoint
from worldsim.errors import check_at_least
from worldsim.video import VideoSettings, VideoWriter, film_strip, write_png
from worldsim.world import World, WorldSettings

SCALE, MARGIN = 2, 16


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """Two worlds from the same opening, weights and noise; one has its memory switched off."""

    out: Path
    """Video to write (.gif or .mp4); a film strip of the same name, .png, is written beside it."""
    checkpoint: Path | None = None
    """Checkpoint folder; the shipped one if left out."""
    seed: int = 4
    """Chooses the opening and the noise."""
    turn_steps: int = 10
    """Steps of turning away, and of turning back; about 14 degrees each."""
    wait_steps: int = 24
    """Steps of standing still between; more than the recent context holds with the turning."""
    device: str = "auto"
    """auto, cpu, cuda ..."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "turn_steps", "wait_steps")


@dataclass(frozen=True)
class Moment:
    """What both worlds showed at one step."""

    off_u8: UInt8[np.ndarray, "height width 3"]
    hybrid_u8: UInt8[np.ndarray, "height width 3"]
    recalled_u8: tuple[UInt8[np.ndarray, "height width 3"], ...]
    """the frames that memory recalled for it"""


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
    worlds = [World(models, WorldSettings(memory_mode=mode)) for mode in ("off", "hybrid")]
    first = [world.reset(settings.seed)[-1] for world in worlds]
    yield Moment(first[0], first[1], ())
    for actions in tqdm(look_away_and_back(models, settings), desc="demo", unit="step"):
        off, hybrid = (world.step(actions) for world in worlds)
        recalled = tuple(worlds[1].frame_u8(pick.frame) for pick in hybrid.recalled)
        for i in range(len(actions)):
            yield Moment(off.frames_u8[i], hybrid.frames_u8[i], recalled)


def panel(moment: Moment, caption: str, slots: int) -> UInt8[np.ndarray, "rows cols 3"]:
    """One picture: no memory at the left, memory at the right, what memory recalled below."""
    height, width = moment.off_u8.shape[:2]
    thumb = (2 * width * SCALE // max(slots, 4), 2 * height * SCALE // max(slots, 4))
    picture = Image.new("RGB", (2 * width * SCALE, height * SCALE + thumb[1] + 2 * MARGIN), (24, 24, 28))
    draw = ImageDraw.Draw(picture)
    for i, (name, frame) in enumerate((("without memory", moment.off_u8), ("with memory", moment.hybrid_u8))):
        shown = Image.fromarray(frame).resize((width * SCALE, height * SCALE), Image.Resampling.NEAREST)
        picture.paste(shown, (i * width * SCALE, MARGIN))
        draw.text((i * width * SCALE + 6, 2), f"{name} · {caption}" if i == 0 else name, fill=(230, 230, 230))
    below = height * SCALE + MARGIN
    draw.text((6, below + 2), "recalled, best first", fill=(150, 150, 150))
    for i, frame in enumerate(moment.recalled_u8):
        picture.paste(Image.fromarray(frame).resize(thumb), (i * thumb[0], below + MARGIN))
    return np.asarray(picture)


def run_demo(settings: DemoSettings) -> None:
    """Write the video and the film strip."""
    models = load_checkpoint(settings.checkpoint or default_checkpoint(), settings.device)
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
