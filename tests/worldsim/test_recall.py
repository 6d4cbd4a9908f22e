"""Recall in training and at play: the same query, the same scores, the same frames."""

import math
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from retrieval.landmarks import YOUNGEST
from retrieval.place import PlaceSettings, place_keys, place_queries
from retrieval.pose_graph import SETTLE_EVERY
from worldsim.checkpoint import WorldModels
from worldsim.presets import Preset, tiny
from worldsim.recall import PLACE, RecallSettings, make_queries, score_all, score_latents, score_places
from worldsim.training.data import LatentEpisodes
from worldsim.training.moments import Moments, Pasts, recent_actions, recent_latents
from worldsim.training.recalling import BatchRecall, EpisodeMarks, Picks, RecallMixture, mark_episodes
from worldsim.world import World, WorldSettings, step_worlds

pytestmark = pytest.mark.usefixtures("nothing_is_too_far")

LENGTHS = (180, 120)
HYBRID = RecallMixture(off=0.0, oracle=0.0, own_oracle=0.0, random=0.0)


@pytest.fixture(scope="module")
def episodes() -> LatentEpisodes:
    """Latents that float16 holds exactly; the second episode is padded."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 180, 4, 12, 16, generator=generator).half()
    actions = torch.randint(3, (2, 180, 3), generator=generator, dtype=torch.uint8)
    actions[:, 0] = 0
    latents[1, 120:], actions[1, 120:] = 0, 0
    return LatentEpisodes(
        latents=latents,
        actions=actions,
        poses=300 * torch.rand(2, 180, 4, generator=generator),
        rooms=torch.zeros(2, 180, dtype=torch.int16),
        lengths=torch.tensor(LENGTHS),
    )


def pick(
    models: WorldModels,
    episodes: LatentEpisodes,
    moments: Moments,
    mixture: RecallMixture,
    marks: EpisodeMarks | None = None,
    seed: int = 0,
    own: int = 0,
    sizes: Preset | None = None,
) -> Picks:
    """What training recalls for these moments; the descriptor's keys are in float32 unless given."""
    if marks is None:
        keys = torch.stack([models.descriptor.keys(latents.float()) for latents in episodes.latents])
        marks = replace(mark_episodes(episodes, models.descriptor, models.odometer), keys=keys)
    recall = BatchRecall(episodes, marks, models.descriptor, sizes or tiny(), mixture)
    recent, present = recent_latents(episodes.latents, moments, 22)
    actions = recent_actions(episodes.actions, moments, 22, 1)
    rows = moments.episode[:, None]
    poses = marks.poses[rows, moments.frames(-22, -1).clamp(min=0)]
    gap = torch.zeros_like(moments.time)
    pasts = Pasts(moments, recent, present, poses, marks.expected[rows, moments.frames(0, 0)], gap)
    return recall.pick(pasts, actions, own, torch.Generator().manual_seed(seed))


def world_at(models: WorldModels, episodes: LatentEpisodes, episode: int, time: int, mode: str) -> World:
    world = World(models, WorldSettings(memory_mode=mode))
    poses = episodes.poses[episode, :time][:, [0, 1, 3]] if mode == "oracle" else None
    world.observe(
        episodes.latents[episode, :time].float(), episodes.actions[episode, :time], true_poses=poses
    )
    return world


MOMENTS = Moments(episode=torch.tensor([0, 0, 0, 1, 1, 0]), time=torch.tensor([170, 60, 24, 119, 33, 5]))


@pytest.mark.parametrize(("too_far", "fewest", "most"), [(None, 14, 20), (0.5, 1, 13)])
def test_training_recalls_what_play_recalls(
    tiny_models: WorldModels,
    episodes: LatentEpisodes,
    monkeypatch: pytest.MonkeyPatch,
    too_far: float | None,
    fewest: int,
    most: int,
) -> None:
    """The model must train on the very frames that memory will hand it: not an age, an action or a gap beside.

    Where an untrained odometer puts frames is chance: as a limit serves the score that part of the recalled ones lack.
    """
    monkeypatch.setattr("worldsim.recall.FARTHEST", -math.inf)
    if too_far is not None:
        scores = []
        for episode, time in zip(MOMENTS.episode.tolist(), MOMENTS.time.tolist(), strict=True):
            world = world_at(tiny_models, episodes, episode, time, "hybrid")
            action = episodes.actions[episode, time : time + 1].long().numpy()
            scores += [one.score for one in world.step(action).recalled]
        monkeypatch.setattr("worldsim.recall.FARTHEST", float(np.quantile(scores, too_far)))
    picks = pick(tiny_models, episodes, MOMENTS, HYBRID)
    seen = 0
    for i, (episode, time) in enumerate(zip(MOMENTS.episode.tolist(), MOMENTS.time.tolist(), strict=True)):
        world = world_at(tiny_models, episodes, episode, time, "hybrid")
        action = episodes.actions[episode, time : time + 1].long().numpy()
        recalled = world.step(action).recalled
        assert picks.frames[i][picks.present[i]].tolist() == [one.frame for one in recalled]
        assert (time - picks.frames[i])[picks.present[i]].tolist() == [one.age for one in recalled]
        seen += len(recalled)
    assert fewest <= seen <= most


