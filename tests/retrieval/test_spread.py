"""`spread` against a plain greedy loop; play (FAISS candidates) against training (all frames)."""

import numpy as np
import pytest
import torch

from retrieval import HybridIndex, HybridIndexSettings, best_of_rest, candidates_needed, spread


def plain_greedy(scores, times, count, gap_frames, valid, keys=None, max_similarity=1.0):
    left = {i for i in range(len(scores)) if valid[i]}
    taken = []
    while left and len(taken) < count:
        best = max(left, key=lambda i: scores[i])
        taken.append(best)
        left = {i for i in left if abs(times[i] - times[best]) > gap_frames}
        if keys is not None:
            left = {i for i in left if float(np.dot(keys[i], keys[best])) <= max_similarity}
    return taken


@pytest.mark.parametrize("gap_frames", [0, 3, 20])
@pytest.mark.parametrize("max_similarity", [None, 0.3])
def test_agrees_with_plain_greedy(gap_frames, max_similarity):
    """Guards against suppressing in position instead of time, off-by-one gaps and rows that leak."""
    rng = np.random.default_rng(gap_frames)
    batch, n, count = 12, 60, 5
    scores = rng.standard_normal((batch, n)).astype(np.float32)
    times = np.stack([rng.choice(200, n, replace=False) for _ in range(batch)])
    valid = rng.random((batch, n)) < np.linspace(0, 1, batch)[:, None]
    keys = rng.standard_normal((batch, n, 8)).astype(np.float32)
    keys /= np.linalg.norm(keys, axis=2, keepdims=True)
    extra = (
        {} if max_similarity is None else {"keys": torch.from_numpy(keys), "max_similarity": max_similarity}
    )
    tensors = (torch.from_numpy(scores), torch.from_numpy(times))
    choice, found = spread(*tensors, count, gap_frames, torch.from_numpy(valid), **extra)
    for row in range(batch):
        row_extra = () if max_similarity is None else (keys[row], max_similarity)
        expected = plain_greedy(scores[row], times[row], count, gap_frames, valid[row], *row_extra)
        assert choice[row][found[row]].tolist() == expected
        assert found[row].tolist() == [i < len(expected) for i in range(count)]


def test_never_chooses_what_is_not_there():
    """Guards against -inf or NaN scores of padding winning when too few candidates are left."""
    scores = torch.tensor([[1.0, torch.nan, 9.0], [torch.nan, 0.0, 0.0]])
    times = torch.tensor([[0, 1, 2], [0, 1, 2]])
    valid = torch.tensor([[True, False, False], [False, False, False]])
    choice, found = spread(scores, times, 3, 0, valid)
    assert choice.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert found.tolist() == [[True, False, False], [False, False, False]]
    choice, found = spread(scores[:, :0], times[:, :0], 3, 0, valid[:, :0])
    assert choice.shape == found.shape == (2, 3)
    assert not found.any()


@pytest.mark.parametrize(("count", "gap_frames"), [(4, 8), (8, 3), (1, 50)])
def test_play_and_training_choose_alike(count, gap_frames):
    """Play spreads FAISS's best candidates, training all past frames: the choice must be the same.

    Smooth scores (neighbours in time alike) are the hard case: the best candidates crowd around few times.
    """
    rng = np.random.default_rng(count)
    dim, n, exclude_from = 16, 600, 570
    keys = np.cumsum(rng.standard_normal((n, dim)), axis=0).astype(np.float32)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    index = HybridIndex(HybridIndexSettings(dim=dim, time_weight=0.2, time_constant=100.0))
    index.add(keys, np.arange(n))
    queries = keys[rng.integers(0, n, 40)]
    scores, ids = index.search(queries, n, candidates_needed(count, gap_frames), exclude_from)
    choice, found = spread(
        torch.from_numpy(scores), torch.from_numpy(ids), count, gap_frames, torch.from_numpy(ids >= 0)
    )
    in_play = torch.from_numpy(ids).gather(1, choice)
    ages = torch.arange(n, 0, -1)
    all_scores = torch.from_numpy(queries) @ torch.from_numpy(keys).T + 0.2 * torch.exp(-ages / 100)
    valid = (torch.arange(n) < exclude_from).expand(40, n)
    in_training, found_in_training = spread(
        all_scores, torch.arange(n).expand(40, n), count, gap_frames, valid
    )
    assert found.all()
    assert found_in_training.all()
    assert torch.equal(in_play, in_training)


@pytest.mark.parametrize(("count", "gap_frames"), [(4, 8), (2, 1)])
def test_candidates_needed_is_enough_and_no_more(count, gap_frames):
    """Guards the candidates rule: one fewer fails in the worst case, runs about each best one."""
    width = 2 * gap_frames + 1
    scores, times = [], []
    for place in range(
        count
    ):  # Each place: its best frame in the middle of its run, all better than the next place.
        centre = 1000 * place
        for offset in sorted(range(-gap_frames, gap_frames + 1), key=abs):
            scores.append(-float(len(scores)))
            times.append(centre + offset)
    scores, times = torch.tensor([scores]), torch.tensor([times])
    needed = candidates_needed(count, gap_frames)
    assert needed == (count - 1) * width + 1
    for given, enough in ((needed, True), (needed - 1, False)):
        _, found = spread(scores[:, :given], times[:, :given], count, gap_frames, torch.ones(1, given).bool())
        assert bool(found.all()) is enough


def test_refuses_nonsense():
    """Guards against a silent empty choice."""
    ones = torch.ones(1, 3)
    with pytest.raises(ValueError, match="count -1"):
        spread(ones, ones.long(), -1, 1, ones.bool())
    with pytest.raises(ValueError, match="gap_frames -1"):
        candidates_needed(1, -1)


def test_the_best_of_the_rest_by_hand() -> None:
    """Against sorting the rest: taken ones out, the best last, empty places first."""
    generator = torch.Generator().manual_seed(0)
    for count, n in ((0, 5), (3, 12), (6, 4), (8, 12)):
        scores = torch.randint(5, (6, n), generator=generator).float()
        valid = torch.rand(6, n, generator=generator) < 0.7
        taken = torch.stack([torch.randperm(n, generator=generator)[:3] for _ in range(6)])
        real = torch.rand(6, 3, generator=generator) < 0.6
        choice, found = best_of_rest(scores, count, valid, taken, real)
        assert choice.shape == found.shape == (6, count)
        for row in range(6):
            gone = set(taken[row][real[row]].tolist())
            rest = [i for i in range(n) if valid[row, i] and i not in gone]
            rest = sorted(rest, key=lambda i: -scores[row, i])[:count]
            assert choice[row][found[row]].tolist() == rest[::-1]
            assert found[row].tolist() == [False] * (count - len(rest)) + [True] * len(rest)
