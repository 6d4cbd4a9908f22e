"""Two views: turns as a pinhole has them, and offsets that do not depend on where the map's axes lie."""

import pytest
import torch

from retrieval.motion import Motion, turned
from retrieval.odometer import Odometer
from retrieval.offset import NARROWEST, OffsetHead
from retrieval.two_views import TwoViews, turned_view
from tests.retrieval.test_odometer import SETTINGS


@pytest.mark.parametrize("turn_deg", [-35.0, -8.0, 0.0, 20.0, 50.0])
@pytest.mark.parametrize("view_deg", [90.0, 60.0])
def test_a_turned_view_shows_what_lies_in_each_direction(turn_deg: float, view_deg: float) -> None:
    """Pictures of bearing and height of every ray, as any pinhole would see them before and after the turn."""
    height, width = 48, 64
    half = torch.tan(torch.deg2rad(torch.tensor(view_deg / 2)))
    across = (1 - (2 * torch.arange(width) + 1) / width) * half
    up = (1 - (2 * torch.arange(height) + 1) / height) * half * height / width

    def picture(heading_deg: float) -> torch.Tensor:
        bearing = torch.rad2deg(torch.atan(across)).expand(height, width) + heading_deg
        slope = up[:, None] / (1 + across.square()).sqrt()
        return torch.stack((bearing, slope))[None]

    seen = torch.cat((picture(0.0), torch.ones(1, 1, height, width)), 1)
    made = turned_view(seen, torch.tensor([turn_deg]), view_deg)[0]
    inside = made[2] > 0.999
    assert float(inside.float().mean()) > (0.1 if abs(turn_deg) > 30 else 0.4)
    torch.testing.assert_close(made[0][inside], picture(turn_deg)[0, 0][inside], atol=0.05, rtol=0)
    torch.testing.assert_close(made[1][inside], picture(turn_deg)[0, 1][inside], atol=0.01, rtol=0)


def test_nothing_is_seen_behind() -> None:
    """A ray that points backwards has a place in the picture by the formula, but nobody looked there."""
    assert not turned_view(torch.ones(3, 2, 12, 16), torch.tensor([120.0, 180.0, -170.0]), 90.0).any()


def odometer(gate: float) -> Odometer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Odometer.of(SETTINGS, Motion.still((2, 3))).eval().requires_grad_(False)
        torch.nn.init.normal_(model.registration.mlp[-1].weight)
        model.registration.mlp[-1].bias[0] = gate
    return model


def test_untrained_it_trusts_what_is_told() -> None:
    """Until it is trained path integration must stand, and the spread of an offset is of the offsets' own size."""
    told = torch.tensor([[30.0, -12.0], [0.0, 0.0]])
    found = OffsetHead(4, 16, 64.0)(torch.randn(2, 16), told, torch.ones(2, 2))
    assert torch.equal(found.offset, told)
    torch.testing.assert_close(found.variance, torch.full((2,), 0.75 * 64**2))


def test_a_spread_is_the_mean_distance_of_its_density() -> None:
    """Radii drawn by e^(-r/b) / 2πb²: their mean and their variance along an axis, against a sum over many."""
    b, generator = 3.0, torch.Generator().manual_seed(0)
    uniform = torch.rand(2, 400_000, generator=generator, dtype=torch.float64)
    radii = -b * uniform.log().sum(0)  # Erlang's distribution, of two
    head = OffsetHead(4, 16, 1.0).requires_grad_(False)
    head.mlp[-1].bias.data[3] = (2 * torch.tensor(b)).log()
    found = head(torch.randn(1, 16), torch.zeros(1, 2), torch.ones(1, 2))
    assert float(found.log_spread.exp()) == pytest.approx(float(radii.mean()), rel=0.01)
    assert float(found.variance) == pytest.approx(float(radii.square().mean()) / 2, rel=0.01)
    head.mlp[-1].bias.data[3] = -99.0
    assert float(head(torch.randn(1, 16), torch.zeros(1, 2), torch.ones(1, 2)).log_spread) == NARROWEST


def test_the_second_view_is_looked_at_in_the_first_ones_heading() -> None:
    """A view and the same turned on the spot are one view: what lies beyond the edge is told apart from what is black."""
    views = TwoViews(2, 24, 32, 8, 8, 16, 90.0)
    coarse = torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    first = torch.nn.functional.interpolate(coarse, (24, 32), mode="bicubic")
    turned = turned_view(torch.cat((first, torch.ones(1, 1, 24, 32)), 1), torch.tensor([10.0]), 90.0)
    seen: list[torch.Tensor] = []
    views.enter.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    views(first, turned[:, :2], torch.tensor([10.0]), torch.tensor([True]))
    inner = (slice(None), slice(None), slice(6, 18), slice(10, 22))
    assert float((seen[0][:, 2:4] - first)[inner].abs().max()) < 0.1 * float(first.std())
    assert 0.5 < float(seen[0][:, 4].mean()) < 0.95
    views(first, turned[:, :2], torch.tensor([10.0]), torch.tensor([False]))
    assert not seen[1][:, 2:].any()


def test_registered_places_move_with_the_map() -> None:
    """Only the two views and their offset count: in a map turned and shifted, everything is turned and shifted."""
    model, generator = odometer(1e9), torch.Generator().manual_seed(1)
    newest = torch.randn(2, 2, 4, 8, generator=generator)
    recalled = torch.randn(2, 3, 2, 4, 8, generator=generator)
    here = 100 * torch.rand(2, 3, generator=generator)
    there = 100 * torch.rand(2, 3, 3, generator=generator)
    found = model.registered(newest, here, recalled, there)
    assert float((found - there)[..., :2].abs().min()) > 1e-3
    assert torch.equal(found[..., 2], there[..., 2])

    def moved(poses: torch.Tensor) -> torch.Tensor:
        angle = torch.full(poses.shape[:-1], 70.0)
        place = turned(poses[..., :2], angle) + torch.tensor([40.0, -9.0])
        return torch.cat((place, poses[..., 2:] + 70), -1)

    again = model.registered(newest, moved(here), recalled, moved(there))
    torch.testing.assert_close(again, moved(found), rtol=1e-3, atol=0.05)


def test_views_of_another_place_stay_where_they_were_told_to_be() -> None:
    """There is nothing to see of their offset, and a guess would move them."""
    there = torch.rand(2, 3, 3)
    views = torch.randn(2, 3, 2, 4, 8)
    found = odometer(-1e9).registered(views[:, 0], torch.rand(2, 3), views, there)
    torch.testing.assert_close(found, there)


def test_it_runs_in_bfloat16() -> None:
    """A checkpoint keeps it in float32; whoever does not still gets places in float32, near those of full precision."""
    model, generator = odometer(1e9), torch.Generator().manual_seed(1)
    views = torch.randn(2, 3, 2, 4, 8, generator=generator)
    here, there = (torch.rand(*shape, generator=generator) for shape in ((2, 3), (2, 3, 3)))
    exact = model.registered(views[:, 0], here, views, there)
    rough = model.bfloat16().registered(views[:, 0], here, views, there)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=8)
