"""Registration of views: turns as a pinhole has them, and offsets that do not depend on where the map's axes lie."""

import pytest
import torch

from retrieval.motion import Motion, turned
from retrieval.odometer import Odometer, OdometerSettings
from retrieval.registration import Registration, turned_view


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
    settings = OdometerSettings(channels=2, height=4, width=8, hidden=8, head_width=16, registration_hidden=8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Odometer.of(settings, Motion.still((2, 3))).eval().requires_grad_(False)
        assert model.registration is not None
        torch.nn.init.normal_(model.registration.mlp[-1].weight)
        model.registration.mlp[-1].bias[0] = gate
    return model


def test_untrained_registration_changes_nothing() -> None:
    """It joins an odometer that has none: until it is trained, path integration must stand."""
    model = Registration(2, 4, 8, 8, 16, 90.0)
    told = torch.tensor([[30.0, -12.0, 40.0], [0.0, 0.0, 0.0]])
    _, found = model(torch.randn(2, 2, 4, 8), torch.randn(2, 2, 4, 8), told)
    assert torch.equal(found, told[:, :2])


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
    """On a GPU the weights are: places must still come out in float32, near those of full precision."""
    model, generator = odometer(1e9), torch.Generator().manual_seed(1)
    views = torch.randn(2, 3, 2, 4, 8, generator=generator)
    here, there = (torch.rand(*shape, generator=generator) for shape in ((2, 3), (2, 3, 3)))
    exact = model.registered(views[:, 0], here, views, there)
    rough = model.bfloat16().registered(views[:, 0], here, views, there)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=8)


def test_an_odometer_without_registration_keeps_what_was_told() -> None:
    settings = OdometerSettings(channels=2, height=4, width=8, hidden=8, head_width=16, registration_hidden=0)
    model = Odometer.of(settings, Motion.still((2, 3)))
    there = torch.rand(2, 3, 3)
    views = torch.randn(2, 3, 2, 4, 8)
    assert model.registered(views[:, 0], torch.rand(2, 3), views, there) is there
