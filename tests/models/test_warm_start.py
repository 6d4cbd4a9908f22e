"""Weights of one schedule in a model of another: the same answers where both see the same."""

from dataclasses import replace

import pytest
import torch

from models.schedule import Schedule
from models.transformer import WorldTransformer
from models.warm_start import levels_of, start_from
from tests.models.test_transformer import section_inputs
from worldsim.ablation.suites import paper
from worldsim.presets import tiny

RECALLS = tiny().transformer.schedule
PLAIN = "td_f16k4f4k2f2k1_g1"


def of(schedule: str, **changes: object) -> WorldTransformer:
    """Random weights, none of them zero."""
    model = WorldTransformer.of(replace(tiny().transformer, schedule=schedule, **changes)).eval()
    generator = torch.Generator().manual_seed(len(schedule))
    with torch.no_grad():
        for weights in model.parameters():
            weights.copy_(torch.randn(weights.shape, generator=generator) * 0.2)
    return model


def test_the_same_schedule_takes_everything() -> None:
    trained, model = of(RECALLS), WorldTransformer.of(tiny().transformer)
    assert start_from(model, trained) == ()
    assert all(torch.equal(tensor, trained.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_a_schedule_without_memory_answers_as_with_an_empty_one(a_history) -> None:
    """Then both see the same frames through the same projections."""
    trained, model = of(RECALLS), of(PLAIN)
    before = model.packer.levels[0].proj.weight.clone()
    assert start_from(model, trained) == ()
    history = a_history(batch=2, present=22, found=0)
    bare = replace(history, recalled=history.recalled.part(slice(0, 0)))
    noisy, sigma, actions = section_inputs(2)
    answers = [
        each.denoise(noisy, sigma, actions, each.encode_history(each.pack(seen), seen.sigma))
        for each, seen in ((trained, history), (model, bare))
    ]
    torch.testing.assert_close(*answers, rtol=1e-4, atol=1e-4)
    assert not torch.equal(before, model.packer.levels[0].proj.weight)


@pytest.mark.parametrize(
    "variant", [each for each in paper() if each.weights is None], ids=lambda each: each.name
)
def test_every_variant_can_start_from_the_shipped_schedule(variant) -> None:
    """Projections are those of the same kernel; what is left is random, finite and named."""
    words = dict(zip(variant.train[::2], variant.train[1::2], strict=True))
    text = words["--schedule"]
    trained = of(RECALLS)
    model = of(text, codes=16 if "+D" in text else 0, attention=words.get("--attention", "once"))
    fresh = start_from(model, trained)
    assert set(fresh) <= {"codebook", "gap"}
    old = {str(level.kernel): level for level in levels_of(trained.schedule) if level.part == "recent"}
    for level in levels_of(Schedule.parse(text)):
        projection = model.get_submodule(level.projection).proj.weight
        same = trained.get_submodule(old[str(level.kernel)].projection).proj.weight
        remembered = trained.packer.recalled.proj.weight
        assert torch.equal(projection, same) or torch.equal(projection, remembered)
        if level.actions is not None:
            told = trained.get_submodule(old[str(level.kernel)].actions).weight
            assert torch.equal(model.get_submodule(level.actions).weight, told)


def test_a_kernel_never_trained_begins_as_the_finest_of_averages() -> None:
    """As the paper begins: proj_k2(x) = proj_k1(avg_pool3d(x))."""
    trained, model = of("td_f2k1_g1"), of("td_f4k2f2k1_g1")
    start_from(model, trained)
    latents = torch.randn(1, 4, 4, 12, 16)
    averaged = torch.nn.functional.avg_pool3d(latents.transpose(1, 2), 2).transpose(1, 2)
    torch.testing.assert_close(
        model.packer.levels[0](latents), trained.packer.levels[0](averaged), rtol=1e-4, atol=1e-5
    )


def test_other_sizes_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"blocks.*has no place in the model"):
        start_from(of(RECALLS, layers=1), of(RECALLS))
    with pytest.raises(ValueError, match=r"has shape .* not"):
        start_from(of(RECALLS, mlp_ratio=3), of(RECALLS))