@pytest.mark.parametrize("measure", ["learned", "latent"])
def test_training_ranks_what_play_ranks(
    models_of, episodes: LatentEpisodes, monkeypatch: pytest.MonkeyPatch, measure: str
) -> None:
    """A history in the order of importance: the same frames in the same slots, none twice, by either measure."""
    transformer = replace(tiny().transformer, schedule="td_s4k2s2k1_f16k4f4k2f2k1_r2k1_g1")
    recall = RecallSettings(measure=measure, time_weight=0.5)
    sizes = replace(tiny(), transformer=transformer, recall=recall)
    models = models_of(sizes)
    picks = pick(models, episodes, MOMENTS, HYBRID, sizes=sizes)
    packed = []
    pack = type(models.transformer).pack
    monkeypatch.setattr(
        type(models.transformer), "pack", lambda model, past: packed.append(past) or pack(model, past)
    )
    for i, (episode, time) in enumerate(zip(MOMENTS.episode.tolist(), MOMENTS.time.tolist(), strict=True)):
        world = world_at(models, episodes, episode, time, "hybrid")
        recalled = world.step(episodes.actions[episode, time : time + 1].long().numpy()).recalled
        assert picks.frames[i][picks.present[i]].tolist() == [one.frame for one in recalled]
        ranked, ages = packed[-1].ranked, packed[-1].ranked.ages[0]
        assert torch.equal(ranked.present[0], picks.ranked_present[i])
        real = picks.ranked_present[i]
        assert (time - ages[real]).tolist() == picks.ranked[i][real].tolist()
        assert int(real.sum()) == min(6, max(0, time - 22 - len(recalled)))
        everything = picks.frames[i][picks.present[i]].tolist() + picks.ranked[i][real].tolist()
        assert len(set(everything)) == len(everything)
        assert torch.equal(ranked.latents[0][real], episodes.latents[episode, picks.ranked[i][real]].float())


