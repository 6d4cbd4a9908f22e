"""Recording episodes of the maze in many processes; a kill costs little and a rerun goes on."""

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Int64
from tqdm import tqdm

from envs.explorer import Explorer, ExplorerSettings
from envs.maze import MazeEnv, MazeEnvSettings
from envs.routes import Commuter, RouteKind
from worldsim.deflate import deflate
from worldsim.episode_format import FORMAT_VERSION, episode_number, episode_path, part_path
from worldsim.episode_writer import EpisodeWriter, FrameMaker
from worldsim.errors import check_at_least
from worldsim.files import only_process_in, read_json, write_json_atomic
from worldsim.maze_episodes import ENVIRONMENTS, Game, maze_class, maze_header
from worldsim.processes import Reporter, Runner, run_jobs

HELD_OUT_FROM: Final = 1_000_000
"""Map seeds from here on are for evaluation; training maps lie below."""
TELL_EVERY: Final = 30
"""Frames from one report of progress to the next, when a process also learns that it is to stop."""


@dataclass(frozen=True, kw_only=True)
class RecordSettings:
    """What to record. Episode i uses map seed `seed + i`, so that every episode is another map."""

    out: Path
    """Folder of the episodes; an unfinished recording in it is gone on with, nothing is overwritten."""
    episodes: int = 100
    steps: int = 600
    """Steps an episode; it has one frame more, that of the reset."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Processes, each with an engine."""
    seed: int = 0
    """Map seed of the first episode, 0 to 999,999."""
    held_out: bool = False
    """Record maps for evaluation, which training never sees: adds 1,000,000 to the map seeds."""
    game: Game = "vizdoom"
    """The engine; miniworld needs pip install 'worldsim[miniworld]' and OpenGL."""
    env: MazeEnvSettings = field(default_factory=MazeEnvSettings)
    explorer: ExplorerSettings = field(default_factory=ExplorerSettings)
    routes: tuple[RouteKind, ...] = ()
    """Walk these kinds of routes in turn, away from a view and back to it, instead of exploring; `twins` needs
    --env.map.twins too."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "episodes", "steps", "workers")
        if not 0 <= self.seed <= HELD_OUT_FROM - self.episodes:
            raise ValueError(
                f"seed {self.seed} with {self.episodes} episodes leaves the map seeds 0..{HELD_OUT_FROM - 1}; "
                "give a smaller seed, or held_out for the seeds above"
            )
        if "twins" in self.routes and not self.env.map.twins:
            raise ValueError("routes between twins need maps that have them; add --env.map.twins")

    def map_seed(self, number: int) -> int:
        """Map seed, and seed, of episode `number`."""
        return self.seed + number + (HELD_OUT_FROM if self.held_out else 0)


@dataclass(frozen=True, kw_only=True)
class RecordReport:
    """What a recording did."""

    out: str
    episodes: int
    """Finished episodes of this recording, those of earlier runs included."""
    frames: int
    """Frames of those episodes."""
    new_frames: int
    """Frames made by this run, those replayed to go on with an unfinished episode included."""
    seconds: float

    @property
    def frames_per_s(self) -> float:
        """Rate of this run, start of the engines included."""
        return self.new_frames / self.seconds


def record(settings: RecordSettings) -> RecordReport:
    """Record until `settings.episodes` are finished; run again to go on after a kill, a full disk or Ctrl-C.

    Raises ValueError if the folder holds a recording of other settings, OSError if it cannot be written or
    another process records into it. Finished episodes are never touched.
    """
    begun = time.monotonic()
    out = settings.out.absolute()
    length = settings.steps + 1
    with only_process_in(out, "record"):
        check_manifest(out, settings)
        missing = [i for i in range(settings.episodes) if not episode_path(out, i).exists()]
        for i in set(range(settings.episodes)) - set(missing):
            part_path(episode_path(out, i)).unlink(missing_ok=True)  # killed just after it was finished
        earlier = (settings.episodes - len(missing)) * length
        with _progress(settings.episodes * length, earlier) as bar:
            run_jobs(
                open_recorder,
                (dataclasses.replace(settings, out=out),),
                missing,
                min(settings.workers, len(missing)),
                bar.update,
                partial(bar.write, file=sys.stderr),
            )
    return RecordReport(
        out=str(settings.out),
        episodes=settings.episodes,
        frames=settings.episodes * length,
        new_frames=len(missing) * length,
        seconds=time.monotonic() - begun,
    )


def _progress(total: int, initial: int) -> tqdm:
    seconds = 0.2 if sys.stderr.isatty() else 30.0
    return tqdm(
        total=total, initial=initial, unit=" frames", desc="record", mininterval=seconds, smoothing=0.1
    )


def manifest(settings: RecordSettings) -> dict[str, Any]:
    """What all episodes of a folder share, as plain JSON values."""
    told: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "environment": ENVIRONMENTS[settings.game],
        "engine": maze_class(settings.game).engine,
        "steps": settings.steps,
        "seed": settings.seed,
        "held_out": settings.held_out,
        "env": dataclasses.asdict(settings.env),
        "explorer": dataclasses.asdict(settings.explorer),
        "routes": settings.routes,
    }
    plain: dict[str, Any] = json.loads(json.dumps(told))
    return plain


def check_manifest(out: Path, settings: RecordSettings) -> None:
    """Write `recording.json` into an empty folder; in another, raise ValueError unless it tells the same."""
    path, now = out / "recording.json", manifest(settings)
    if not path.exists():
        strange = next((item.name for item in out.iterdir() if episode_number(item) is not None), None)
        if strange:
            raise ValueError(f"{out} holds {strange} but no recording.json; choose another folder")
        write_json_atomic(path, now)
        return
    # What an earlier version did not know it did as the defaults do now.
    before = _filled(read_json(path), manifest(RecordSettings(out=out)))
    for name, value in now.items():
        if before.get(name) != value:
            raise ValueError(
                f"{out} was recorded with {name} {before.get(name)}, not {value}; "
                "give the same again or choose another folder"
            )


def _filled(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The values, and the defaults of names that they lack, also further in."""
    inner = {
        name: _filled(value, defaults[name])
        for name, value in values.items()
        if isinstance(value, dict) and isinstance(defaults.get(name), dict)
    }
    return {**defaults, **values, **inner}


