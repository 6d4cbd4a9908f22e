"""Presets: parts that fit each other, and sizes that are as told."""

import re

import pytest

from models.transformer import WorldTransformer
from worldsim.build import build_models
from worldsim.checkpoint import WorldModels
from worldsim.presets import PRESETS, default, preset, tiny
from worldsim.recall import ACTION_STEPS, WINDOW_AGES


@pytest.mark.parametrize("name", PRESETS)
def test_parts_of_a_preset_fit_each_other(name: str) -> None:
    """A preset edited in one place only fails in the middle of a training."""
    sizes = preset(name)
    assert sizes.autoencoder.latent_channels == sizes.transformer.latent_channels == sizes.descriptor.channels
    assert sizes.odometer.channels == sizes.descriptor.channels
    assert sizes.transformer.latent_height == sizes.descriptor.height == sizes.odometer.height
    assert sizes.transformer.latent_width == sizes.descriptor.width == sizes.odometer.width
    assert sizes.transformer.action_sizes == sizes.descriptor.factor_sizes
    assert sizes.descriptor.window == len(WINDOW_AGES)
    assert sizes.descriptor.steps == ACTION_STEPS + sizes.schedule.section
    assert sizes.schedule.recent_frames >= max(WINDOW_AGES)
    assert sizes.transformer.width % sizes.transformer.heads == 0


def count(models: WorldModels) -> int:
    parts = (models.autoencoder, models.descriptor, models.odometer, models.transformer)
    return sum(p.numel() for part in parts for p in part.parameters())


def test_default_fits_into_the_repository(models_of) -> None:
    """36 MB in bfloat16 is the limit for the shipped checkpoint; the docstring tells the millions of parameters."""
    parameters = count(models_of(default()))
    assert 2 * parameters < 36e6
    told = re.search(r"([\d.]+) M parameters", default.__doc__ or "")
    assert told is not None
    assert parameters == pytest.approx(float(told[1]) * 1e6, rel=0.03)
    assert default().schedule.tokens(12, 16) == 328


def test_unknown_preset_names_the_known_ones() -> None:
    """`--preset big` must say what there is."""
    with pytest.raises(ValueError, match="preset 'big' is not known; use one of tiny, default, large"):
        preset("big")


def test_weights_come_from_the_seed_and_leave_the_global_state_alone(tiny_models: WorldModels) -> None:
    """Benches and tests compare runs: fresh weights must not depend on what ran before."""
    import torch

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = build_models(tiny(), tiny_models.action_space, seed=1)
    assert torch.equal(torch.rand(3), expected)
    again = build_models(tiny(), tiny_models.action_space, seed=1)
    other = build_models(tiny(), tiny_models.action_space, seed=2)
    weights = [models.transformer.patchify.proj.weight for models in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_other_action_sizes_are_refused(tiny_models: WorldModels) -> None:
    """Recordings of another game need another preset, not an index error in an embedding."""
    from worldsim.action_space import ActionSpace

    space = ActionSpace(tiny_models.action_space.factors[:2])
    with pytest.raises(ValueError, match=r"sizes \(3, 3\), the preset \(3, 3, 3\)"):
        build_models(tiny(), space)


def test_transformers_of_all_presets_can_be_made() -> None:
    """The large preset is used on GPUs alone: here at least its shapes are made."""
    import torch

    with torch.device("meta"):
        model = WorldTransformer.of(preset("large").transformer)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(130e6, rel=0.1)
