"""`worldsim train odometer`: how actions move the player, and how to see what they cannot tell."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from models.history import add_noise
from retrieval.foresight import foremost
from retrieval.motion import FREE_WIDTH, Motion, fit_motion, turned
from retrieval.odometer import Odometer
from retrieval.offset import MOVE_SCALE, Offset
from worldsim.episode import Episode, list_episodes
from worldsim.errors import check_at_least
from worldsim.presets import preset
from worldsim.training.components import keep_component, start_weights, trained_autoencoder
from worldsim.training.data import LatentEpisodes, cached_latents, own_share
from worldsim.training.floor_plans import FloorPlans
from worldsim.training.loop import LoopSettings, TrainingLoop
from worldsim.training.offsets import mean_of, offset_loss
from worldsim.training.processes import Processes
from worldsim.training.reading import read_action_space
from worldsim.training.registration import registration_loss
from worldsim.training.state import TrainingState
from worldsim.training.witnesses import blocked_loss, draw_witnesses

FIT_EPISODES = 64
"""episodes that the motion tables are fitted to: a few are enough, for they are exact"""
WRONG_SHARE, WRONG_UNITS = 0.3, 16.0
"""part of the steps that are seen of which a wrong move is told, and the greatest standard deviation of its error"""
OVERLOOKED = 0.1
"""part of the steps whose bump is taken to have been overlooked"""


@dataclass(frozen=True, kw_only=True)
class OdometerTraining:
    """Fit the motion tables to recorded poses and train the odometer; needs the run's autoencoder."""

    data: Path
    """folder of recorded episodes"""
    out: Path
    """the run folder that `worldsim train autoencoder` filled"""
    preset: str = "default"
    """tiny, default or large"""
    warm_start: Path | None = None
    """checkpoint folder whose weights training begins with"""
    loop: LoopSettings = field(default_factory=lambda: LoopSettings(steps=4000))
    batch: int = 512
    """pairs of neighbouring frames a step and process"""
    seen_share: float = 0.6
    """part of the pairs whose second frame is seen; the others are about to be made"""
    learning_rate: float = 2e-3
    """highest learning rate"""
    noise: float = 0.3
    """highest noise level on latents: it must work on the model's own frames too"""
    move_noise: float = 3.0
    """map units of error in the move before, in a third of the pairs: its own errors come back to it"""
    seed: int = 0
    """chooses weights and batches"""
    workers: int = 8
    """processes that read episodes, a training process"""
    device: str = "auto"
    """auto, cpu, cuda ..."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "batch", "workers")
        if not 0 <= self.seen_share <= 1:
            raise ValueError(f"seen_share {self.seen_share} is not within 0..1")


@dataclass(frozen=True)
class Moves:
    """What recorded episodes tell of every step, along x and y of the map."""

    headings_deg: Float[Tensor, "episode time"]
    moves: Float[Tensor, "episode time 2"]
    """to each frame from the one before; the first is zero"""
    free: Float[Tensor, "episode time 2"]
    """what the actions push in each step"""
    bumps: Float[Tensor, "episode time 2"]
    """what of the moves was not told by the actions"""
    changed: Int[Tensor, "n 2"]
    """episode and time of the steps that something changed"""
    share: float
    """part of all steps that these are"""

    @classmethod
    def of(cls, episodes: LatentEpisodes, motion: Motion) -> "Moves":
        actions = episodes.actions.long()
        turns = motion.turns(actions).cumsum(1)
        headings = episodes.poses[:, :1, 3] + turns - turns[:, :1]
        moves = torch.zeros_like(episodes.poses[..., :2])
        moves[:, 1:] = episodes.poses[:, 1:, :2] - episodes.poses[:, :-1, :2]
        free = motion.free_moves(actions, headings)
        told = torch.zeros_like(moves)
        told[:, 1:] = motion.carry * moves[:, :-1] + free[:, 1:]
        steps = torch.arange(moves.shape[1], device=moves.device)
        real = (steps > 0) & (steps < episodes.lengths[:, None])
        bumps = (moves - told) * real[..., None]
        changed = bumps.norm(dim=-1) > FREE_WIDTH
        share = float(changed.sum() / real.sum())
        return cls(
            headings_deg=headings, moves=moves, free=free, bumps=bumps, changed=changed.nonzero(), share=share
        )


def train_odometer(settings: OdometerTraining) -> None:
    """Fit, train, and write `odometer/` into the run's checkpoint folder."""
    processes = Processes.join(settings.device)
    sizes = preset(settings.preset)
    autoencoder = trained_autoencoder(settings.out, settings.preset).to(processes.device)
    everything = list_episodes(settings.data)
    paths = own_share(everything, processes.rank, processes.count)
    cache = settings.out / "latents" / f"{processes.rank}_of_{processes.count}.safetensors"
    episodes = cached_latents(paths, autoencoder, cache, settings.workers, processes.main)
    motion = _fitted(everything, read_action_space(everything).sizes, processes.main)
    torch.manual_seed(settings.seed)
    model = Odometer.of(sizes.odometer, motion)
    start_weights(model, "odometer", settings.warm_start)
    model.to(processes.device)
    processes.same_start(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.01)
    state = TrainingState(model, [optimizer], decay=0.995)
    loop = TrainingLoop("odometer", settings.out, state, settings.loop, processes)
    parameters, moves = list(model.parameters()), Moves.of(episodes, motion)
    plans = None if model.foresight is None else FloorPlans.of(paths, processes.device)
    if model.foresight is not None and plans is None and processes.main:
        print("odometer: no mazes whose plans are known; foresight learns from bumps alone", flush=True)

    def take_step(step: int) -> dict[str, Tensor]:
        generator = processes.generator(settings.seed, step)
        loss, found = odometer_loss(model, episodes, moves, settings, generator, plans)
        more, errors = registration_loss(model, episodes, settings.batch, settings.noise, generator)
        optimizer.zero_grad()
        (loss + more).backward()
        processes.average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        state.average.update(model, step)
        return {"loss": (loss + more).detach(), **found, **errors}

    loop.train(take_step)
    state.average.copy_to(model)
    keep_component(model, "odometer", settings.out, processes)
    processes.leave()


