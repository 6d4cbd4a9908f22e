"""Worlds that make up everything: the first visit, the way and the return. Is the place as they had left it?"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from tqdm import tqdm

from worldsim.checkpoint import WorldModels
from worldsim.errors import check_at_least
from worldsim.evaluation.bootstrap import Interval, cluster_bootstrap, ratio_bootstrap, recovery
from worldsim.evaluation.fidelity import agreement
from worldsim.evaluation.held_out import HeldOut, encode
from worldsim.evaluation.inverse_dynamics import InverseDynamics, told_moves
from worldsim.evaluation.lpips import Lpips
from worldsim.evaluation.rollouts import Beginning, RolloutSettings, compare, noise_seed, roll_out
from worldsim.evaluation.shared_rows import shared_rows
from worldsim.evaluation.starts import Start, StartSettings, same_view
from worldsim.recall import MemoryMode
from worldsim.video import film_strip, write_png

SAME = StartSettings(distance=24.0, angle_deg=6.0)
"""within which two true poses see nearly the same; what that costs is told as `true_*`"""
LEAD = 8
"""own frames before the first of those that are come back to"""


@dataclass(frozen=True, kw_only=True)
class OwnHistorySettings:
    """Which returns worlds of their own are rolled out for."""

    routes: int = 64
    """Most of them."""
    longest: int = 300
    """Most frames that a world makes."""
    opening: int = 16
    """True frames that it begins with."""
    modes: tuple[MemoryMode, ...] = ("off", "hybrid", "oracle")
    """Memory modes, off and oracle among them."""
    last: int = 4
    """Frames of the return that are compared, its last."""
    batch: int = 32
    """Worlds rolled out at once."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "routes", "longest", "opening", "last", "batch")
        if not {"off", "oracle"} <= {*self.modes}:
            raise ValueError(
                f"own.modes {' '.join(self.modes)} lack off or oracle, which recovery compares with; add them"
            )


@dataclass(frozen=True, kw_only=True)
class OwnReturn:
    """A return to nearly the view that was left: pairs of a frame of the return and the one of the first visit."""

    start: Start
    begun: int
    """first frame that the world makes up"""
    stop: int
    """frame after the last"""
    pairs: tuple[tuple[int, int], ...]


def own_returns(
    starts: Sequence[Start],
    poses: Sequence[Float[np.ndarray, "_ 4"]],
    rooms: Sequence[Int[np.ndarray, " _"]],
    horizon: int,
    recent: int,
    settings: OwnHistorySettings,
) -> list[OwnReturn]:
    """The returns that end where the view was seen from before, shortest first, as long as the settings allow."""
    found = []
    for start in (each for each in starts if each.gap >= 0):
        stop, known = start.step + horizon, (poses[start.episode], rooms[start.episode])
        pairs = []
        for time in range(stop - settings.last, stop):
            seen = np.flatnonzero(same_view(*known, time, SAME)[: start.step - recent])
            pairs += [(time, int(seen[-1]))] if len(seen) else []
        if len(pairs) == settings.last:
            begun = min(first for _, first in pairs) - LEAD
            if begun >= settings.opening and stop - begun <= settings.longest:
                found.append(OwnReturn(start=start, begun=begun, stop=stop, pairs=tuple(pairs)))
    found.sort(key=lambda each: (each.stop - each.begun, each.start.episode, each.start.step))
    kept = np.linspace(0, len(found) - 1, min(settings.routes, len(found))).round().astype(int)
    return [found[i] for i in kept]


