"""`HybridIndex` against brute force in float64."""

import json
import resource

import numpy as np
import pytest

from retrieval import HybridIndex, HybridIndexSettings


def unit(rng, n, dim=16):
    keys = rng.standard_normal((n, dim)).astype(np.float32)
    return keys / np.linalg.norm(keys, axis=1, keepdims=True)


def brute_scores(settings, keys, times, queries, time, mode):
    cosine = queries.astype(np.float64) @ keys.astype(np.float64).T
    decay = np.exp(-(time - times).astype(np.float64) / settings.time_constant)
    if mode == "hybrid":
        return cosine + settings.time_weight * decay
    return cosine if mode == "cosine" else 0 * cosine + decay


def assert_exact(index, keys, times, queries, time, count, exclude_from=None, mode="hybrid"):
    """What is found has its true score, and nothing left out is better, by brute force in float64."""
    scores, ids = index.search(queries, time, count, exclude_from, mode)
    limit = len(keys) if exclude_from is None else exclude_from
    truth = brute_scores(index.settings, keys[:limit], times[:limit], queries, time, mode)
    assert ((ids >= 0) & (ids < limit)).all()
    assert all(len(set(row)) == count for row in ids.tolist())
    np.testing.assert_allclose(scores, np.take_along_axis(truth, ids, 1), atol=2e-6)
    np.testing.assert_allclose(scores, -np.sort(-truth, axis=1)[:, :count], atol=2e-6)


@pytest.mark.parametrize("mode", ["hybrid", "cosine", "time"])
@pytest.mark.parametrize("time_constant", [10.0, 100.0, 1000.0])
def test_exact_while_a_world_grows(time_constant, mode):
    """Guards against float32 overflow of the factorised time: 6,000 frames are 600 time constants of 10."""
    rng = np.random.default_rng(0)
    index = HybridIndex(HybridIndexSettings(dim=16, time_weight=0.5, time_constant=time_constant))
    start, n = 12_345, 6000
    keys, times = unit(rng, n), start + np.arange(n)
    for i in range(n):
        index.add(keys[i : i + 1], times[i : i + 1])
        if i % 150 == 149:
            exclude_from = i - 24
            query = unit(rng, 2)
            assert_exact(index, keys[: i + 1], times[: i + 1], query, start + i + 1, 8, exclude_from, mode)
    assert len(index) == n
    np.testing.assert_array_equal(index.times, times)
    np.testing.assert_array_equal(index.keys(), keys)


def test_exact_at_300_000_entries():
    """Guards against errors that pile up with every move of the reference (here 500 of them)."""
    rng = np.random.default_rng(1)
    index = HybridIndex(HybridIndexSettings(dim=16, time_weight=0.3, time_constant=10.0))
    keys, times = unit(rng, 300_000), np.arange(300_000)
    for begin in range(0, 300_000, 600):
        index.add(keys[begin : begin + 600], times[begin : begin + 600])
    for exclude_from in (None, 299_970, 1000):
        assert_exact(index, keys, times, unit(rng, 3), 300_000, 16, exclude_from)


def test_exact_when_asked_about_earlier_times():
    """Guards against a reference stuck at the newest time: replay searches an episode at any of its times."""
    rng = np.random.default_rng(2)
    index = HybridIndex(HybridIndexSettings(dim=16, time_weight=0.5, time_constant=10.0))
    keys, times = unit(rng, 5000), 3 * np.arange(5000)
    index.add(keys, times)
    for step in (4000, 50, 1700, 1710, 4999, 20, 80):
        assert_exact(index, keys, times, unit(rng, 2), int(times[step]), 8, step)
    index.add(keys[:100], times[-1] + np.arange(100))
    keys, times = np.concatenate([keys, keys[:100]]), np.concatenate([times, times[-1] + np.arange(100)])
    assert_exact(index, keys, times, unit(rng, 2), int(times[-1]), 8)


