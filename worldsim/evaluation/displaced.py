"""The same steps in another place: what the game itself shows once steps have nothing to do with the walls around.

A world that is made up leaves the recorded one sooner or later. From there on recorded steps run into its walls, as
they would in any other maze, and walls at arm's length are flatter than what an explorer looks at. What the game shows
then is as near to recorded play as a perfect world comes.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from tqdm import tqdm

from worldsim.episode import Episode
from worldsim.evaluation.held_out import HeldOut
from worldsim.maze_episodes import Mazes
from worldsim.processes import Reporter, Runner, run_jobs


@dataclass(frozen=True, kw_only=True)
class DisplacedSteps:
    """Steps to be taken from where an episode's player stood."""

    number: int
    """of the rollout whose steps they are"""
    episode: Path
    step: int
    """the first of the episode's own steps that is not taken"""
    actions: Int64[np.ndarray, "time factor"]


def displaced_play(
    held_out: HeldOut, starts: Sequence[tuple[int, int]], frames: int
) -> list[UInt8[Tensor, "{frames} height width 3"]]:
    """What the game shows of each rollout's steps where the next rollout of another episode begins.

    `starts` are (episode, step) of each rollout.

    Raises:
        ValueError: all rollouts are of one episode, or not of a maze that can be played.
        OSError: an episode is torn.
    """
    jobs = []
    for number, (episode, step) in enumerate(starts):
        others = [other for other in (*starts[number:], *starts[:number]) if other[0] != episode]
        if not others:
            raise ValueError(
                f"all {len(starts)} rollouts are of episode {held_out.paths[episode].name}: their steps have no other "
                "place; use more --rollouts or episodes, or leave out --displaced"
            )
        place, beginning = others[0]
        jobs.append(
            DisplacedSteps(
                number=number,
                episode=held_out.paths[place].absolute(),
                step=beginning,
                actions=held_out.actions[episode][step : step + frames],
            )
        )
    with tqdm(total=sum(job.step + frames for job in jobs), desc="displaced play", unit="frame") as bar:
        workers = min(os.cpu_count() or 1, len(jobs))
        done = dict(run_jobs(open_player, (), jobs, workers, bar.update, bar.write))
    return [torch.from_numpy(done[number]) for number in range(len(starts))]


@contextmanager
def open_player() -> Iterator[Runner]:
    """A process's runner: a job is `DisplacedSteps`, its result their number and the frames that they lead to."""
    with closing(Mazes()) as mazes:
        yield partial(_play, mazes)


def _play(
    mazes: Mazes, job: DisplacedSteps, reporter: Reporter
) -> tuple[int, UInt8[np.ndarray, "time height width 3"]]:
    with Episode.open(job.episode) as episode:
        env, header, known = mazes.of(episode), episode.header, episode.actions[1 : job.step].astype(np.int64)
    env.reset(seed=header.seed, options={"map_seed": header.map_seed})
    for action in known:
        env.step(action)
    reporter.frames(job.step)
    frames = [env.step(action)[0] for action in job.actions]
    reporter.frames(len(frames))
    return job.number, np.stack(frames)