def _fitted(paths: Sequence[Path], sizes: tuple[int, ...], show: bool) -> Motion:
    """The tables of some episodes: every process reads the same ones."""
    actions, poses = [], []
    for path in paths[:FIT_EPISODES]:
        with Episode.open(path) as episode:
            actions.append(torch.from_numpy(episode.actions))
            poses.append(torch.from_numpy(episode.poses))
    lengths = torch.tensor([len(each) for each in actions])
    motion, error_deg, free = fit_motion(
        nn.utils.rnn.pad_sequence(actions, batch_first=True),
        nn.utils.rnn.pad_sequence(poses, batch_first=True),
        lengths,
        sizes,
    )
    if show:
        told = f"turns to {error_deg:.2g} degrees, {free:.1%} of the steps move as told"
        print(f"odometer: actions tell {told}", flush=True)
    return motion


def draw_pairs(
    episodes: LatentEpisodes, moves: Moves, batch: int, generator: torch.Generator
) -> tuple[Int[Tensor, " batch"], Int[Tensor, " batch"]]:
    """Episodes and times of frames, every second one (if there are any) led to by a step that something changed."""
    device = generator.device
    episode = torch.randint(len(episodes), (batch,), generator=generator, device=device)
    uniform = torch.rand(batch, generator=generator, device=device)
    time = (1 + uniform * (episodes.lengths[episode] - 1)).long()
    if not len(moves.changed):
        return episode, time
    some = moves.changed[torch.randint(len(moves.changed), (batch // 2,), generator=generator, device=device)]
    return torch.cat((some[:, 0], episode[batch // 2 :])), torch.cat((some[:, 1], time[batch // 2 :]))


def odometer_loss(
    model: Odometer,
    episodes: LatentEpisodes,
    moves: Moves,
    settings: OdometerTraining,
    generator: torch.Generator,
    plans: FloorPlans | None = None,
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """Is a move changed (cross entropy), and where does it lead then (distance)?

    Also the mean errors of changed moves in map units, of frames that are seen and of frames to come. With `plans`
    foresight is taught besides where a player could not stand (cross entropy), around the end of every step.
    """
    device, batch = generator.device, settings.batch

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=device)

    episode, time = draw_pairs(episodes, moves, batch, generator)
    pairs = torch.stack((episodes.latents[episode, time - 1], episodes.latents[episode, time]), 1).float()
    noise = torch.randn(pairs.shape, generator=generator, device=device)
    pairs = add_noise(pairs, settings.noise * uniform(batch).square(), noise)
    seen = uniform(batch) < settings.seen_share
    # What it says of a step comes back to it in the next: a little wrong, or nothing where it has overlooked a bump.
    off = torch.randn(batch, 2, generator=generator, device=device) * settings.move_noise
    off = off * (uniform(batch, 1) < 1 / 3)
    bump = moves.bumps[episode, time - 1]
    off = torch.where(uniform(batch, 1) < OVERLOOKED, -bump, off)
    earlier, bump = moves.moves[episode, time - 1] + off, bump + off
    view = moves.headings_deg[episode, time - 1]
    pushed = model.motion.carry * earlier + moves.free[episode, time]
    free = turned(pushed, -view)
    true = turned(moves.moves[episode, time], -view)
    turn = moves.headings_deg[episode, time] - view
    features, around = model.views(pairs[:, 0], pairs[:, 1], turn, seen), None
    if model.foresight is not None:
        end = episodes.poses[episode, time - 1, :2] + pushed
        given = model, episodes, moves.headings_deg, episode, time
        witnesses = draw_witnesses(*given, foremost(end, pushed), settings.noise, generator)
        around = model.foresight.asked(torch.cat((end, view[:, None]), 1), witnesses)
        features = features + model.foresight.joined(around) * ~seen[:, None]
    # Told what did not happen, a sight of it must say so: of free steps there are ten times as many as of changed ones.
    error = WRONG_UNITS ** uniform(batch, 1) * torch.randn(batch, 2, generator=generator, device=device)
    wrong = seen & (uniform(batch) < WRONG_SHARE)
    told = free + error * wrong[:, None]
    made = model.judge(features, told, turn, turned(bump, -view))
    loss, errors, changed = _move_loss(made, told, true, moves.share)
    real = changed & ~wrong
    found = {"error_seen": mean_of(errors, real & seen), "error_unseen": mean_of(errors, real & ~seen)}
    if plans is not None and around is not None:
        more, found["blocked_right"] = blocked_loss(around, plans.blocked(episode, around.places))
        loss = loss + more
    return loss, found


def _move_loss(
    made: Offset, told: Float[Tensor, "batch 2"], true: Float[Tensor, "batch 2"], share: float
) -> tuple[Float[Tensor, ""], Float[Tensor, " batch"], Bool[Tensor, " batch"]]:
    """Of what is made of moves that were told; also how far off that is in map units, and which moves were changed.

    Half of the pairs were drawn for being changed; the others' share is the true one.
    """
    changed = (true - told).norm(dim=1) > FREE_WIDTH
    weight = torch.where(changed, 2 * share / (1 + share), 2 / (1 + share))
    gate = functional.binary_cross_entropy_with_logits(made.logit, changed.float(), weight)
    errors = (torch.where(made.logit[:, None] > 0, made.offset, told) - true).detach().norm(dim=1)
    return gate + offset_loss(made, true, changed, MOVE_SCALE), errors, changed