@dataclass(frozen=True, kw_only=True)
class OwnWorlds:
    """Rolls out returns in worlds of their own, a batch at a time, and scores them."""

    models: WorldModels
    held_out: HeldOut
    rollouts: RolloutSettings
    settings: OwnHistorySettings
    judge: InverseDynamics | None
    """of whether steps turn and move as told; None leaves that out"""
    folder: Path
    """of partial results"""
    strips: Path
    """folder of film strips"""
    seed: int
    lpips: Lpips | None = None

    def run(self, returns: Sequence[OwnReturn], strips: int) -> list[dict[str, Any]]:
        """One row a return and mode, and so many film strips. Batches already in `folder` are read, not made again.

        `own_*` compares the return with the world's own first visit, `engine_*` with the game; `true_*` is the game's
        return against the game's first visit: what poses that differ a little cost.
        """
        batch = self.settings.batch
        batches = [returns[first : first + batch] for first in range(0, len(returns), batch)]
        shown = {int(each) for each in np.linspace(0, len(returns) - 1, min(strips, len(returns))).round()}
        total = len(self.settings.modes) * sum(len(each) * _length(each) for each in batches)
        paths = [self.folder / f"own-{index:04d}.jsonl" for index in range(len(batches))]
        with tqdm(total=total, desc="own history", unit="frame", smoothing=0.1) as progress:
            return shared_rows(
                paths,
                lambda index: self._score(
                    batches[index], {number - index * batch for number in shown}, progress
                ),
                lambda index: progress.update(
                    len(self.settings.modes) * len(batches[index]) * _length(batches[index])
                ),
            )

    def begin(self, route: OwnReturn, frames: int) -> Beginning:
        """From a few true frames alone; once the route is over the player stands still."""
        episode, true = route.start.episode, slice(route.begun - self.settings.opening, route.begun)
        frames_u8 = self.held_out.read(episode, np.arange(true.start, true.stop))
        actions = self.held_out.actions[episode]
        poses = torch.from_numpy(self.held_out.poses[episode][:, [0, 1, 3]])
        coming = np.zeros((frames, actions.shape[1]), np.int64)
        length = route.stop - route.begun
        coming[:length] = actions[route.begun : route.stop]
        places = poses[route.begun : route.stop]
        return Beginning(
            history=encode(self.models.autoencoder, frames_u8),
            history_actions=actions[true],
            actions=coming,
            history_followed=None,
            true_history_poses=poses[true],
            true_coming_poses=torch.cat((places, places[-1:].expand(frames - length, 3))),
            seed=noise_seed(self.seed, episode, route.begun),
        )

    def _score(self, batch: Sequence[OwnReturn], shown: Set[int], progress: tqdm) -> list[dict[str, Any]]:
        """Rows of one batch; film strips of the returns numbered `shown`."""
        section = self.models.schedule.section
        frames = -(-_length(batch) // section) * section
        beginnings = [self.begin(each, frames) for each in batch]
        made = {
            mode: roll_out(self.models, beginnings, self.rollouts.world(mode), self.rollouts.plan, progress)
            for mode in self.settings.modes
        }
        for number in sorted(shown & set(range(len(batch)))):
            rollouts: dict[str, Tensor] = {mode: each[number].frames_u8 for mode, each in made.items()}
            write_own_strip(self.held_out, batch[number], rollouts, self.strips)
        return [
            {**asdict(route.start), "mode": mode, "frames": route.stop - route.begun}
            | self._figures(route, rollout.frames_u8)
            for mode, each in made.items()
            for route, rollout in zip(batch, each, strict=True)
        ]

    def _figures(
        self, route: OwnReturn, made_u8: UInt8[Tensor, "time height width 3"]
    ) -> dict[str, list[float] | float]:
        """Each figure once a pair; the share of steps as told over the whole way."""
        back, first = (np.array(each) for each in zip(*route.pairs, strict=True))
        episode = route.start.episode
        true_back, true_first = (self.held_out.read(episode, each) for each in (back, first))
        own_back, own_first = made_u8[back - route.begun], made_u8[first - route.begun]
        figures: dict[str, list[float] | float] = {}
        for name, shown, aim in (
            ("own", own_back, own_first),
            ("engine", own_back, true_back),
            ("true", true_back, true_first),
        ):
            for figure, values in compare(shown, aim, self.models.device, self.lpips).items():
                figures[f"{name}_{figure}"] = values.round(7).tolist()
        if self.judge is not None:
            way = np.arange(route.begun - 1, route.stop)
            actions = torch.from_numpy(self.held_out.actions[episode][: route.stop])
            told = told_moves(self.models.odometer.motion, actions)[route.begun :]
            true_u8 = self.held_out.read(episode, way)
            own_u8 = torch.cat((true_u8[:1], made_u8[: route.stop - route.begun]))
            for name, frames_u8 in (("", own_u8), ("true_", true_u8)):
                turns, moves = agreement(self.judge, frames_u8, told)
                figures[f"{name}turns"] = float(turns.float().mean())
                figures[f"{name}moves"] = float(moves.float().mean())
        return figures


def _length(batch: Sequence[OwnReturn]) -> int:
    """Frames that every world of a batch makes: those of the longest."""
    return max(each.stop - each.begun for each in batch)


def write_own_strip(
    held_out: HeldOut,
    route: OwnReturn,
    rollouts: Mapping[str, UInt8[Tensor, "time height width 3"]],
    out: Path,
) -> Path:
    """The first visit, the way and the return: in the game, and as each memory mode's world makes them up."""
    back, first = route.pairs[-1]
    times = np.array([route.begun, *np.linspace(first, back, 7).round().astype(int)])
    start, labels = route.start, ", ".join(str(time - route.begun) for time in times)
    title = (
        f"map {start.map_seed} episode {start.episode}, {start.kind}: made up from frame 0 on; first visit at "
        f"{first - route.begun}, return at {back - route.begun} | the game, frames {labels}"
    )
    rows = [(title, list(held_out.read(start.episode, times).numpy()))]
    rows += [(f"memory {mode}", list(made[times - route.begun].numpy())) for mode, made in rollouts.items()]
    path = out / f"own_{start.episode:04d}_{start.step:05d}.png"
    write_png(path, film_strip(rows))
    return path


def summarise_own(rows: Sequence[dict[str, Any]], seed: int) -> dict[str, Any]:
    """Figures of each mode, and recovery = (off − mode) / (off − oracle) in errors against the own first visit."""
    modes: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        modes.setdefault(row["mode"], []).append(row)
    maps = np.array([row["map_seed"] for row in modes["off"]])

    def means(mode: str, name: str) -> Float[np.ndarray, " route"]:
        return np.array([np.mean(row[name]) for row in modes[mode]], dtype=np.float64)

    def mean(values: Float[np.ndarray, " route"]) -> Interval:
        return cluster_bootstrap(values, maps, np.random.default_rng(seed))

    told: dict[str, Any] = {"routes": len(maps), "maps": len(np.unique(maps)), "modes": {}}
    told["frames"] = float(np.mean([row["frames"] for row in modes["off"]]))
    told["true_psnr"] = mean(means("off", "true_psnr"))
    names = (
        "own_psnr", "own_ssim", "own_lpips", "engine_psnr", "engine_ssim", "turns", "moves", "true_turns", "true_moves",
    )  # fmt: skip
    for mode in modes:
        figures: dict[str, Interval] = {
            name: mean(means(mode, name)) for name in names if name in modes[mode][0]
        }
        figures["own_gain"] = mean(means(mode, "own_psnr") - means("off", "own_psnr"))
        figures["sharpness"] = ratio_bootstrap(
            means(mode, "own_sharpness"),
            means(mode, "true_truth_sharpness"),
            maps,
            np.random.default_rng(seed),
        )
        for name, sign in (("mse", 1.0), ("ssim", -1.0)):
            off, this, oracle = (sign * means(each, f"own_{name}") for each in ("off", mode, "oracle"))
            figures[f"recovery_{name}"] = recovery(off, this, oracle, maps, np.random.default_rng(seed))
        told["modes"][mode] = figures
    return told
