"""Reading episodes in several processes; free of torch, which such a process would take long to import."""

import multiprocessing
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from tqdm import tqdm

from worldsim.action_space import ActionSpace
from worldsim.episode import Episode


@dataclass(frozen=True)
class EpisodeArrays:
    """What training reads of one episode."""

    frames_u8: UInt8[np.ndarray, "time frame_height frame_width 3"]
    actions: UInt8[np.ndarray, "total factor"]
    poses: Float[np.ndarray, "total 4"]
    rooms: Int[np.ndarray, " total"]


def read_action_space(paths: Sequence[Path]) -> ActionSpace:
    """The action space of the recordings."""
    with Episode.open(paths[0]) as episode:
        return episode.header.action_space


def read_episode(path: Path, frames: int | None, seed: int) -> EpisodeArrays:
    """All frames of an episode, or a random sample of them (sorted)."""
    with Episode.open(path) as episode:
        if frames is None or frames >= len(episode):
            pixels = episode.frames()
        else:
            chosen = np.random.default_rng(seed).choice(len(episode), frames, replace=False)
            pixels = episode.frame_at(np.sort(chosen))
        return EpisodeArrays(
            frames_u8=pixels, actions=episode.actions, poses=episode.poses, rooms=episode.rooms
        )


def read_episodes(
    paths: Sequence[Path], frames: int | None, workers: int, label: str, show: bool
) -> Iterator[EpisodeArrays]:
    """Episodes in order, read by several processes a few episodes ahead."""
    context = multiprocessing.get_context("forkserver")
    with (
        ProcessPoolExecutor(max_workers=workers, mp_context=context) as pool,
        tqdm(total=len(paths), desc=label, unit="episode", disable=not show, mininterval=5.0) as bar,
    ):
        waiting: deque[Future[EpisodeArrays]] = deque()
        for i, path in enumerate(paths):
            waiting.append(pool.submit(read_episode, path, frames, i))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
                bar.update()
        while waiting:
            yield waiting.popleft().result()
            bar.update()
