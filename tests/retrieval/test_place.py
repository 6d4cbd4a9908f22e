"""Places as inner products, against distances computed one by one."""

import math

import numpy as np
import pytest
import torch

from retrieval.place import PLACE_COLUMNS, PlaceSettings, place_keys, place_queries


def cost(a: list[float], b: list[float], heading: float, position: float) -> float:
    """position · (|Δfocus|²/90² + |Δxy|²/160²) + heading · (chord of the turn / 40°)²."""

    def focus(pose: list[float]) -> np.ndarray:
        angle = math.radians(pose[2])
        return np.array(pose[:2]) + 96 * np.array((math.cos(angle), math.sin(angle)))

    chord_deg = math.degrees(2 * math.sin(math.radians(a[2] - b[2]) / 2))
    apart = ((focus(a) - focus(b)) ** 2).sum() / 90**2
    apart += ((np.array(a[:2]) - np.array(b[:2])) ** 2).sum() / 160**2
    return float(position * apart + heading * (chord_deg / 40) ** 2)


@pytest.mark.parametrize(("heading", "position"), [(1.0, 1.0), (0.2, 0.0), (0.0, 0.3)])
def test_product_is_minus_the_cost(heading: float, position: float) -> None:
    """Far from the origin and after many turns too, where float32 has few digits left."""
    generator = torch.Generator().manual_seed(0)
    poses = torch.rand(20, 3, generator=generator) * torch.tensor([500.0, 500.0, 3600.0])
    for offset, tolerance in ((0.0, 1e-4), (5000.0, 0.02)):
        poses[:, :2] += offset
        settings = PlaceSettings(heading_weight=heading, position_weight=position)
        # Keys do not know the weights: those are the query's, so that they may change while a world is played.
        keys, queries = place_keys(poses, PlaceSettings()), place_queries(poses, settings)
        assert keys.shape == (20, PLACE_COLUMNS)
        products = keys @ queries.T
        for i in range(20):
            for j in range(20):
                expected = -cost(poses[i].double().tolist(), poses[j].double().tolist(), heading, position)
                assert abs(float(products[i, j]) - expected) < tolerance * max(1, -expected)


def test_the_same_view_is_nearest() -> None:
    """A step aside costs less than a turn away; a full turn costs nothing."""
    here = torch.tensor([[100.0, 50.0, 20.0]])
    others = here + torch.tensor([[0.0, 0, 360], [16.0, 0, 0], [0.0, 0, 60], [300.0, 0, 0]])
    scores = place_keys(others, PlaceSettings()) @ place_queries(here, PlaceSettings())[0]
    assert abs(float(scores[0])) < 1e-4
    assert torch.equal(scores.argsort(descending=True), torch.arange(4))
