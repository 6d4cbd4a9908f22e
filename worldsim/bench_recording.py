"""How much of the bare engine's rate recording reaches, with as many processes."""

import contextlib
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, Final

import vizdoom

from envs.maze import MazeEnv
from envs.maze_map import MazeMap
from envs.room import Spawn
from worldsim.episode import Episode
from worldsim.episode_format import episode_path
from worldsim.processes import Reporter, Runner, run_jobs
from worldsim.record import RecordSettings, record_episode

ROUNDS: Final = 3
STEPS: Final = 300
Phase = tuple[float, float, int]
"""When a process began and ended its share of a phase, in seconds of the monotonic clock, and its frames."""


def bench_recording(workers: int = 1, frames: int = 1200) -> dict[str, Any]:
    """Measure `workers` processes recording and, in turns with it, the engine alone; `frames` each a turn.

    The engine alone means: the same maps, starts, actions and screen size, the same map loads, one
    `make_action` and one read of the screen a frame; no averaging, no policy, no files. "bare_rgb" reads RGB
    screens, as a program that wants pictures would; "bare_palette" reads the engine's palette numbers, which
    is what recording reads. Start of the processes and a first round are left out of all three.

    Returns rates in frames a second over all processes, and recording's share of both bare rates.
    """
    episodes = max(1, round(frames / (STEPS + 1)))
    barrier = multiprocessing.get_context("spawn").Barrier(workers)
    with tempfile.TemporaryDirectory(prefix="worldsim-bench-") as folder:
        settings = RecordSettings(out=Path(folder), episodes=episodes * workers, steps=STEPS)
        jobs = [range(first * episodes, (first + 1) * episodes) for first in range(workers)]
        results = run_jobs(open_bench, (settings, barrier), jobs, workers, lambda _: None, print)
    rates = {kind: _rate([result[kind] for result in results]) for kind in results[0]}
    return {
        "workers": workers,
        "frames": episodes * (STEPS + 1) * workers * ROUNDS,
        **{f"{kind}_frames_per_s": round(rate, 1) for kind, rate in rates.items()},
        "ratio": round(rates["record"] / rates["bare_rgb"], 3),
        "ratio_to_palette": round(rates["record"] / rates["bare_palette"], 3),
    }


def _rate(shares: list[list[Phase]]) -> float:
    """Frames of all processes over the time from the first one's begin to the last one's end, over all rounds."""
    seconds = sum(max(s[1] for s in turn) - min(s[0] for s in turn) for turn in zip(*shares, strict=True))
    return sum(frames for share in shares for _, _, frames in share) / seconds


@contextmanager
def open_bench(settings: RecordSettings, barrier: Barrier) -> Iterator[Runner]:
    """A process's runner: a job is a range of episode numbers, its result the phases of each kind."""
    with contextlib.ExitStack() as stack:
        env = stack.enter_context(contextlib.closing(MazeEnv(settings.env)))
        palette = stack.enter_context(_bare_engine(settings, vizdoom.ScreenFormat.DOOM_256_COLORS8))
        rgb = stack.enter_context(_bare_engine(settings, vizdoom.ScreenFormat.RGB24))
        yield partial(_bench, env, {"bare_palette": palette, "bare_rgb": rgb}, settings, barrier)


@contextmanager
def _bare_engine(settings: RecordSettings, screen: vizdoom.ScreenFormat) -> Iterator[MazeEnv]:
    env = MazeEnv(settings.env)
    game = env._engine._game
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(env):
        game.close()
        game.set_screen_format(screen)
        with contextlib.chdir(folder):  # engines that start in one folder race on ./_vizdoom
            game.init()
        yield env


def _bench(
    env: MazeEnv,
    bare: dict[str, MazeEnv],
    settings: RecordSettings,
    barrier: Barrier,
    numbers: range,
    reporter: Reporter,
) -> dict[str, list[Phase]]:
    def record_all() -> None:
        for number in numbers:
            record_episode(env, settings, number, reporter)

    record_all()  # warm-up, and the actions of the bare runs
    episodes = [_bare_episode(settings, number) for number in numbers]
    for engine in bare.values():
        _run_bare(engine, episodes[:1])
    phases: dict[str, list[Phase]] = {kind: [] for kind in ("record", *bare)}
    for _ in range(ROUNDS):
        for number in numbers:
            episode_path(settings.out, number).unlink()
        phases["record"].append(_timed(record_all, barrier, episodes))
        for kind, engine in bare.items():
            phases[kind].append(_timed(partial(_run_bare, engine, episodes), barrier, episodes))
    return phases


BareEpisode = tuple[int, bytes, list[list[bool]]]
"""Seed, text map and buttons of every step."""


def _bare_episode(settings: RecordSettings, number: int) -> BareEpisode:
    with Episode.open(episode_path(settings.out, number)) as episode:
        seed = episode.header.seed
        x, y, _, yaw = episode.poses[0].tolist()
        start = Spawn(x=round(x), y=round(y), yaw_deg=round(yaw) % 360)
        textmap = MazeMap.generate(episode.header.map_seed, settings.env.map).textmap(start)
        buttons = [[v == side for v in action for side in (1, 2)] for action in episode.actions[1:].tolist()]
    return seed, textmap, buttons


def _run_bare(env: MazeEnv, episodes: list[BareEpisode]) -> None:
    game, tics = env._engine._game, env.settings.tics_per_step
    for seed, textmap, buttons in episodes:
        env._engine.load(textmap, seed)
        for pressed in buttons:
            game.make_action(pressed, tics)
            game.get_state().screen_buffer  # noqa: B018 - reading it is what is measured


def _timed(work: Callable[[], None], barrier: Barrier, episodes: list[BareEpisode]) -> Phase:
    barrier.wait(timeout=300)
    begun = time.monotonic()
    work()
    return begun, time.monotonic(), sum(len(buttons) + 1 for _, _, buttons in episodes)
