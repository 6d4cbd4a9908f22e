"""Recall in training and at play: the same query, the same scores, the same frames."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from worldsim.checkpoint import WorldModels
from worldsim.presets import tiny
from worldsim.recall import RecallSettings, make_queries, score_all
from worldsim.training.data import LatentEpisodes
from worldsim.training.moments import Moments, coming_latents, recent_actions, recent_latents
from worldsim.training.recalling import BatchRecall, EpisodeKeys, Picks, RecallMixture, episode_keys
from worldsim.world import World, WorldSettings, step_worlds

LENGTHS = (180, 120)
HYBRID = RecallMixture(off=0.0, oracle=0.0, random=0.0)


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
        poses=torch.zeros(2, 180, 4),
        rooms=torch.zeros(2, 180, dtype=torch.int16),
        lengths=torch.tensor(LENGTHS),
    )


def pick(
    models: WorldModels,
    episodes: LatentEpisodes,
    moments: Moments,
    mixture: RecallMixture,
    keys: EpisodeKeys | None = None,
    seed: int = 0,
) -> Picks:
    """What training recalls for these moments; the learned keys are in float32 unless given."""
    if keys is None:
        keys = EpisodeKeys(
            learned=torch.stack([models.descriptor.keys(latents.float()) for latents in episodes.latents]),
            pooled=torch.stack([models.pooled.keys(latents.float()).half() for latents in episodes.latents]),
        )
    recall = BatchRecall(keys, models.descriptor, models.pooled, tiny(), mixture)
    recent, present = recent_latents(episodes.latents, moments, 22)
    actions = recent_actions(episodes.actions, moments, 22, 1)
    coming = coming_latents(episodes.latents, moments, 1)
    return recall.pick(moments, recent, present, actions, coming, torch.Generator().manual_seed(seed))


def world_at(models: WorldModels, episodes: LatentEpisodes, episode: int, time: int, mode: str) -> World:
    world = World(models, WorldSettings(memory_mode=mode))
    world.observe(episodes.latents[episode, :time].float(), episodes.actions[episode, :time])
    return world


MOMENTS = Moments(episode=torch.tensor([0, 0, 0, 1, 1, 0]), time=torch.tensor([170, 60, 24, 119, 33, 5]))


def test_training_recalls_what_play_recalls(tiny_models: WorldModels, episodes: LatentEpisodes) -> None:
    """The model must train on the very frames that memory will hand it: not an age, an action or a gap beside."""
    picks = pick(tiny_models, episodes, MOMENTS, HYBRID)
    seen = 0
    for i, (episode, time) in enumerate(zip(MOMENTS.episode.tolist(), MOMENTS.time.tolist(), strict=True)):
        world = world_at(tiny_models, episodes, episode, time, "hybrid")
        action = episodes.actions[episode, time : time + 1].long().numpy()
        recalled = world.step(action).recalled
        assert picks.frames[i][picks.present[i]].tolist() == [one.frame for one in recalled]
        assert (time - picks.frames[i])[picks.present[i]].tolist() == [one.age for one in recalled]
        seen += len(recalled)
    assert seen >= 14


def test_rounded_keys_recall_as_good_frames(tiny_models: WorldModels, episodes: LatentEpisodes) -> None:
    """Training keeps keys in float16: what it takes instead must score the same within the rounding."""
    keys = episode_keys(episodes, tiny_models.descriptor, tiny_models.pooled)
    assert keys.learned.dtype == torch.float16
    picks = pick(tiny_models, episodes, MOMENTS, HYBRID, keys)
    exact = pick(tiny_models, episodes, MOMENTS, HYBRID)
    assert torch.equal(picks.present, exact.present)
    recent, present = recent_latents(episodes.latents, MOMENTS, 22)
    actions = recent_actions(episodes.actions, MOMENTS, 22, 1)
    queries = make_queries(tiny_models.descriptor, recent, present, actions, 1)
    ages = MOMENTS.time[:, None] - torch.arange(180)
    scores = score_all(keys.learned[MOMENTS.episode], queries, ages, RecallSettings())
    # The best of all is compared; later ones depend on which of two equals was taken first.
    best = [scores.gather(1, each.frames[:, :1])[each.present[:, :1]] for each in (picks, exact)]
    torch.testing.assert_close(*best, atol=2e-3, rtol=0)


def test_oracle_of_training_and_play_agree(tiny_models: WorldModels, episodes: LatentEpisodes) -> None:
    """Both look for the true coming view in pooled latents: an episode that shows it twice."""
    twice = LatentEpisodes(**vars(episodes) | {"latents": episodes.latents.clone()})
    twice.latents[0, 150] = twice.latents[0, 37]
    moments = Moments(episode=torch.tensor([0]), time=torch.tensor([150]))
    picks = pick(tiny_models, twice, moments, RecallMixture(off=0.0, oracle=1.0, random=0.0))
    world = world_at(tiny_models, twice, 0, 150, "oracle")
    section = step_worlds(
        [world], torch.zeros(1, 1, 3, dtype=torch.int64), twice.latents[:1, 150:151].float()
    )
    assert picks.frames[0, 0] == 37 == section[0].recalled[0].frame


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


@pytest.mark.parametrize("mixture", [HYBRID, RecallMixture(off=0.0, oracle=0.0, random=1.0)])
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
    mixture = RecallMixture(off=0.2, oracle=0.2, random=0.4)
    first, again, other = (pick(tiny_models, episodes, many(60), mixture, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.frames, again.frames)
    assert torch.equal(first.present, again.present)
    assert not torch.equal(first.frames, other.frames)


def test_scores_by_hand() -> None:
    """cosine + λ e^(−age/τ) of each row with its own query."""
    rng = np.random.default_rng(0)
    keys, queries = rng.normal(size=(2, 5, 3)), rng.normal(size=(2, 3))
    ages = np.array([[5, 4, 3, 2, 1], [100, 50, 20, 10, 0]])
    settings = RecallSettings(time_weight=0.7, time_constant=20.0)
    scores = score_all(
        torch.from_numpy(keys).float(), torch.from_numpy(queries).float(), torch.from_numpy(ages), settings
    )
    for row in range(2):
        for n in range(5):
            expected = keys[row, n] @ queries[row] + 0.7 * np.exp(-ages[row, n] / 20)
            assert float(scores[row, n]) == pytest.approx(expected, abs=1e-5)


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
