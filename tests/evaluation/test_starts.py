import numpy as np
import pytest

from worldsim.evaluation.starts import StartSettings, find_starts, revisit_gap

SETTINGS = StartSettings(history=40, gap=30, ahead=5, distance=40.0, angle_deg=25.0, spacing=8, per_episode=3)


def walk(steps: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A random walk in a square of 200 units with two rooms; yaw crosses 0 often."""
    rng = np.random.default_rng(seed)
    position = np.cumsum(rng.normal(0, 12, (steps, 2)), axis=0)
    position = 100 - np.abs(np.abs(position) % 400 - 200)
    yaw_deg = np.cumsum(rng.normal(0, 12, steps)) % 360
    poses = np.column_stack([position, np.zeros(steps), yaw_deg]).astype(np.float32)
    return poses, (position[:, 0] > 0).astype(np.int64)


def brute_force(poses: np.ndarray, rooms: np.ndarray, start: int, recent: int) -> int | None:
    """The definition, one pair of frames at a time."""
    view = start + SETTINGS.ahead

    def sees(frame: int) -> bool:
        a, b = np.deg2rad(poses[frame, 3]), np.deg2rad(poses[view, 3])
        apart_deg = np.rad2deg(np.arccos(np.clip(np.cos(a) * np.cos(b) + np.sin(a) * np.sin(b), -1, 1)))
        far = np.sqrt(sum((float(poses[frame, axis]) - float(poses[view, axis])) ** 2 for axis in (0, 1)))
        return rooms[frame] == rooms[view] and far < SETTINGS.distance and apart_deg < SETTINGS.angle_deg

    if any(sees(frame) for frame in range(max(0, start - recent), start + 1)):
        return None
    earlier = [frame for frame in range(start) if sees(frame)]
    if not earlier:
        return -1
    return view - earlier[-1] if any(view - frame > SETTINGS.gap for frame in earlier) else None


def test_gaps_agree_with_brute_force():
    """Guards against yaw wrap-around, off-by-one limits and a forgotten room."""
    kinds = set()
    for seed in range(4):
        poses, rooms = walk(220, seed)
        for start in range(40, 200):
            want = brute_force(poses, rooms, start, recent=10)
            assert revisit_gap(poses, rooms, start, 10, SETTINGS) == want
            kinds.add("none" if want is None else "unseen" if want < 0 else "revisit")
    assert kinds == {"none", "unseen", "revisit"}


@pytest.mark.parametrize("unseen", [False, True])
def test_starts_are_spaced_limited_spread_and_repeatable(unseen: bool):
    """Guards against starts outside the episode, neighbours in time, one map taking all, a moving choice."""
    walks = [walk(220, seed) for seed in range(8)]
    poses, rooms = [each[0] for each in walks], [each[1] for each in walks]
    map_seeds = [seed // 2 for seed in range(8)]
    arguments = dict(count=8, horizon=12, recent=10, seed=3, settings=SETTINGS, unseen=unseen)
    starts = find_starts(poses, rooms, map_seeds, **arguments)
    assert starts == find_starts(poses, rooms, map_seeds, **arguments)
    assert starts != find_starts(poses, rooms, map_seeds, **{**arguments, "seed": 4})
    assert len(starts) == 8
    assert {start.map_seed for start in starts} == {0, 1, 2, 3}
    for start in starts:
        assert 40 <= start.step <= 220 - 12
        assert start.gap == brute_force(poses[start.episode], rooms[start.episode], start.step, 10)
        assert (start.gap < 0) == unseen
        assert start.map_seed == map_seeds[start.episode]
        others = [other for other in starts if other.episode == start.episode and other != start]
        assert len(others) < SETTINGS.per_episode
        assert all(abs(other.step - start.step) >= SETTINGS.spacing for other in others)


def test_no_start_names_the_thresholds():
    """Guards against an empty table without a reason."""
    still = np.zeros((150, 4), np.float32)
    with pytest.raises(
        ValueError, match=r"no revisit in 1 episodes of up to 150 steps .*gap 30, distance 40"
    ):
        find_starts(
            [still], [np.zeros(150, np.int64)], [0], count=4, horizon=12, recent=10, seed=0, settings=SETTINGS
        )
