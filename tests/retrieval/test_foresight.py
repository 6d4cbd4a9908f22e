"""Witnesses: chosen as by hand, asked about the right points, and heard only where they have something to say."""

from math import atan2, degrees, hypot, log2

import pytest
import torch

from retrieval.foresight import (
    AGEING,
    APART,
    EDGE,
    FARTHEST,
    IDEAL,
    NEAREST,
    PLAYER_HALF,
    WITNESSES,
    Foresight,
    Witnesses,
    choose_witnesses,
    foremost,
    seen_from,
)


def some_poses(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    poses = 300 * torch.rand(count, 3, generator=generator)
    poses[:, 2] *= 1.2
    return poses


def by_hand(place: torch.Tensor, poses: torch.Tensor) -> list[int]:
    """One frame after the other by angles: within the view, not too near or far, best distance first, apart in time."""
    worth: dict[int, float] = {}
    for i, (x, y, heading) in enumerate(poses.tolist()):
        away = hypot(float(place[0]) - x, float(place[1]) - y)
        angle = (degrees(atan2(float(place[1]) - y, float(place[0]) - x)) - heading + 180) % 360 - 180
        ahead = away * float(torch.deg2rad(torch.tensor(angle)).cos())
        aside = away * float(torch.deg2rad(torch.tensor(angle)).sin())
        if ahead > NEAREST and abs(aside) < EDGE * ahead and away < FARTHEST:
            worth[i] = -abs(log2(away / IDEAL)) - AGEING / 100 * (len(poses) - i)
    chosen: list[int] = []
    for i in sorted(worth, key=lambda each: -worth[each]):
        if len(chosen) < WITNESSES and all(abs(i - other) > APART for other in chosen):
            chosen.append(i)
    return chosen


@pytest.mark.parametrize("seed", range(5))
def test_witnesses_are_chosen_as_by_hand(seed: int) -> None:
    poses = torch.stack((some_poses(80, seed), some_poses(80, seed + 50)))
    places = some_poses(2, seed + 100)[:, :2]
    ages = torch.arange(80, 0, -1).expand(2, -1)
    frames, present = choose_witnesses(places, poses, ages, ages > 0, 90.0)
    for row in range(2):
        expected = by_hand(places[row], poses[row])
        assert frames[row, present[row]].tolist() == expected
        assert len(expected) >= 3


def test_nobody_looked_there() -> None:
    """All looked the other way: no witness, and nothing is told that is not told of an empty past."""
    poses = torch.tensor([[[0.0, 0.0, 180.0]] * 20])
    ages = torch.arange(20, 0, -1)[None]
    frames, present = choose_witnesses(torch.tensor([[80.0, 0.0]]), poses, ages, ages > 0, 90.0)
    assert not present.any()
    assert not frames.any()


def test_places_as_views_see_them() -> None:
    """Heading 90 looks along y: what lies along x lies to its right."""
    seen = seen_from(torch.tensor([[[10.0, 0.0], [0.0, 10.0]]]), torch.tensor([[[0.0, 0.0, 90.0]]]))
    torch.testing.assert_close(seen[0, 0], torch.tensor([[0.0, -10.0], [10.0, 0.0]]), atol=1e-5, rtol=0)
    edge = foremost(torch.tensor([[5.0, 5.0]]), torch.tensor([[0.0, -3.0]]))
    torch.testing.assert_close(edge, torch.tensor([[5.0, 5.0 - PLAYER_HALF]]))


def a_foresight(seed: int = 0) -> Foresight:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Foresight(8, 4, 8, 16, 90.0).eval().requires_grad_(False)
        torch.nn.init.normal_(model.join[-1].weight)
    return model


def scanned(model: Foresight, views: torch.Tensor) -> torch.Tensor:
    """Of views that are known cell by cell."""
    return model.scans(views.flatten(0, 1)).unflatten(0, views.shape[:2])


def some_witnesses(seed: int = 0) -> tuple[torch.Tensor, Witnesses]:
    """Three of a place 40 to 120 units ahead of each, and where a step would end there."""
    generator = torch.Generator().manual_seed(seed)
    headings = torch.tensor([[0.0, 30.0, 90.0]])
    angle = torch.deg2rad(headings)
    away = torch.tensor([[40.0, 80.0, 120.0]])
    places = -torch.stack((away * angle.cos(), away * angle.sin()), -1)
    scans = torch.randn(1, 3, 8, 8, generator=generator)
    witnesses = Witnesses(
        scans=scans, poses=torch.cat((places, headings[..., None]), -1), present=torch.ones(1, 3).bool()
    )
    return torch.tensor([[0.0, 0.0, 20.0]]), witnesses


def test_it_begins_as_nothing() -> None:
    end, witnesses = some_witnesses()
    assert not Foresight(8, 4, 8, 16, 90.0)(end, witnesses).any()


def test_where_the_map_lies_does_not_matter() -> None:
    """The same player and witnesses elsewhere and turned: the same is told, or headings are mixed up."""
    model, (end, witnesses) = a_foresight(), some_witnesses()
    told = model(end, witnesses)

    def elsewhere(poses: torch.Tensor) -> torch.Tensor:
        x, y, heading = poses.unbind(-1)
        return torch.stack((300 - y, x - 70, heading + 90), -1)  # a quarter turn

    moved = Witnesses(witnesses.scans, elsewhere(witnesses.poses), witnesses.present)
    torch.testing.assert_close(model(elsewhere(end), moved), told, atol=1e-3, rtol=1e-3)
    assert float((model(end + 5, witnesses) - told).abs().max()) > 1e-3


def test_absent_and_averted_witnesses_are_not_heard() -> None:
    model, (end, witnesses) = a_foresight(), some_witnesses()
    two = Witnesses(witnesses.scans[:, :2], witnesses.poses[:, :2], witnesses.present[:, :2])
    told = model(end, two)
    assert not torch.allclose(model(end, witnesses), told, atol=1e-3)
    absent = Witnesses(witnesses.scans, witnesses.poses, torch.tensor([[True, True, False]]))
    torch.testing.assert_close(model(end, absent), told, atol=1e-5, rtol=1e-5)
    averted = witnesses.poses.clone()
    averted[0, 2, 2] += 180
    torch.testing.assert_close(
        model(end, Witnesses(witnesses.scans, averted, witnesses.present)), told, atol=1e-5, rtol=1e-5
    )


def test_a_view_is_asked_at_the_column_that_shows_the_point() -> None:
    """A witness looks at the grid from afar, all of it in the view's middle: what its edges show does not matter."""
    model = a_foresight()
    model.scan[0] = torch.nn.Identity()  # its normalisation looks at the whole view
    poses = torch.tensor([[[-250.0, 0.0, 0.0]]])
    views = torch.randn(1, 1, 8, 4, 8, generator=torch.Generator().manual_seed(3))
    end, present = torch.zeros(1, 3), torch.ones(1, 1).bool()
    told = model(end, Witnesses(scanned(model, views), poses, present))
    for columns, same in (((0, 7), True), ((3, 4), False)):
        changed = views.clone()
        changed[..., list(columns)] += 1
        other = model(end, Witnesses(scanned(model, changed), poses, present))
        assert torch.allclose(other, told, atol=1e-5) is same


def test_it_learns_to_foresee_a_wall_that_witnesses_see() -> None:
    """Each shows how far ahead of it a wall is, from a place of its own: does that one stand before the end of the step?"""
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, head = Foresight(8, 4, 8, 16, 90.0), torch.nn.Linear(16, 1)
    model.scan[0] = torch.nn.Identity()  # views as even as these are nothing to it
    optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=5e-3)
    right = []
    for _ in range(250):
        away = 40 + 120 * torch.rand(64, 3, generator=generator)
        wall = 24 * torch.randn(64, 1, generator=generator)  # beyond the end, or before it
        poses = torch.stack((-away, torch.zeros(64, 3), torch.zeros(64, 3)), -1)
        views = ((away + wall) / 64)[..., None, None, None].expand(-1, -1, 8, 4, 8)
        witnesses = Witnesses(scanned(model, views), poses, torch.ones(64, 3).bool())
        logit = head(model(torch.zeros(64, 3), witnesses))[:, 0]
        stopped = wall[:, 0] < 0
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logit, stopped.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        right.append(float(((logit > 0) == stopped).float().mean()))
    assert sum(right[-20:]) / 20 > 0.9
