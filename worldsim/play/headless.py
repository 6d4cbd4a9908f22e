"""Playing without a window: a walk of given length, written as a video."""

import sys
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from worldsim.play.recording import Recording
from worldsim.play.route import make_route
from worldsim.play.simulation import SimulationMaker
from worldsim.video import VideoSettings, VideoWriter


@dataclass(frozen=True, kw_only=True)
class HeadlessSettings:
    """frames: length of the video; out: .mp4 or .gif; frames_per_s: its speed; scale: its pixels a pixel."""

    frames: int
    out: Path
    seed: int = 0
    frames_per_s: float = 8.75
    scale: int = 4


def play_headless(
    make: SimulationMaker, settings: HeadlessSettings, recording: Recording | None = None
) -> None:
    """Walks a route through the world of a seed and writes exactly `settings.frames` frames of it.

    The first frame is the one the walk starts from. Ctrl-C leaves a complete recording and no video.
    """
    video_settings = VideoSettings(frames_per_s=settings.frames_per_s, scale=settings.scale)
    with ExitStack() as stack:
        video = stack.enter_context(VideoWriter(settings.out, video_settings))
        simulation = stack.enter_context(closing(make()))
        route = stack.enter_context(closing(make_route(simulation.action_space, settings.seed)))
        if recording is not None:
            stack.enter_context(closing(recording))
        bar = stack.enter_context(
            tqdm(total=settings.frames, unit="frame", desc=settings.out.name, file=sys.stderr)
        )
        moment = simulation.reset(settings.seed)
        if recording is not None:
            recording.begin(simulation, settings.seed, moment)
        frames_u8 = moment.frames_u8[-1:]
        while True:
            for frame_u8 in frames_u8[: settings.frames - video.frame_count]:
                video.append(frame_u8)
                bar.update()
            if video.frame_count == settings.frames:
                return
            actions = np.stack([route.next() for _ in range(simulation.section_length)])
            moment = simulation.step(actions)
            frames_u8 = moment.frames_u8
            if recording is not None:
                recording.append(actions, moment)