@dataclass(frozen=True)
class Moment:
    """A frame, not yet made, the action that led to it, and what the environment told."""

    make_frame: FrameMaker
    action: Int64[np.ndarray, "factor"]
    info: dict[str, Any]


def explore(env: MazeEnv, settings: RecordSettings, number: int) -> Iterator[Moment]:
    """Walk episode `number`: `steps + 1` moments, the same every time."""
    seed = settings.map_seed(number)
    screen, info = env.reset_screen(seed=seed, options={"map_seed": seed})
    assert env.maze_map is not None
    player = (
        Commuter(env.maze_map, seed, settings.routes)
        if settings.routes
        else Explorer(env.maze_map, seed, settings.explorer)
    )
    yield Moment(partial(env.frame_of, screen), np.zeros(len(env.action_factors), np.int64), info)
    for _ in range(settings.steps):
        action = player.act(info["pose"])
        screen, info = env.step_screen(action)
        yield Moment(partial(env.frame_of, screen), action, info)


@contextmanager
def open_recorder(settings: RecordSettings) -> Iterator[Runner]:
    """A process's runner of jobs: a job is the number of an episode, its result None."""
    env = maze_class(settings.game)(settings.env)
    try:
        yield partial(record_episode, env, settings)
    finally:
        env.close()


def record_episode(env: MazeEnv, settings: RecordSettings, number: int, reporter: Reporter) -> None:
    """Record one episode, or go on with its `.part`: replayed in the engine up to where it stopped, and on.

    An unfinished episode that does not replay exactly is recorded anew, and a line says so.
    """
    path = episode_path(settings.out, number)
    moments = explore(env, settings, number)
    first = next(moments)
    moments = chain([first], moments)
    header = maze_header(env, first.info)
    writer = EpisodeWriter.resume(path) if part_path(path).exists() else None
    if writer is None:
        writer = EpisodeWriter(path, header)
    elif writer.header != header or not _replays(writer, moments, reporter.frames):
        writer.discard()
        reporter.line(f"{part_path(path).name} does not replay in this engine; it is recorded anew")
        record_episode(env, settings, number, reporter)
        return
    with writer, env.on_one_cpu():
        for moment in moments:
            info = moment.info
            writer.append(
                moment.make_frame, moment.action, pose=info["pose"], room=info["room"], tic=info["tic"]
            )
            if len(writer) % TELL_EVERY == 0:
                reporter.frames(TELL_EVERY)
    reporter.frames(len(writer) % TELL_EVERY)


def _replays(writer: EpisodeWriter, moments: Iterator[Moment], on_frames: Callable[[int], object]) -> bool:
    """Whether the next moments are those that the writer holds already."""
    actions, poses, crcs = (writer.column(name) for name in ("actions", "poses", "frame_crcs"))
    for t in range(len(writer)):
        moment = next(moments)
        if deflate.crc32(moment.make_frame().data) != crcs[t]:
            return False
        if not np.array_equal(moment.action, actions[t]) or not np.array_equal(moment.info["pose"], poses[t]):
            return False
        if t % TELL_EVERY == TELL_EVERY - 1:
            on_frames(TELL_EVERY)
    return True
