"""The flow objective and the sampler against formulas written out by hand."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from models.flow import Draft, FlowSettings, draw_sigmas, noisy_and_velocity, sample
from models.history_cache import HistoryCache
from models.rotary import Phases
from models.transformer import WorldTransformer
from worldsim.presets import tiny

ACTIONS = torch.zeros(2, 23, 3, dtype=torch.int64)
SHAPE = (2, 1, 4, 12, 16)


class KnownField(WorldTransformer):
    """A real transformer whose velocity is replaced by the exact one towards known latents."""

    def aim_at(self, truth: torch.Tensor) -> "KnownField":
        self.truth, self.seen = truth, []
        return self

    def denoise(self, noisy, sigma, actions, cache):
        self.seen.append(float(sigma[0]))
        return (noisy - self.truth) / sigma.view(-1, 1, 1, 1, 1)


def empty_cache() -> HistoryCache:
    phases = Phases(cos=torch.ones(48, 8), sin=torch.zeros(48, 8))
    return HistoryCache(
        keys=[], values=[], present=None, sigma=torch.zeros(2), newest=torch.zeros(2, 1, 1, 1),
        section_phases=phases, steer=None,
    )  # fmt: skip


@pytest.mark.parametrize("steps", [1, 2, 4, 7])
def test_sampling_a_known_field_ends_at_its_latents(steps: int) -> None:
    """The velocity of a straight path carries any Euler steps exactly to x_0; a wrong sign or sigma does not."""
    generator = torch.Generator().manual_seed(0)
    truth, noise = (torch.randn(SHAPE, generator=generator) for _ in range(2))
    model = KnownField.of(tiny().transformer).aim_at(truth)
    made = sample(model, noise, ACTIONS, empty_cache(), FlowSettings(shift=2.0, denoising_steps=steps))
    assert len(model.seen) == steps
    torch.testing.assert_close(made, truth, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("steps", "shift"), [(1, 2.0), (2, 2.0), (4, 2.0), (8, 3.0)])
def test_every_denoising_step_counts(steps: int, shift: float) -> None:
    """diffusers' own sigmas end with a step from 0.004 to 0: of two steps one would be wasted."""
    model = KnownField.of(tiny().transformer).aim_at(torch.zeros(SHAPE))
    sample(model, torch.ones(SHAPE), ACTIONS, empty_cache(), FlowSettings(shift=shift, denoising_steps=steps))
    uniform = [1 - i / steps for i in range(steps)]
    assert model.seen == pytest.approx([shift * u / (1 + (shift - 1) * u) for u in uniform], abs=1e-6)


def test_sampler_is_euler_by_hand(filled_transformer: WorldTransformer, a_history) -> None:
    """x ← x + (sigma_next − sigma) v: guards against another scheduler, order, or a cache that changes."""
    settings = FlowSettings(shift=2.0, denoising_steps=3)
    history = a_history(batch=2)
    cache = filled_transformer.encode_history(filled_transformer.pack(history), history.sigma)
    actions = torch.randint(3, (2, 23, 3), generator=torch.Generator().manual_seed(1))
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(2))
    made = sample(filled_transformer, noise, actions, cache, settings)
    sigmas = [1.0, 0.8, 0.5, 0.0]  # shift 2 of 1, 2/3, 1/3, 0
    by_hand = noise
    with torch.no_grad():
        for sigma, following in pairwise(sigmas):
            velocity = filled_transformer.denoise(by_hand, torch.full((2,), sigma), actions, cache)
            by_hand = by_hand + (following - sigma) * velocity
    torch.testing.assert_close(made, by_hand, rtol=1e-4, atol=1e-4)