@pytest.mark.parametrize("mode", ["hybrid", "cosine", "time"])
@pytest.mark.parametrize("apart", [0.0, 3.0])
def test_exact_where_most_keys_are_not_read(mode, apart):
    """Guards against a shortlist that rules out an entry whose other columns, or age, make up for the last ones.

    Forty old keys lie where the query does and look the other way; twenty new ones look the same way and lie as far off as
    that is just worth. All others lie `apart` and more. A rewind writes over a part.
    """
    rng = np.random.default_rng(7)
    settings = HybridIndexSettings(dim=18, time_weight=0.5, time_constant=50.0, telling=2)
    index, n = HybridIndex(settings), 20_000
    query = np.concatenate([unit(rng, 1), [[1.0, -1.0]]], 1).astype(np.float32)
    far = apart * (0.5 + rng.exponential(size=(n, 2)))
    keys = np.concatenate([unit(rng, n), far * [[-1, 1]]], 1).astype(np.float32)
    opposite, alike = rng.choice(9000, 40, replace=False), n - 30 - np.arange(20)
    keys[opposite] = [*-query[0, :16], 0, 0]
    keys[alike, :16], keys[alike, 17] = query[0, :16], 0
    keys[alike, 16] = -np.linspace(1.6, 2.6, 20)
    index.add(keys[:9000], np.arange(9000))
    index.add(unit(rng, 500, 18), np.arange(9000, 9500))
    index.remove_after(9000)
    index.add(keys[9000:], np.arange(9000, n))
    for exclude_from in (None, n - 22, 10_000, 100):
        assert_exact(index, keys, np.arange(n), query, n, 40, exclude_from, mode)
    read = index._shortlist.chosen(query[0], 40, n, 0.5)
    assert (read is None) if apart == 0 else read.sum() == 40 + 18  # 2.5 units off at most
    if apart and mode != "time":
        found = np.isin(alike, index.search(query, n, 40, mode=mode)[1]).sum()
        assert found == {"cosine": 8, "hybrid": 12}[mode]  # 2 off at most; the younger, the farther


def test_keys_told_anew_are_found_by_what_they_say_now(monkeypatch):
    """Places are mended long after a frame was new; also where most keys are ruled out unread."""
    monkeypatch.setattr("retrieval.hybrid_index.MANY", 100)
    rng = np.random.default_rng(7)
    index = HybridIndex(HybridIndexSettings(dim=16, time_weight=0.3, telling=5))
    keys, times = unit(rng, 3000), np.arange(3000)
    keys[:, :11] *= 0.1
    index.add(keys, times)
    for first, count in ((2500, 500), (0, 700), (1200, 1), (3000, 0)):
        keys[first : first + count, 11:] = 3 * rng.standard_normal((count, 5))
        index.retell(first, keys[first : first + count, 11:])
        for _ in range(3):
            assert_exact(index, keys, times, unit(rng, 1), 3000, 8, 2990)
    np.testing.assert_array_equal(index.keys(), keys)
    for first, told in ((2999, keys[:2, 11:]), (-1, keys[:2, 11:]), (0, keys[:2, 10:])):
        with pytest.raises(ValueError, match=r"numbers do not fit keys .* of 3000: want 5 a key"):
            index.retell(first, told)


def test_the_last_excluded_and_the_first_included_entry():
    """Guards against an off-by-one at exclude_from: recalling what the recent context holds already."""
    keys = np.eye(4, dtype=np.float32)
    index = HybridIndex(HybridIndexSettings(dim=4, time_weight=0.0))
    index.add(keys, np.arange(4))
    assert index.search(keys[2:3], 4, 1, exclude_from=3)[1].item() == 2
    assert index.search(keys[2:3], 4, 4, exclude_from=2)[1][0, :2].tolist() in ([0, 1], [1, 0])
    assert index.search(keys[2:3], 4, 4, exclude_from=2)[1][0, 2:].tolist() == [-1, -1]
    assert index.search(keys[2:3], 4, 1, exclude_from=99)[1].item() == 2


def test_fewer_entries_than_asked_for():
    """Guards against invented ids in a young world."""
    index = HybridIndex(HybridIndexSettings(dim=4))
    queries = np.eye(4, dtype=np.float32)[:2]
    for exclude_from in (None, 0, -5, 3):
        scores, ids = index.search(queries, 0, 3, exclude_from)
        assert (ids == -1).all()
        assert (scores == -np.inf).all()
        assert (scores.dtype, ids.dtype, ids.shape) == (np.float32, np.int64, (2, 3))
    index.add(queries, np.array([0, 1]))
    scores, ids = index.search(queries[:1], 2, 3, mode="cosine")
    assert ids.tolist() == [[0, 1, -1]]
    assert scores.tolist() == [[1.0, 0.0, -np.inf]]


