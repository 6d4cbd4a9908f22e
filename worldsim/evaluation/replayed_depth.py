"""Depth of recorded frames: episodes are replayed in the engine, and must come out as they were recorded."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float16
from torch import Tensor
from tqdm import tqdm

from worldsim.episode import Episode
from worldsim.evaluation.held_out import HeldOut
from worldsim.evaluation.seen_pixels import seen_before
from worldsim.evaluation.starts import Start
from worldsim.maze_episodes import Mazes
from worldsim.processes import Reporter, Runner, run_jobs
from worldsim.record import TELL_EVERY


def replayed_depths(
    held_out: HeldOut, stops: Mapping[int, int]
) -> dict[int, Float[Tensor, "_ height width"]]:
    """Depth in map units along the view's axis of frames 0 .. stop-1 of each episode in `stops`, on the CPU.

    What is kept of them (`HeldOut`) is not replayed again.

    Raises:
        ValueError: an episode does not replay exactly, or is of no maze.
        OSError: an episode is torn.
    """
    kept = held_out.kept_depths
    missing = {index: stop for index, stop in stops.items() if stop > len(kept.get(index, ()))}
    jobs = [(index, held_out.paths[index].absolute(), stop) for index, stop in missing.items()]
    depths = dict(kept)
    if jobs:
        with tqdm(total=sum(missing.values()), desc="depth", unit="frame") as bar:
            workers = min(os.cpu_count() or 1, len(jobs))
            done = run_jobs(open_depth_player, (), jobs, workers, bar.update, bar.write)
        depths |= {index: torch.from_numpy(depth) for index, depth in done}
    if held_out.keep:
        kept |= depths
    return {index: depths[index][:stop].float() for index, stop in stops.items()}


def seen_masks(
    held_out: HeldOut, starts: Sequence[Start], horizon: int, device: torch.device
) -> list[Bool[Tensor, "{horizon} height width"]]:
    """For every start which pixels of the frames to be made its history has shown."""
    stops: dict[int, int] = {}
    for start in starts:
        stops[start.episode] = max(stops.get(start.episode, 0), start.step + horizon)
    depths, masks = replayed_depths(held_out, stops), []
    for start in starts:
        depth = depths[start.episode].to(device)
        poses = torch.from_numpy(held_out.poses[start.episode]).to(device)
        past = depth[: start.step], poses[: start.step]
        frames = range(start.step, start.step + horizon)
        masks.append(torch.stack([seen_before(depth[t], poses[t], *past) for t in frames]).cpu())
    return masks


@contextmanager
def open_depth_player() -> Iterator[Runner]:
    """A process's runner: a job is an episode's number, path and stop, its result the number and its depths."""
    with closing(Mazes()) as mazes:
        yield partial(_play, mazes)


def _play(
    mazes: Mazes, job: tuple[int, Path, int], reporter: Reporter
) -> tuple[int, Float16[np.ndarray, "_ height width"]]:
    index, path, stop = job
    depths = []
    with Episode.open(path) as episode:
        header, env = episode.header, mazes.of(episode, depth=True)
        frame, info = env.reset(seed=header.seed, options={"map_seed": header.map_seed})
        recorded = episode.frame_at(np.arange(stop))
        for step in range(stop):
            if step:
                frame, _, _, _, info = env.step(episode.actions[step].astype(np.int64))
            if not np.array_equal(frame, recorded[step]):
                raise ValueError(
                    f"{path.name} does not replay: frame {step} differs from what this engine makes of its actions; "
                    "see worldsim evaluate replay, and record it anew"
                )
            depths.append(info["depth"].astype(np.float16))  # the engine counts in steps of about 7 units
            if step % TELL_EVERY == TELL_EVERY - 1:
                reporter.frames(TELL_EVERY)
    reporter.frames(stop % TELL_EVERY)
    return index, np.stack(depths)