def test_a_draft_is_drawn_on_from_its_step(filled_transformer: WorldTransformer, a_history) -> None:
    """By hand: (1 − sigma) draft + sigma noise at the step it begins with, Euler from there; from step 0 it is not seen."""
    settings = FlowSettings(shift=2.0, denoising_steps=3)
    history = a_history(batch=3)
    cache = filled_transformer.encode_history(filled_transformer.pack(history), history.sigma)
    generator = torch.Generator().manual_seed(1)
    actions = torch.randint(3, (3, 23, 3), generator=generator)
    draft, noise = torch.randn(2, 3, *SHAPE[1:], generator=generator)
    begin = torch.tensor([2, 0, 1])
    made = sample(filled_transformer, noise, actions, cache, settings, Draft(latents=draft, begin=begin))
    sigmas = [1.0, 0.8, 0.5, 0.0]
    for row, first in enumerate(begin.tolist()):
        by_hand = (1 - sigmas[first]) * draft + sigmas[first] * noise
        with torch.no_grad():
            for sigma, following in pairwise(sigmas[first:]):
                velocity = filled_transformer.denoise(by_hand, torch.full((3,), sigma), actions, cache)
                by_hand = by_hand + (following - sigma) * velocity
        torch.testing.assert_close(made[row], by_hand[row], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("present", [22, 5])
@pytest.mark.parametrize(
    ("guidance", "guided_above", "layout_noise", "layout_above"),
    [
        (0.7, 0.2, 0.0, 0.5),
        (0.7, 0.7, 0.0, 0.5),
        (0.0, 0.2, 0.3, 0.2),
        (0.0, 0.2, 0.3, 0.7),
        (0.7, 0.2, 0.3, 0.7),
    ],
)
def test_layout_and_guidance_go_by_noised_histories(
    filled_transformer: WorldTransformer, a_history, present: int,
    guidance: float, guided_above: float, layout_noise: float, layout_above: float,
) -> None:  # fmt: skip
    """v + w (v − v_veiled) above a level, v after layout's history above another, each from a cache of its own."""
    settings = FlowSettings(
        shift=1.0, denoising_steps=2, guidance=guidance, guided_above=guided_above,
        layout_noise=layout_noise, layout_above=layout_above,
    )  # fmt: skip
    history = replace(a_history(batch=2, present=present), sigma=torch.zeros(2))
    noise = torch.randn(
        2, history.frames, *history.recent.shape[2:], generator=torch.Generator().manual_seed(3)
    )
    veiled, layout = (
        replace(history, sigma=torch.full((2,), level)).noised(noise) for level in (0.5, layout_noise)
    )
    caches = [
        filled_transformer.encode_history(filled_transformer.pack(h), h.sigma)
        for h in (veiled, layout, history)
    ]
    levels = settings.history_levels(0.0)
    assert len(levels) == 1 + (guidance > 0) + (layout_noise > 0)
    sigmas = torch.tensor(levels).repeat_interleave(2)
    every = history.under(*levels).noised(torch.cat([noise] * len(levels)))
    pack = filled_transformer.pack(every).without_absent()
    assert pack.present is None
    actions = torch.randint(3, (2, 23, 3), generator=torch.Generator().manual_seed(1))
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(2))
    made = sample(
        filled_transformer, noise, actions, filled_transformer.encode_history(pack, sigmas), settings
    )
    by_hand = noise
    with torch.no_grad():
        for sigma, following in ((1.0, 0.5), (0.5, 0.0)):
            level = torch.full((2,), sigma)
            weak, trusted, clear = (
                filled_transformer.denoise(by_hand, level, actions, cache) for cache in caches
            )
            seen = trusted if sigma > layout_above else clear
            weight = guidance if sigma > guided_above else 0.0
            by_hand = by_hand + (following - sigma) * (seen + weight * (seen - weak))
    torch.testing.assert_close(made, by_hand, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"shift": 0.0}, r"shift 0\.0"), ({"denoising_steps": 0}, "0 denoising"), ({"guidance": -1.0}, r"guidance -1\.0"),
     ({"veil": 0.0}, r"veil 0\.0"), ({"guided_above": 1.0}, r"guided_above 1\.0"),
     ({"layout_noise": 1.0}, r"layout_noise 1\.0"), ({"layout_above": -0.1}, r"layout_above -0\.1")],
)  # fmt: skip
def test_settings_out_of_range_are_named(wrong: dict, named: str) -> None:
    """A checkpoint whose world.json says nonsense is refused by the value, not by a picture of noise."""
    with pytest.raises(ValueError, match=named):
        FlowSettings(**wrong)


def test_noisy_latents_and_velocity_give_back_the_clean_ones() -> None:
    """x_sigma − sigma v = x_0 and x_sigma + (1 − sigma) v = noise, for each draw of each row with its own sigma."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(3, 2, 4, 6, 6, generator=generator)
    noise = torch.randn(3, 5, 2, 4, 6, 6, generator=generator)
    sigma = torch.rand(3, 5, generator=generator)
    noisy, velocity = noisy_and_velocity(clean, sigma, noise)
    level = sigma.view(3, 5, 1, 1, 1, 1)
    torch.testing.assert_close(noisy - level * velocity, clean[:, None].expand_as(noise), atol=1e-5, rtol=0)
    torch.testing.assert_close(noisy + (1 - level) * velocity, noise, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shift", [1.0, 2.0, 5.0])
def test_sigmas_are_stratified(shift: float) -> None:
    """Every history sees one draw a stratum: without that, one history pass may train on high noise alone."""
    sigma = draw_sigmas(500, 4, shift, torch.Generator().manual_seed(0))
    assert bool(((sigma >= 0) & (sigma < 1)).all())
    uniform = sigma / (shift - (shift - 1) * sigma)  # inverse of the shift
    assert torch.equal((uniform * 4).floor(), torch.arange(4.0).expand(500, 4))
    share = (uniform * 4 - torch.arange(4.0)).mean(0)
    assert bool(((share > 0.4) & (share < 0.6)).all())


def test_sigmas_come_from_the_generator_alone() -> None:
    """Resuming repeats a step's noise levels; torch's global state must not reach them."""
    first = draw_sigmas(4, 2, 2.0, torch.Generator().manual_seed(3))
    torch.rand(5)
    assert torch.equal(first, draw_sigmas(4, 2, 2.0, torch.Generator().manual_seed(3)))
