"""Memory: what is kept, and what is recalled, against brute force over everything kept."""

import inspect
import math

import numpy as np
import pytest
import torch

from retrieval import hybrid_index
from retrieval.whereabouts import Followed
from worldsim.memory import Memory
from worldsim.recall import FARTHEST, MemoryMode, RecallSettings

SHAPE, DIM, RECENT = (2, 4, 6), 8, 22


def places(frames: int) -> torch.Tensor:
    """Random poses in a hall."""
    generator = torch.Generator().manual_seed(9)
    return torch.rand(frames, 3, generator=generator) * torch.tensor([600.0, 600.0, 720.0])


def path_of(poses: torch.Tensor, start: int, end: int) -> Followed:
    """The account of an odometer that has never erred; no move led to the first pose."""
    return Followed.of_poses(poses[None]).each(lambda known: known[:, start:end])


def filled(mode: MemoryMode, frames: int, seed: int = 0, **settings: float) -> tuple[Memory, np.ndarray]:
    """A memory of random latents, poses and unit keys, appended in uneven portions; and the keys.

    The oracle is given other, true poses.
    """
    memory = Memory(SHAPE, 3, DIM, mode, RecallSettings(**settings), torch.device("cpu"), seed=seed)
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(frames, DIM)).astype(np.float32)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    start = 0
    while start < frames:
        end = min(frames, start + int(rng.integers(1, 9)))
        latents = torch.arange(start, end).view(-1, 1, 1, 1).expand(-1, *SHAPE).float()
        actions = torch.arange(start, end)[:, None].expand(-1, 3).contiguous()
        poses = places(frames)[start:end]
        true = poses.flip(1) if mode == "oracle" else None
        memory.append(latents, actions, path_of(places(frames), start, end), keys[start:end], true)
        start = end
    return memory, keys


def unit_query(seed: int) -> np.ndarray:
    query = np.random.default_rng(seed).normal(size=DIM).astype(np.float32)
    return query / np.linalg.norm(query)


def nearness(poses: np.ndarray, pose: np.ndarray, heading: float = 1.0, position: float = 1.0) -> np.ndarray:
    """Minus the weighted squares of what parts focus points, places and headings (as chords), in widths."""

    def focus(p: np.ndarray) -> np.ndarray:
        return p[..., :2] + 96 * np.stack((np.cos(np.deg2rad(p[..., 2])), np.sin(np.deg2rad(p[..., 2]))), -1)

    poses, pose = poses.astype(np.float64), pose.astype(np.float64)
    chord_deg = np.rad2deg(2 * np.sin(np.deg2rad(poses[:, 2] - pose[2]) / 2))
    apart = ((focus(poses) - focus(pose)) ** 2).sum(1) / 90**2
    apart = apart + ((poses[:, :2] - pose[:2]) ** 2).sum(1) / 160**2
    return -(position * apart + heading * (chord_deg / 40) ** 2)


def greedy(scores: np.ndarray, count: int, gap: int) -> list[int]:
    """The best, then the best more than `gap` frames from all taken."""
    taken: list[int] = []
    for frame in np.argsort(-scores, kind="stable"):
        if len(taken) < count and all(abs(int(frame) - other) > gap for other in taken):
            taken.append(int(frame))
    return taken


