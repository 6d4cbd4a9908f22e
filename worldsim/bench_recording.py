"""How much of the bare engine's rate recording reaches, with as many processes."""

import contextlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, Final

import numpy as np
import vizdoom

from envs.maze import MazeEnv
from envs.maze_map import MazeMap
from envs.room import Spawn
from worldsim.episode import Episode
from worldsim.episode_format import episode_path
from worldsim.files import write_json_atomic
from worldsim.processes import Reporter, Runner, run_jobs
from worldsim.record import RecordSettings, record_episode

STEPS: Final = 300
BareEpisode = tuple[int, bytes, list[list[bool]]]
"""Seed, text map and buttons of every step."""


@dataclass(frozen=True)
class Phase:
    """A process's share of a turn: begin and end on the monotonic clock, processor time of it and its engine."""

    begun_s: float
    ended_s: float
    cpu_s: float
    frames: int


def bench_recording(
    workers: int = 1, frames: int = 900, rounds: int = 5, out: Path | None = None
) -> dict[str, Any]:
    """Measure `workers` processes recording and, in turns with it, the engine alone.

    The engine alone means: the same maps, starts, actions and screen size, the same map loads, one
    `make_action` and one read of the screen a frame; no averaging, no policy, no files. "bare_palette" reads the
    engine's palette numbers and keeps each engine and its caller on one CPU, as recording does; "bare_loose" leaves
    them to the system, as a plain loop would; "bare_rgb" is like "bare_palette" but reads RGB screens. Start of the
    processes and a first round are left out of all.

    Recording's frames are averaged, compressed and written on a thread beside the engine. That costs the rate little
    while cores are free; with as many workers as cores what counts is `cpu_ms`, processor time a frame.

    Returns medians over the rounds: rates in frames a second over all processes, recording's share of each bare
    rate, processor time a frame.

    Args:
        workers: Processes, each with an engine.
        frames: Of each process in a turn.
        rounds: Turns of each kind.
        out: JSON file for the result.
    """
    episodes = max(1, round(frames / (STEPS + 1)))
    barrier = multiprocessing.get_context("spawn").Barrier(workers)
    with tempfile.TemporaryDirectory(prefix="worldsim-bench-") as folder:
        settings = RecordSettings(out=Path(folder), episodes=episodes * workers, steps=STEPS)
        jobs = [range(first * episodes, (first + 1) * episodes) for first in range(workers)]
        results = run_jobs(open_bench, (settings, barrier, rounds), jobs, workers, lambda _: None, print)
    turns = {kind: list(zip(*(result[kind] for result in results), strict=True)) for kind in results[0]}
    report = {
        "workers": workers,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "screen": [
            settings.env.width * settings.env.supersample,
            settings.env.height * settings.env.supersample,
        ],
        "frames_a_turn": episodes * (STEPS + 1) * workers,
        "rounds": rounds,
        **_figures(turns),
    }
    if out is not None:
        write_json_atomic(out, report)
    return report


def _figures(turns: dict[str, list[tuple[Phase, ...]]]) -> dict[str, float]:
    rates = {kind: np.array([_rate(turn) for turn in some]) for kind, some in turns.items()}
    figures = {f"{kind}_frames_per_s": np.median(rate) for kind, rate in rates.items()}
    for kind in (kind for kind in rates if kind != "record"):
        figures[f"ratio_to_{kind}"] = np.median(rates["record"] / rates[kind])
    for kind, some in turns.items():
        cpu_ms = [1e3 * sum(p.cpu_s for p in turn) / sum(p.frames for p in turn) for turn in some]
        figures[f"{kind}_cpu_ms"] = np.median(cpu_ms)
    return {name: round(float(value), 3) for name, value in figures.items()}


def _rate(turn: tuple[Phase, ...]) -> float:
    """Frames of all processes over the time from the first one's begin to the last one's end."""
    seconds = max(phase.ended_s for phase in turn) - min(phase.begun_s for phase in turn)
    return sum(phase.frames for phase in turn) / seconds


