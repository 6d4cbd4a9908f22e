"""Swept views against a pinhole camera by hand, and what the transformer makes of them."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.transformer import WorldTransformer
from models.warped_views import INVERSE_DEPTHS, WarpedViews, sweep
from worldsim.presets import tiny

HEIGHT, WIDTH = 12, 16
POSES = torch.tensor([[0.0, 0.0, 0.0], [30.0, -12.0, 25.0], [-20.0, 40.0, -70.0], [60.0, 5.0, 170.0]])
"""forward, left, turned left by so many degrees"""


def ray(row: int, column: int) -> Tensor:
    """Through a cell's middle, forward, left and up, one unit deep; the view is 90 degrees wide, its cells square."""
    return torch.tensor([1.0, 1 - (2 * column + 1) / WIDTH, (HEIGHT - (2 * row + 1)) / WIDTH])


def looked_up(view: Tensor, x: float, y: float) -> Tensor:
    """Bilinear value at column x and row y of a view's cells, zeros beside it."""
    left, top = math.floor(x), math.floor(y)
    value = torch.zeros(len(view))
    for column, row in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
        if 0 <= column < WIDTH and 0 <= row < HEIGHT:
            value += view[:, row, column] * (1 - abs(x - column)) * (1 - abs(y - row))
    return value