@pytest.mark.parametrize("mode", ["time", "cosine", "place", "hybrid", "oracle"])
@pytest.mark.parametrize("frames", [40, 700])
@pytest.mark.parametrize(("weight", "constant", "gap"), [(0.1, 100.0, 6), (1.0, 8.0, 0), (0.4, 30.0, 20)])
@pytest.mark.parametrize("many", [0, 8192])
def test_recall_equals_brute_force(
    mode: MemoryMode,
    frames: int,
    weight: float,
    constant: float,
    gap: int,
    many: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Candidates cut off too early, an age off by one, or the gap ignored all pick other frames.

    With and without a shortlist, which is made of many frames only.
    """
    monkeypatch.setattr(hybrid_index, "MANY", many)
    memory, keys = filled(
        mode,
        frames,
        time_weight=weight,
        time_constant=constant,
        gap_frames=gap,
        heading_weight=0.3,
        position_weight=0.2,
    )
    for seed in range(5):
        query = unit_query(seed)
        ages = frames - np.arange(frames)
        time, cosine = np.exp(-ages / constant), keys.astype(np.float64) @ query
        pose = places(1000)[900 + seed]
        poses = places(frames).numpy()
        near, partly = nearness(poses, pose.numpy()), nearness(poses, pose.numpy(), 0.3, 0.2)
        scores = {
            "time": time, "cosine": cosine, "place": near, "hybrid": cosine + weight * time + partly,
            "oracle": nearness(poses[:, ::-1], pose.numpy()),
        }[mode]  # fmt: skip
        least = FARTHEST if mode == "hybrid" else -math.inf
        expected = [each for each in greedy(scores[: frames - RECENT], 4, gap) if scores[each] >= least]
        picks = memory.recall(query, pose, 4, RECENT)
        assert [pick.frame for pick in picks] == expected
        assert [pick.age for pick in picks] == [frames - frame for frame in expected]
        assert [pick.score for pick in picks] == pytest.approx(scores[expected], abs=2e-4)


@pytest.mark.parametrize(
    ("coming", "found"),
    [
        ((0.0, 0.0, 0.0), [10]),  # no key is held, or a wall stands in the way
        ((5.0, 5.0, 2.0), [10]),
        ((9.0, 0.0, 0.0), [10, 4]),
        ((0.0, 0.0, 4.0), [10, 4]),
    ],
)
def test_who_stands_recalls_no_other_place(coming: tuple[float, float, float], found: list[int]) -> None:
    """A player who ran against a wall saw nothing but it, until the frame of the beginning was old enough to be recalled:
    then the world stood where it had begun, with all that had been between forgotten."""
    poses = torch.zeros(40, 3)
    poses[:, 0] = 3000.0
    poses[4, 0], poses[10, 0], poses[39, 0] = -110.0, -3.0, 0.0
    memory = Memory(SHAPE, 3, DIM, "hybrid", RecallSettings(gap_frames=2), torch.device("cpu"))
    keys = np.repeat(unit_query(0)[None], 40, 0)
    memory.append(torch.zeros(40, *SHAPE), torch.zeros(40, 3).long(), path_of(poses, 0, 40), keys)
    picks = memory.recall(unit_query(0), torch.tensor(coming), 4, RECENT)
    assert [pick.frame for pick in picks] == found


def test_off_recalls_nothing() -> None:
    """The ablation without memory must be without memory."""
    memory, _ = filled("off", 100)
    assert memory.recall(None, None, 4, RECENT) == []
    assert not memory.needs_query


def test_random_recall_is_within_bounds_and_from_the_seed() -> None:
    """Random memory is the control of the experiment: all old frames, none recent, none twice."""
    memory, _ = filled("random", 60, seed=5)
    again, _ = filled("random", 60, seed=5)
    other, _ = filled("random", 60, seed=6)
    draws = [[pick.frame for pick in memory.recall(None, None, 4, RECENT)] for _ in range(200)]
    assert draws == [[pick.frame for pick in again.recall(None, None, 4, RECENT)] for _ in range(200)]
    assert draws != [[pick.frame for pick in other.recall(None, None, 4, RECENT)] for _ in range(200)]
    assert all(len(set(draw)) == 4 for draw in draws)
    assert {frame for draw in draws for frame in draw} == set(range(60 - RECENT))
    assert all(pick.age == 60 - pick.frame for pick in memory.recall(None, None, 4, RECENT))


@pytest.mark.parametrize("mode", ["random", "time", "hybrid"])
@pytest.mark.parametrize("frames", [0, 1, 22, 23, 24, 26])
def test_young_memories_recall_what_there_is(mode: MemoryMode, frames: int) -> None:
    """Before the world is older than the recent context there is nothing to recall."""
    memory, _ = filled(mode, frames, gap_frames=0)
    picks = memory.recall(unit_query(0), None, 4, RECENT)
    assert len(picks) == min(4, max(0, frames - RECENT))
    assert {pick.frame for pick in picks} <= set(range(max(0, frames - RECENT)))


def test_recalled_frames_lie_apart() -> None:
    """Four neighbours of one good frame show one place, not four."""
    memory, keys = filled("cosine", 400, gap_frames=6)
    frames = [pick.frame for pick in memory.recall(keys[100], None, 4, RECENT)]
    assert frames[0] == 100
    assert min(abs(a - b) for a in frames for b in frames if a != b) > 6


def test_growing_changes_nothing_that_is_kept() -> None:
    """256 frames fit at first; growth must keep order, actions and values."""
    memory, _ = filled("hybrid", 256)
    before = memory.latents(list(range(256))).clone()
    for _ in range(3):
        path = path_of(torch.full((300, 3), -2.0), 0, 300)
        actions, keys = torch.zeros(300, 3, dtype=torch.int64), np.zeros((300, DIM), np.float32)
        memory.append(torch.full((300, *SHAPE), -1.0), actions, path, keys)
    assert len(memory) == 1156
    assert torch.equal(memory.latents(list(range(256))), before)
    assert before[:, 0, 0, 0].tolist() == list(range(256))
    assert bool((memory.latents([256, 1155]) == -1).all())
    assert torch.equal(memory.poses[:256], places(256))
    assert bool((memory.poses[[256, 1155]] == -2).all())


def test_recent_frames_are_the_newest_oldest_first() -> None:
    """Order and padding of what the packer is given."""
    memory, _ = filled("off", 300)
    latents, actions, poses, present = memory.recent(5)
    assert latents[:, 0, 0, 0].tolist() == [295, 296, 297, 298, 299]
    assert actions[:, 0].tolist() == [295, 296, 297, 298, 299]
    assert bool(present.all())
    torch.testing.assert_close(poses, places(300)[-5:], rtol=1e-4, atol=1e-3)
    young, _ = filled("off", 3)
    latents, actions, poses, present = young.recent(5)
    assert present.tolist() == [False, False, True, True, True]
    assert latents[:, 0, 0, 0].tolist() == [0, 0, 0, 1, 2]
    assert actions[:, 2].tolist() == [0, 0, 0, 1, 2]
    torch.testing.assert_close(poses[2:], places(3), rtol=1e-4, atol=1e-3)
    assert not poses[:2].any()


def test_recall_leaves_the_store_as_it_was() -> None:
    """What is handed out must be copies: a caller that adds noise in place would change the past."""
    memory, _ = filled("hybrid", 50)
    memory.latents([3]).add_(1)
    memory.recent(4)[0].add_(1)
    assert memory.latents(list(range(50)))[:, 0, 0, 0].tolist() == list(range(50))


def test_unknown_mode_is_refused_in_one_line() -> None:
    """A misspelt mode must not play without memory."""
    unchecked = inspect.unwrap(Memory.__init__)  # without the type check, as outside the tests
    with pytest.raises(ValueError, match="memory mode 'hybird' is not known; use one of off, random"):
        unchecked(Memory.__new__(Memory), SHAPE, 3, DIM, "hybird", RecallSettings(), torch.device("cpu"))


def test_old_memories_keep_their_order_by_time() -> None:
    """e^(−age/τ) underflows after some 9000 frames at τ = 100: the newest of the old must still win."""
    memory, _ = filled("time", 12_000, gap_frames=6)
    frames = [pick.frame for pick in memory.recall(None, None, 4, RECENT)]
    assert frames == [11_977, 11_970, 11_963, 11_956]
    assert all(math.isfinite(pick.score) for pick in memory.recall(None, None, 4, RECENT))