def _cpu_s() -> float:
    """Processor time of this process and, where the system tells it, of its engines."""
    engines_ns = 0
    with suppress(OSError):
        for task in Path("/proc/self/task").iterdir():
            for child in (task / "children").read_text().split():
                for thread in Path(f"/proc/{child}/task").iterdir():
                    engines_ns += int((thread / "schedstat").read_text().split()[0])
    return time.process_time() + engines_ns / 1e9


@contextmanager
def open_bench(settings: RecordSettings, barrier: Barrier, rounds: int) -> Iterator[Runner]:
    """A process's runner: a job is a range of episode numbers, its result the phases of each kind."""
    with contextlib.ExitStack() as stack:
        env = stack.enter_context(contextlib.closing(MazeEnv(settings.env)))
        palette = stack.enter_context(_bare_engine(settings, vizdoom.ScreenFormat.DOOM_256_COLORS8))
        rgb = stack.enter_context(_bare_engine(settings, vizdoom.ScreenFormat.RGB24))
        bare = {
            "bare_palette": partial(_run_bare, palette, palette.on_one_cpu),
            "bare_loose": partial(_run_bare, palette, contextlib.nullcontext),
            "bare_rgb": partial(_run_bare, rgb, rgb.on_one_cpu),
        }
        yield partial(_bench, env, bare, settings, barrier, rounds)


@contextmanager
def _bare_engine(settings: RecordSettings, screen: vizdoom.ScreenFormat) -> Iterator[MazeEnv]:
    env = MazeEnv(settings.env)
    game = env._engine._game
    with contextlib.closing(env):
        game.close()
        game.set_screen_format(screen)
        with contextlib.chdir(env._engine.folder.path):  # engines that start in one folder race on ./_vizdoom
            game.init()
        yield env


def _bench(
    env: MazeEnv,
    bare: Mapping[str, Callable[[list[BareEpisode]], None]],
    settings: RecordSettings,
    barrier: Barrier,
    rounds: int,
    numbers: range,
    reporter: Reporter,
) -> dict[str, list[Phase]]:
    def record_all() -> None:
        for number in numbers:
            record_episode(env, settings, number, reporter)

    record_all()  # warm-up, and the actions of the bare runs
    episodes = [_bare_episode(settings, number) for number in numbers]
    for run_bare in bare.values():
        run_bare(episodes[:1])
    phases: dict[str, list[Phase]] = {kind: [] for kind in ("record", *bare)}
    for _ in range(rounds):
        for number in numbers:
            episode_path(settings.out, number).unlink()
        phases["record"].append(_timed(record_all, barrier, episodes))
        for kind, run_bare in bare.items():
            phases[kind].append(_timed(partial(run_bare, episodes), barrier, episodes))
    return phases


def _bare_episode(settings: RecordSettings, number: int) -> BareEpisode:
    with Episode.open(episode_path(settings.out, number)) as episode:
        seed = episode.header.seed
        x, y, _, yaw = episode.poses[0].tolist()
        start = Spawn(x=round(x), y=round(y), yaw_deg=round(yaw) % 360)
        textmap = MazeMap.generate(episode.header.map_seed, settings.env.map).textmap(start)
        buttons = [[v == side for v in action for side in (1, 2)] for action in episode.actions[1:].tolist()]
    return seed, textmap, buttons


def _run_bare(
    env: MazeEnv, placed: Callable[[], AbstractContextManager[None]], episodes: list[BareEpisode]
) -> None:
    game, tics = env._engine._game, env.settings.tics_per_step
    for seed, textmap, buttons in episodes:
        env._engine.load(textmap, seed)
        with placed():
            for pressed in buttons:
                game.make_action(pressed, tics)
                game.get_state().screen_buffer  # noqa: B018 - reading it is what is measured


def _timed(work: Callable[[], None], barrier: Barrier, episodes: list[BareEpisode]) -> Phase:
    barrier.wait(timeout=300)
    begun_s, cpu_s = time.monotonic(), _cpu_s()
    work()
    return Phase(
        begun_s=begun_s,
        ended_s=time.monotonic(),
        cpu_s=_cpu_s() - cpu_s,
        frames=sum(len(buttons) + 1 for _, _, buttons in episodes),
    )
