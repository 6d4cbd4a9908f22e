"""Loss and metrics against computations by hand."""

import math

import pytest
import torch

from retrieval import coverage_at_k, coverage_loss, recall_at_k


def test_coverage_loss_by_hand():
    """Guards the softmax's support: invalid frames and rows without relevance must not count."""
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], requires_grad=True)
    keys = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]).expand(3, 3, 2)
    relevance = torch.tensor([[0.5, 0.25, 9.0], [0.0, 1.0, 0.0], [0.0, 0.0, 3.0]])
    valid = torch.tensor([[True, True, False], [True, True, True], [True, True, False]])
    loss = coverage_loss(queries, keys, relevance, valid, torch.tensor(2.0))
    first_norm = math.log(math.exp(2.0) + math.exp(1.2))
    first = -(2 / 3 * (2.0 - first_norm) + 1 / 3 * (1.2 - first_norm))
    second = -(1.6 - math.log(math.exp(0.0) + math.exp(1.6) + math.exp(2.0)))
    assert loss.item() == pytest.approx((first + second) / 2, abs=1e-6)
    loss.backward()
    assert queries.grad[2].tolist() == [0, 0]
    assert queries.grad[:2].abs().min() > 0


def test_coverage_loss_of_nothing_is_zero():
    """Guards against NaN weights after a batch of first frames, which have no past."""
    queries = torch.ones(2, 4, requires_grad=True)
    keys = torch.ones(2, 3, 4)
    for valid in (torch.zeros(2, 3).bool(), torch.ones(2, 3).bool()):
        loss = coverage_loss(queries, keys, torch.zeros(2, 3), valid, 10.0)
        loss.backward()
        assert loss.item() == 0
        assert (queries.grad == 0).all()


def test_coverage_loss_is_least_for_the_true_shares():
    """Guards the target: the best logits are the logarithms of the relevance shares, whatever their sum."""
    relevance = torch.tensor([[4.0, 2.0, 2.0]])
    valid = torch.ones(1, 3).bool()
    keys = torch.eye(3)[None]
    best = coverage_loss(relevance.log(), keys, relevance, valid, 1.0)
    assert best.item() == pytest.approx(1.5 * math.log(2), abs=1e-6)  # Entropy of 1/2, 1/4, 1/4.
    assert coverage_loss(torch.tensor([[9.0, 0.0, 0.0]]), keys, relevance, valid, 1.0) > best


def test_recall_and_coverage_at_k_by_hand():
    """Guards against counting invalid frames as hits and rows without relevance as misses."""
    scores = torch.tensor([[3.0, 2.0, 1.0, 9.0], [3.0, 2.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    relevance = torch.tensor([[0.2, 0.8, 0.0, 1.0], [0.0, 0.3, 0.6, 0.0], [0.0, 0.0, 0.0, 0.0]])
    valid = torch.tensor([[True, True, True, False], [True] * 4, [True] * 4])
    assert [recall_at_k(scores, relevance, valid, k).item() for k in (1, 2, 3, 9)] == [0, 0.5, 1, 1]
    covered = [coverage_at_k(scores, relevance, valid, k).item() for k in (1, 2, 3)]
    assert covered == pytest.approx([(0.25 + 0) / 2, (1 + 0.5) / 2, 1])
    assert recall_at_k(scores[2:], relevance[2:], valid[2:], 1).item() == 0
