"""Walk through an imagined world, or through the real engine it was learned from, in a window.

Held keys move you: W/S or up/down walk, A/D step aside, left/right turn. R starts again (Shift+R somewhere
else), P pauses, C takes a screenshot, H hides the panel, Esc quits.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")

import tyro

from worldsim.errors import exit_on_user_error
from worldsim.threads import spin_beside_a_spare_core

if TYPE_CHECKING:
    from worldsim.play.recording import Recording
    from worldsim.play.simulation import Simulation, SimulationMaker


@dataclass(frozen=True, kw_only=True)
class PlaySettings:
    """Which world to play, and how."""

    env: Literal["imagined", "maze"] = "imagined"
    """imagined: the world model makes every frame; maze: the real engine"""
    seed: int = 0
    """chooses the world; Shift+R picks another one"""
    checkpoint: Path | None = None
    """folder of a world model; the one that ships with the package if not given (imagined only)"""
    memory: Literal["off", "random", "cosine", "time", "hybrid"] | None = None
    """how past frames are recalled; hybrid if not given (imagined only)"""
    steps: int | None = None
    """denoising steps a section, fewer are faster; what the checkpoint says if not given (imagined only)"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """where the world model runs"""
    max_fps: float = 8.75
    """frames a second at most; 0 is as fast as it goes"""
    realtime: bool = False
    """let time pass while no key is held; the world waits otherwise"""
    record: Path | None = None
    """folder to record what is played to, as episodes"""
    scaling: Literal["integer", "smooth"] = "integer"
    """integer keeps pixels sharp, smooth fills the window"""
    hud: bool = True
    """show the panel below the view from the start"""
    headless: bool = False
    """without a window: walk a route by itself and write a video; needs --out"""
    frames: int | None = None
    """length of the video (headless only); 200 if not given"""
    out: Path | None = None
    """video to write, .mp4 or .gif (headless only)"""

    def check(self) -> None:
        """ValueError for values out of range and for options that go with something else."""
        for name, value, least in (
            ("seed", self.seed, 0),
            ("steps", self.steps, 1),
            ("frames", self.frames, 1),
        ):
            if value is not None and value < least:
                raise ValueError(f"--{name} {value} is too small; give {least} or more")
        if not 0 <= self.max_fps < 1e6:
            raise ValueError(f"--max-fps {self.max_fps} is not a speed; give 0 (no limit) or more")
        if self.env == "maze":
            given = [name for name in ("checkpoint", "memory", "steps") if getattr(self, name) is not None]
            if given:
                raise ValueError(f"--{given[0]} is for imagined worlds; leave it out with --env maze")
        if self.headless and self.out is None:
            raise ValueError("--headless needs a video to write; add --out walk.mp4")
        if not self.headless and (self.out is not None or self.frames is not None):
            raise ValueError("--out and --frames are for --headless; add it, or leave them out")


def simulation_maker(settings: PlaySettings) -> "SimulationMaker":
    """How to build the world; libraries are imported and weights read only when it is called."""

    def imagined() -> "Simulation":
        from worldsim.checkpoint import default_checkpoint
        from worldsim.play.imagined_simulation import ImaginedSimulation
        from worldsim.world import WorldSettings

        world = WorldSettings(memory_mode=settings.memory or "hybrid", denoising_steps=settings.steps)
        return ImaginedSimulation(settings.checkpoint or default_checkpoint(), settings.device, world)

    def maze() -> "Simulation":
        from worldsim.play.engine_simulation import EngineSimulation

        return EngineSimulation()

    return {"imagined": imagined, "maze": maze}[settings.env]


def play(settings: PlaySettings) -> bool:
    """Plays until the player leaves; False when the world was left computing."""
    from worldsim.play.recording import Recording
    from worldsim.play.session import PlaySession, SessionSettings
    from worldsim.play.window import PlayWindow, WindowSettings, open_display

    open_display()
    recording = None if settings.record is None else Recording(settings.record)
    pace = SessionSettings(seed=settings.seed, max_fps=settings.max_fps, realtime=settings.realtime)
    session = PlaySession(simulation_maker(settings), pace, recording)
    ended = PlayWindow(session, WindowSettings(scaling=settings.scaling, hud=settings.hud)).run()
    report(recording)
    return ended


def play_without_window(settings: PlaySettings) -> None:
    """Walks by itself and writes a video."""
    from worldsim.play.headless import HeadlessSettings, play_headless
    from worldsim.play.recording import Recording

    assert settings.out is not None
    recording = None if settings.record is None else Recording(settings.record)
    walk = HeadlessSettings(frames=settings.frames or 200, out=settings.out, seed=settings.seed)
    play_headless(simulation_maker(settings), walk, recording)
    print(f"wrote {settings.out}")
    report(recording)


def report(recording: "Recording | None") -> None:
    """Names the episodes recorded."""
    for path in recording.episodes if recording else ():
        print(f"recorded {path}")


def main() -> None:
    """The door: parses flags, plays, exits with 2 and one line for errors the player can mend."""
    spin_beside_a_spare_core()
    settings = tyro.cli(PlaySettings, description=__doc__)
    with exit_on_user_error():
        settings.check()
        if settings.headless:
            play_without_window(settings)
        elif not play(settings):
            # The worker is still inside native code, where ending the interpreter would crash; all files are closed.
            sys.stdout.flush()
            os._exit(0)


if __name__ == "__main__":
    main()