def test_a_sweep_is_what_a_camera_sees() -> None:
    """Brute force, cell by cell: the point at every depth, in the axes of the view that it is taken from."""
    views = torch.randn(len(POSES), 2, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    swept = sweep(views, POSES, torch.tensor(INVERSE_DEPTHS), 90.0)
    for v, (forward, left, turn) in enumerate(POSES.tolist()):
        axes = torch.tensor([math.cos(math.radians(turn)), math.sin(math.radians(turn))])
        for d, inverse in enumerate(INVERSE_DEPTHS):
            for row in range(HEIGHT):
                for column in range(WIDTH):
                    there = ray(row, column) - inverse * torch.tensor([forward, left, 0.0])
                    ahead, aside = float(there[:2] @ axes), float(there[1] * axes[0] - there[0] * axes[1])
                    expected = torch.zeros(2)
                    if ahead > 0.05:
                        x = (1 - aside / ahead) * WIDTH / 2 - 0.5
                        y = HEIGHT / 2 - float(there[2]) / ahead * WIDTH / 2 - 0.5
                        expected = looked_up(views[v], x, y)
                    torch.testing.assert_close(swept[v, d, :, row, column], expected, atol=2e-4, rtol=0)


def wall_seen_from(forward: float, left: float, distance: float) -> Tensor:
    """A wall `distance` ahead of the origin, painted with waves as long, from a place beside it that looks the same way."""
    rays = torch.stack([torch.stack([ray(row, column) for column in range(WIDTH)]) for row in range(HEIGHT)])
    points = rays * (distance - forward)
    return torch.sin(4 * (points[..., 1] + left) / distance) + torch.cos(3 * points[..., 2] / distance)


@pytest.mark.parametrize("plane", range(1, len(INVERSE_DEPTHS)))
def test_the_right_depth_redraws_a_wall(plane: int) -> None:
    """Of all planes the wall's own shows it as it is from here."""
    distance = 1 / INVERSE_DEPTHS[plane]
    forward, left = 0.2 * distance, 0.15 * distance
    old = wall_seen_from(forward, left, distance)[None, None]
    swept = sweep(old, torch.tensor([[forward, left, 0.0]]), torch.tensor(INVERSE_DEPTHS), 90.0)[0, :, 0]
    missed = (swept - wall_seen_from(0.0, 0.0, distance))[:, 3:-3, 4:-4].abs().mean((1, 2))
    assert int(missed.argmin()) == plane
    assert float(missed[plane]) < 0.02


def test_absent_views_tell_nothing(filled_transformer: WorldTransformer, a_history) -> None:
    """Whatever stands in their places, and whichever poses."""
    history = a_history(batch=2, found=2)
    other = history.recalled
    gone = ~other.present[..., None]
    changed = replace(
        other,
        latents=other.latents + 5 * gone[..., None, None].float(),
        poses=torch.where(gone, -3 * other.poses, other.poses),
    )
    before = filled_transformer.warped(history)
    assert torch.equal(before, filled_transformer.warped(replace(history, recalled=changed)))
    shown = replace(other, latents=other.latents + 5 * other.present[..., None, None, None].float())
    assert not torch.allclose(before, filled_transformer.warped(replace(history, recalled=shown)), atol=1e-3)


def test_every_frame_of_a_section_has_its_own_view(transformer_of, a_history) -> None:
    """Frames of a section equal sections of one frame, each seen from its place."""
    warped = transformer_of(replace(tiny().transformer, schedule="td_f4k2f2k1_r2k1_g3")).warped
    history = a_history(batch=2, recent=6, present=6, recalled=2, found=2, section=3)
    together = warped(history)
    for i in range(3):
        alone = warped(replace(history, section_poses=history.section_poses[:, i : i + 1]))
        torch.testing.assert_close(together[:, i : i + 1], alone)
    assert not torch.allclose(together[:, 0], together[:, 1], atol=1e-3)


def test_tokens_take_the_cells_that_they_cover() -> None:
    """In the order of the section's own tokens: row by row, four cells each."""
    warped = WarpedViews(1, 1, 12, 90.0)
    with torch.no_grad():
        warped.tokens.weight.copy_(torch.eye(12))
    told = torch.arange(2.0 * 3 * HEIGHT * WIDTH).view(1, 2, 3, HEIGHT, WIDTH)
    tokens = warped.of_tokens(told).view(2, HEIGHT // 2, WIDTH // 2, 12)
    for row, column in ((0, 0), (3, 5), (5, 7)):
        cells = told[0, :, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert torch.equal(tokens[:, row, column], cells.flatten(1))


def test_latents_are_blended_where_a_view_has_seen_them(
    filled_transformer: WorldTransformer, a_history
) -> None:
    """The same place twice, alone in memory: the newest frame itself, whatever depths are chosen. Turned away: nothing."""
    history = a_history(batch=2, present=1, found=0)
    here = replace(history, section_poses=history.recent_poses[:, -1:])
    blended = filled_transformer.warped(here)[:, 0, -5:]
    torch.testing.assert_close(blended[:, :4], history.recent[:, -1], rtol=0, atol=1e-4)
    torch.testing.assert_close(blended[:, 4], torch.ones_like(blended[:, 4]))
    away = here.section_poses + torch.tensor([0.0, 0.0, 180.0])
    assert not filled_transformer.warped(replace(here, section_poses=away))[:, 0, -5:].any()


def test_it_changes_nothing_before_it_has_learned(a_history) -> None:
    """So that it can join a trained model; what it says counts as soon as its own last layers do."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = WorldTransformer.of(tiny().transformer).requires_grad_(False)
    torch.nn.init.normal_(model.final.weight, generator=torch.Generator().manual_seed(1))
    history, actions = a_history(batch=2), torch.zeros(2, 9, 3, dtype=torch.long)
    noisy, sigma = torch.randn(2, 1, 4, HEIGHT, WIDTH), torch.full((2,), 0.5)

    def velocity() -> Tensor:
        return model.denoise(noisy, sigma, actions, model.encode_history(model.pack(history), history.sigma))

    whole, warped, cells = velocity(), model.warped, model.warped_cells
    model.warped = model.warped_cells = None
    assert torch.equal(velocity(), whole)
    model.warped, model.warped_cells = warped, cells
    torch.nn.init.normal_(warped.tokens.weight, generator=torch.Generator().manual_seed(2))
    assert not torch.allclose(velocity(), whole, atol=1e-3)