def test_the_papers_measure_by_hand(episodes: LatentEpisodes) -> None:
    """sim_cos over latent pixels + λ exp(−Δt²) in seconds, one frame at a time."""
    settings = RecallSettings(measure="latent", time_weight=0.3, frames_per_second=8.0)
    latents = episodes.latents[:, 10:30].float()
    newest = episodes.latents[:, 30].float()
    ages = torch.arange(21, 1, -1).expand(2, -1)
    scores = score_latents(latents, newest, ages, settings)
    for row in range(2):
        for i in range(20):
            pixels = [
                float(torch.cosine_similarity(latents[row, i, :, y, x], newest[row, :, y, x], dim=0))
                for y in range(12)
                for x in range(16)
            ]
            seconds = (int(ages[row, i]) - 1) / 8.0
            expected = np.mean(pixels) + 0.3 * np.exp(-(seconds**2))
            assert float(scores[row, i]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("recognises", [False, True])
def test_training_knows_the_places_that_play_knows(
    tiny_models: WorldModels, episodes: LatentEpisodes, recognises: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The odometer follows whole episodes in training and frame by frame at play, then both settle: one estimate."""
    monkeypatch.setattr("worldsim.memory.SETTLE_EVERY", 1000)
    odometer = deepcopy(tiny_models.odometer)
    models = replace(tiny_models, odometer=odometer, makers={})
    if recognises:
        odometer.registration.mlp[-1].bias.copy_(torch.tensor([9.0, 0.3, -0.2, -2.0]))
    names = ("latents", "actions", "poses", "rooms")
    short = {name: getattr(episodes, name)[:, :90] for name in names}
    episodes = LatentEpisodes(**short, lengths=torch.full_like(episodes.lengths, 90))
    followed = odometer.follow(episodes.latents.float(), episodes.actions)
    marks = mark_episodes(episodes, models.descriptor, odometer)
    world = world_at(models, episodes, 0, 40, "hybrid")
    for time in range(40, 90):  # an action's window reaches across what has been observed before
        world.observe(episodes.latents[0, time : time + 1].float(), episodes.actions[0, time : time + 1])
    torch.testing.assert_close(world.memory.poses[:90], followed.poses[0], atol=2e-2, rtol=0)
    torch.testing.assert_close(world.where.pose[0], followed.poses[0, -1], atol=2e-2, rtol=0)
    shift = world.memory.settle()
    torch.testing.assert_close(world.memory.poses[:90], marks.poses[0], atol=2e-2, rtol=0)
    torch.testing.assert_close(shift, (marks.poses - followed.poses)[0, -1, :2], atol=2e-2, rtol=0)
    moments = Moments(episode=torch.tensor([0]), time=torch.tensor([90]))
    recent = marks.recent_poses(moments, 22)[0]
    torch.testing.assert_close(world.memory.recent(22)[2], recent, atol=2e-2, rtol=0)
    # What was expected is told from where the frame before it is now taken to be.
    told, known = ((each.expected[0, 1:] - each.poses[0, :-1])[:, :2] for each in (marks, followed))
    # An untrained odometer goes a thousand units away, where float32 tells steps to 6e-5.
    torch.testing.assert_close(told, known, atol=2e-4, rtol=0)
    steps = (followed.poses[0, 1:] - followed.poses[0, :-1])[:, :2]
    jumps = (steps - followed.moves[0, 1:]).norm(dim=1)
    assert float(jumps[: YOUNGEST - 1].max()) < 1e-2
    assert float(jumps[YOUNGEST:].median()) > 1 if recognises else float(jumps.max()) < 1e-2
    assert (float(shift.norm()) > 0.1) == recognises
    assert float(followed.poses[0, :, :2].abs().max()) > 20
    assert float((followed.expected - followed.poses)[0, 1:, :2].abs().mean()) > 0.1


def test_what_is_recalled_follows_the_places_that_have_settled(
    tiny_models: WorldModels, episodes: LatentEpisodes
) -> None:
    """An index that went on with the old places would recall other frames than training does."""
    odometer = deepcopy(tiny_models.odometer)
    odometer.registration.mlp[-1].bias.copy_(torch.tensor([9.0, 0.9, -0.7, -2.0]))
    world = world_at(replace(tiny_models, odometer=odometer, makers={}), episodes, 0, 120, "place")
    poses = world.memory.poses[:98]
    followed = odometer.follow(episodes.latents[:1, :120].float(), episodes.actions[:1, :120])
    assert float((poses - followed.poses[0, :98]).abs().max()) > 1
    for wanted in poses[::13]:
        found = world.memory.recall(None, wanted, 1, 22)[0]
        scores = place_keys(poses, PLACE) @ place_queries(wanted[None], PLACE)[0]
        assert found.score == pytest.approx(float(scores.max()), abs=1e-3)
        assert float(scores[found.frame]) == pytest.approx(float(scores.max()), abs=1e-3)


def test_players_and_their_memory_know_one_place(tiny_models: WorldModels, episodes: LatentEpisodes) -> None:
    """Whatever is recognised and whenever all settles: the newest frame was seen from where the player is."""
    odometer = deepcopy(tiny_models.odometer)
    odometer.registration.mlp[-1].bias.copy_(torch.tensor([9.0, 0.9, -0.7, -2.0]))
    world = world_at(replace(tiny_models, odometer=odometer, makers={}), episodes, 0, 60, "hybrid")
    moved = 0
    for _ in range(20):
        before = world.memory.poses[[50]]
        world.step(np.array([[1, 0, 0]]))
        moved += not torch.equal(world.memory.poses[[50]], before)
        newest = world.memory.poses[-1:]
        torch.testing.assert_close(newest, world.where.pose, atol=1e-3, rtol=0)
    assert moved == 20 // SETTLE_EVERY


def test_rounded_keys_recall_as_good_frames(tiny_models: WorldModels, episodes: LatentEpisodes) -> None:
    """Training keeps keys in float16: what it takes instead must score the same within the rounding."""
    marks = mark_episodes(episodes, tiny_models.descriptor, tiny_models.odometer)
    assert marks.keys.dtype == torch.float16
    picks = pick(tiny_models, episodes, MOMENTS, HYBRID, marks)
    exact = pick(tiny_models, episodes, MOMENTS, HYBRID)
    assert torch.equal(picks.present, exact.present)
    recent, present = recent_latents(episodes.latents, MOMENTS, 22)
    actions = recent_actions(episodes.actions, MOMENTS, 22, 1)
    queries = make_queries(tiny_models.descriptor, recent, present, actions, 1)
    ages = MOMENTS.time[:, None] - torch.arange(180)
    rows = MOMENTS.episode
    coming = marks.expected[rows, MOMENTS.time]
    scores = score_all(marks.keys[rows], queries, ages, marks.poses[rows], coming, RecallSettings())
    # The best of all is compared; later ones depend on which of two equals was taken first.
    best = [scores.gather(1, each.frames[:, :1])[each.present[:, :1]] for each in (picks, exact)]
    torch.testing.assert_close(*best, atol=2e-3, rtol=0)


ORACLE = RecallMixture(off=0.0, oracle=1.0, random=0.0)


def test_oracle_of_training_and_play_agree(tiny_models: WorldModels, episodes: LatentEpisodes) -> None:
    """Both go by true poses, which say nothing of what the odometer thinks."""
    still = LatentEpisodes(**vars(episodes) | {"poses": episodes.poses.clone()})
    still.poses[0, 150] = still.poses[0, 37]
    # As old as the episode's end, so that nothing lies ahead.
    ended = LatentEpisodes(**vars(still) | {"lengths": torch.tensor([151, 120])})
    moments = Moments(episode=torch.tensor([0]), time=torch.tensor([150]))
    picks = pick(tiny_models, ended, moments, ORACLE)
    world = world_at(tiny_models, ended, 0, 150, "oracle")
    true = ended.poses[:1, 150:151][..., [0, 1, 3]]
    section = step_worlds([world], torch.zeros(1, 1, 3, dtype=torch.int64), true)
    assert picks.frames[0].tolist() == [one.frame for one in section[0].recalled]
    assert picks.frames[0, 0] == 37


def test_the_oracle_of_training_may_look_ahead(tiny_models: WorldModels, episodes: LatentEpisodes) -> None:
    """Views to come teach drawing from memory too; but none of the padding, and none of the recent context."""
    twice = LatentEpisodes(**vars(episodes) | {"poses": episodes.poses.clone()})
    twice.poses[1, 110] = twice.poses[1, 40]
    twice.poses[1, 130] = twice.poses[1, 41]  # beyond the end
    twice.poses[1, 50] = twice.poses[1, 42]  # within reach of the recent context's length
    moments = Moments(episode=torch.ones(3, dtype=torch.int64), time=torch.tensor([40, 41, 42]))
    picks = pick(tiny_models, twice, moments, ORACLE)
    assert picks.frames[0, 0] == 110
    ages = moments.time[:, None] - picks.frames
    assert bool((ages.abs() > 22)[picks.present].all())
    assert bool((picks.frames < 120).all())


def many(count: int, time: int = 170) -> Moments:
    return Moments(episode=torch.zeros(count, dtype=torch.int64), time=torch.full((count,), time))


def test_mixture_takes_its_shares(tiny_models: WorldModels, episodes: LatentEpisodes) -> None:
    """Every way of recall must come up as often as told, else the ablations compare untrained modes."""
    hybrid = pick(tiny_models, episodes, many(1), HYBRID).frames[0]
    oracle = pick(tiny_models, episodes, many(1), RecallMixture(off=0.0, oracle=1.0, random=0.0)).frames[0]
    assert not torch.equal(hybrid, oracle)
    picks = pick(tiny_models, episodes, many(800), RecallMixture(off=0.2, oracle=0.3, random=0.1))
    without = ~picks.present.any(1)
    by_hybrid = picks.present.all(1) & (picks.frames == hybrid).all(1)
    by_oracle = picks.present.all(1) & (picks.frames == oracle).all(1)
    shares = [float(kind.float().mean()) for kind in (without, by_oracle, by_hybrid)]
    assert shares == pytest.approx([0.2, 0.3, 0.4], abs=0.05)
    by_chance = ~(without | by_oracle | by_hybrid)
    assert len(picks.frames[by_chance].unique()) > 100


def test_own_histories_have_a_share_of_their_own(tiny_models: WorldModels, episodes: LatentEpisodes) -> None:
    """The last rows are the model's own: taken for the first ones, the mixtures would change places."""
    hybrid, oracle = (pick(tiny_models, episodes, many(1), each).frames[0] for each in (HYBRID, ORACLE))
    mixture = RecallMixture(off=0.0, oracle=0.0, own_oracle=1.0, random=0.0)
    picks = pick(tiny_models, episodes, many(6), mixture, own=2)
    assert torch.equal(picks.frames, torch.stack([hybrid] * 4 + [oracle] * 2))
    with pytest.raises(ValueError, match=r"shares off 0.3, .* own_oracle 0.5, random 0.3 add up to 1.1"):
        RecallMixture(off=0.3, random=0.3)


@pytest.mark.parametrize("mixture", [HYBRID, RecallMixture(off=0.0, oracle=0.0, own_oracle=0.0, random=1.0)])
def test_nothing_recent_coming_or_padded_is_recalled(
    tiny_models: WorldModels, episodes: LatentEpisodes, mixture: RecallMixture
) -> None:
    """A recalled frame of the future would leak the target into training."""
    for episode, length in enumerate(LENGTHS):
        times = torch.arange(1, length)
        moments = Moments(episode=torch.full_like(times, episode), time=times)
        picks = pick(tiny_models, episodes, moments, mixture)
        ages = times[:, None] - picks.frames
        assert bool((ages[picks.present] > 22).all())
        assert bool((picks.frames >= 0).all())
        assert torch.equal(picks.present.any(1), times > 22)
        gaps = (picks.frames[:, :, None] - picks.frames[:, None]).abs()
        both = picks.present[:, :, None] & picks.present[:, None] & ~torch.eye(4, dtype=torch.bool)
        assert bool((gaps[both] > 6).all())


def test_recall_comes_from_its_generator(tiny_models: WorldModels, episodes: LatentEpisodes) -> None:
    """A resumed training repeats its draws."""
    mixture = RecallMixture(off=0.2, oracle=0.2, own_oracle=0.2, random=0.4)
    first, again, other = (pick(tiny_models, episodes, many(60), mixture, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.frames, again.frames)
    assert torch.equal(first.present, again.present)
    assert not torch.equal(first.frames, other.frames)


def test_scores_by_hand() -> None:
    """cosine + λ e^(−age/τ) − what place and heading cost, of each row with its own query."""
    rng = np.random.default_rng(0)
    keys, queries = rng.normal(size=(2, 5, 3)), rng.normal(size=(2, 3))
    ages = np.array([[5, 4, 3, 2, 1], [100, 50, 20, 10, 0]])
    poses, coming = 200 * torch.rand(2, 5, 3), 200 * torch.rand(2, 3)
    settings = RecallSettings(time_weight=0.7, time_constant=20.0, heading_weight=0.4, position_weight=0.3)
    scores = score_all(
        torch.from_numpy(keys).float(),
        torch.from_numpy(queries).float(),
        torch.from_numpy(ages),
        poses,
        coming,
        settings,
    )
    near = score_places(poses, coming, PlaceSettings(heading_weight=0.4, position_weight=0.3))
    for row in range(2):
        for n in range(5):
            expected = keys[row, n] @ queries[row] + 0.7 * np.exp(-ages[row, n] / 20) + near[row, n]
            assert float(scores[row, n]) == pytest.approx(float(expected), abs=1e-4)


def test_query_looks_at_recent_frames_and_actions(tiny_models: WorldModels, episodes: LatentEpisodes) -> None:
    """Ages 1, 2, 4 and 8 and the coming action: only they, and each of them."""
    moments = Moments(episode=torch.tensor([0]), time=torch.tensor([50]))
    recent, present = recent_latents(episodes.latents, moments, 22)
    actions = recent_actions(episodes.actions, moments, 22, 1)
    descriptor = deepcopy(tiny_models.descriptor)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        # Fresh residual blocks are the identity, blind to actions.
        for block in descriptor.blocks:
            torch.nn.init.normal_(block.convolutions[1].weight, std=0.2)
    usual = make_queries(descriptor, recent, present, actions, 1)
    for age in range(1, 23):
        changed = recent.clone()
        changed[:, -age] += torch.randn(4, 12, 16, generator=torch.Generator().manual_seed(age))
        same = torch.equal(usual, make_queries(descriptor, changed, present, actions, 1))
        assert same == (age not in (1, 2, 4, 8)), age
    for back in range(1, 15):
        changed = actions.clone()
        changed[:, -back, 1] = (changed[:, -back, 1] + 1) % 3
        same = torch.equal(usual, make_queries(descriptor, recent, present, changed, 1))
        assert same == (back > 9), back
