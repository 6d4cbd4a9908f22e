"""Which views worlds begin with."""

import torch

from worldsim.training.openings import most_unlike


def test_the_most_unlike_views_are_chosen_and_bare_ones_are_not() -> None:
    """Guards against worlds that begin alike, and against beginnings that show a bare wall."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randn(4, 3, 12, 16, generator=generator).repeat_interleave(5, 0)
    kinds[:, :, :4] += 4.0 * torch.arange(20).div(5, rounding_mode="floor")[:, None, None, None]
    kinds += 0.01 * torch.randn(kinds.shape, generator=generator)
    bare = torch.randn(20, 3, 1, 1, generator=generator).expand(20, 3, 12, 16) * 50.0
    views = torch.cat((bare, kinds))
    chosen = most_unlike(views, 4, seed=3)
    assert sorted((chosen - 20).div(5, rounding_mode="floor").tolist()) == [0, 1, 2, 3]
    assert torch.equal(chosen, most_unlike(views, 4, seed=3))
    assert sorted(most_unlike(views[:3], 48, seed=0).tolist()) == [0, 1, 2]