def test_remove_after_is_as_if_never_added():
    """Guards a rewind: a branch must not recall frames of the future that was left."""
    rng = np.random.default_rng(3)
    index = HybridIndex(HybridIndexSettings(dim=16, time_weight=0.5, time_constant=10.0))
    keys = unit(rng, 3000)
    index.add(keys[:2000], np.arange(2000))
    index.remove_after(500)
    assert len(index) == 500
    assert_exact(index, keys[:500], np.arange(500), unit(rng, 2), 500, 8)
    index.add(keys[2000:], np.arange(500, 1500))
    branch = np.concatenate([keys[:500], keys[2000:]])
    assert_exact(index, branch, np.arange(1500), unit(rng, 2), 1500, 8)
    index.remove_after(0)
    assert (index.search(keys[:1], 0, 1)[1] == -1).all()
    with pytest.raises(ValueError, match="cannot keep 1 of 0"):
        index.remove_after(1)


def test_saved_and_loaded_it_answers_the_same(tmp_path):
    """Guards against losing times or the reference in the file, and against leftovers beside it."""
    rng = np.random.default_rng(4)
    index = HybridIndex(HybridIndexSettings(dim=16, time_weight=0.5, time_constant=10.0))
    keys, times = unit(rng, 2000), 77 + np.arange(2000)
    for mode in ("empty", "full"):
        index.save(tmp_path / "index.npz")
        assert [p.name for p in tmp_path.iterdir()] == ["index.npz"]
        loaded = HybridIndex.load(tmp_path / "index.npz")
        assert (loaded.settings, len(loaded)) == (index.settings, len(index))
        if mode == "empty":
            index.add(keys, times)
    query = unit(rng, 3)
    for ours, theirs in zip(index.search(query, 2077, 9), loaded.search(query, 2077, 9), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    other = HybridIndexSettings(dim=16, time_weight=0.1, time_constant=300.0)
    assert_exact(HybridIndex.load(tmp_path / "index.npz", other), keys, times, query, 2077, 9)


def test_bad_files_are_named_in_one_line(tmp_path):
    """Guards against a traceback, or a silently wrong index, after a torn write or a changed descriptor."""
    path = tmp_path / "index.npz"
    with pytest.raises(FileNotFoundError, match=r"no index here; rebuild"):
        HybridIndex.load(path)
    index = HybridIndex(HybridIndexSettings(dim=8))
    index.add(unit(np.random.default_rng(5), 500, 8), np.arange(500))
    index.save(path)
    with pytest.raises(ValueError, match=r"not of dim 9; rebuild"):
        HybridIndex.load(path, HybridIndexSettings(dim=9))
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    for torn in (whole[: len(whole) // 2], whole[:-10], whole[10:], b"", bytes(flipped), b"[1, 2]"):
        path.write_bytes(torn)
        with pytest.raises(ValueError, match=r"not a whole index file; rebuild") as caught:
            HybridIndex.load(path)
        assert "\n" not in str(caught.value)
    for header in ({"format": "worldsim-hybrid-index-9"}, {}):
        np.savez(path, header=np.array(json.dumps(header)), times=np.arange(2), keys=np.eye(2))
        with pytest.raises(ValueError, match=r"has format .*, this version reads"):
            HybridIndex.load(path)


def test_a_failed_save_keeps_the_old_file(tmp_path):
    """Guards against half an index under the real name when the disk is full (here: a limit on file size)."""
    index = HybridIndex(HybridIndexSettings(dim=4))
    index.add(np.eye(4, dtype=np.float32), np.arange(4))
    path = tmp_path / "index.npz"
    index.save(path)
    index.add(np.ones((9000, 4), np.float32), np.arange(4, 9004))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            index.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(HybridIndex.load(path)) == 4
    assert len(list(tmp_path.iterdir())) == 1


def test_refuses_what_it_cannot_rank():
    """Guards against NaN keys (FAISS returns nothing for them) and times that run backwards."""
    index = HybridIndex(HybridIndexSettings(dim=4))
    keys = np.eye(4, dtype=np.float32)
    index.add(keys, np.array([5, 5, 6, 7]))
    with pytest.raises(ValueError, match="add in order"):
        index.add(keys[:1], np.array([6]))
    with pytest.raises(ValueError, match="NaN"):
        index.add(keys[:1] * np.float32(np.nan), np.array([8]))
    with pytest.raises(ValueError, match="after the query's 6"):
        index.search(keys[:1], 6, 1)
    assert index.search(keys[:1], 6, 1, exclude_from=3)[1].item() == 0
    with pytest.raises(ValueError, match="want dim 4"):
        index.search(keys[:, :3].copy(), 9, 1)
    with pytest.raises(ValueError, match="telling 5 is not within 0 and the key's 4"):
        HybridIndexSettings(dim=4, telling=5)
    with pytest.raises(ValueError, match="time_constant"):
        HybridIndexSettings(dim=4, time_constant=0.0)
    assert len(index) == 4
