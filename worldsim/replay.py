"""Replaying recorded episodes in the engine: every frame and pose must come out the same, bit for bit."""

import dataclasses
import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from tqdm import tqdm

from worldsim.episode import Episode, list_episodes
from worldsim.maze_episodes import Mazes, maze_header
from worldsim.processes import Reporter, Runner, run_jobs
from worldsim.record import TELL_EVERY


@dataclass(frozen=True, kw_only=True)
class ReplayMismatch:
    """One thing that differs between an episode and its replay; of each kind the first in an episode."""

    episode: str
    """File name."""
    what: str
    """"frame", "pose", "room", "tic", or the name of a header's entry such as "engine" or "map_hash"."""
    step: int
    """Frame number; 0 for the header."""
    recorded: str
    replayed: str

    def row(self) -> str:
        """One line of the table of `ReplayReport.table`."""
        return f"{self.episode:20}  {self.what:12}  {self.step:6}  {self.recorded:28}  {self.replayed}"


@dataclass(frozen=True, kw_only=True)
class ReplayReport:
    """What a replay found."""

    episodes: int
    frames: int
    """Frames compared."""
    mismatches: tuple[ReplayMismatch, ...]

    @property
    def exact(self) -> bool:
        """Whether everything came out the same."""
        return not self.mismatches

    def table(self) -> str:
        """One line a mismatch under a heading; one line alone if there is none."""
        if self.exact:
            return f"{self.episodes} episodes, {self.frames} frames: all replayed exactly"
        heading = f"{'episode':20}  {'what':12}  {'step':>6}  {'recorded':28}  replayed"
        return "\n".join([heading, *(mismatch.row() for mismatch in self.mismatches)])

    def to_json(self) -> dict[str, Any]:
        """Plain values for a report file."""
        return {"exact": self.exact, **dataclasses.asdict(self)}


def replay(folder: Path, workers: int | None = None) -> ReplayReport:
    """Replay every episode of `folder` in `workers` processes (all cores by default).

    Raises FileNotFoundError if there is none, OSError for a torn file, ValueError or OSError for an episode of
    another environment.
    """
    paths = list_episodes(folder)
    workers = workers or os.cpu_count() or 1
    seconds = 0.2 if sys.stderr.isatty() else 30.0
    lengths = {}
    for path in paths:
        with Episode.open(path) as episode:
            lengths[path] = len(episode)
    total = sum(lengths.values())
    with tqdm(total=total, unit=" frames", desc="replay", mininterval=seconds) as bar:
        jobs = [path.absolute() for path in paths]
        found = run_jobs(open_replayer, (), jobs, min(workers, len(jobs)), bar.update, bar.write)
    mismatches = sorted((m for rows in found for m in rows), key=lambda m: (m.episode, m.step, m.what))
    return ReplayReport(episodes=len(paths), frames=total, mismatches=tuple(mismatches))


@contextmanager
def open_replayer() -> Iterator[Runner]:
    """A process's runner: a job is an episode's path, its result the list of its mismatches."""
    with closing(Mazes()) as mazes:
        yield partial(_replay_file, mazes)


def _replay_file(mazes: Mazes, path: Path, reporter: Reporter) -> list[ReplayMismatch]:
    with Episode.open(path) as episode:
        return replay_episode(mazes.of(episode), episode, reporter)


def replay_episode(env: gymnasium.Env, episode: Episode, reporter: Reporter) -> list[ReplayMismatch]:
    """Compare one episode with what the engine makes of its seeds and actions."""
    header = episode.header
    frame, info = env.reset(seed=header.seed, options={"map_seed": header.map_seed})
    now = maze_header(env, info)
    found: dict[str, ReplayMismatch] = {}

    def compare(what: str, step: int, recorded: Any, replayed: Any) -> None:
        if what not in found and not np.array_equal(recorded, replayed):
            found[what] = ReplayMismatch(
                episode=episode.path.name,
                what=what,
                step=step,
                recorded=_short(recorded),
                replayed=_short(replayed),
            )

    for name in ("engine", "map_hash"):
        compare(name, 0, getattr(header, name), getattr(now, name))
    for step in range(len(episode)):
        if step:
            frame, _, _, _, info = env.step(episode.actions[step].astype(np.int64))
        recorded = episode.frame_at(np.array([step]))[0]
        if "frame" not in found and not np.array_equal(recorded, frame):
            differing = int((recorded != frame).any(axis=-1).sum())
            compare(
                "frame",
                step,
                "as recorded",
                f"{differing} of {frame.shape[0] * frame.shape[1]} pixels differ",
            )
        compare("pose", step, episode.poses[step], info["pose"])
        compare("room", step, int(episode.rooms[step]), info["room"])
        compare("tic", step, int(episode.tics[step]), info["tic"])
        if step % TELL_EVERY == TELL_EVERY - 1:
            reporter.frames(TELL_EVERY)
    reporter.frames(len(episode) % TELL_EVERY)
    return list(found.values())


def _short(value: Any) -> str:
    text = " ".join(f"{v:.6g}" for v in value) if isinstance(value, np.ndarray) else str(value)
    return text if len(text) <= 28 else text[:25] + "..."
