"""Averages of checkpoints: the mean of every weight, and refusals of what has no mean."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from worldsim.averaging import AveragingSettings, average_checkpoints
from worldsim.build import build_models
from worldsim.checkpoint import COMPONENTS, WorldModels, load_checkpoint, save_checkpoint
from worldsim.presets import tiny


@pytest.fixture
def folders(tiny_models: WorldModels, tmp_path: Path) -> list[Path]:
    """Three checkpoints of one autoencoder and three transformers."""
    made = []
    for seed in range(3):
        other = build_models(tiny(), tiny_models.action_space, seed)
        models = replace(tiny_models, transformer=other.transformer, trained={"steps": seed})
        made.append(tmp_path / f"run{seed}")
        save_checkpoint(models, made[-1])
    return made


def average(*folders: Path, out: Path) -> WorldModels:
    average_checkpoints(AveragingSettings(checkpoints=folders, out=out))
    return load_checkpoint(out, "cpu", torch.float32)


def test_every_weight_is_the_mean(folders: list[Path], tmp_path: Path) -> None:
    """In double precision, then rounded to bfloat16; all else is the first checkpoint's."""
    found = average(*folders, out=tmp_path / "average")
    given = [load_checkpoint(folder, "cpu", torch.float32) for folder in folders]
    states = [models.transformer.state_dict() for models in given]
    for name, weight in found.transformer.named_parameters():
        mean = sum(state[name].double() for state in states) / 3
        assert torch.equal(weight, mean.bfloat16().float()), name
    assert not torch.equal(found.transformer.patchify.proj.weight, states[0]["patchify.proj.weight"])
    for part in COMPONENTS.keys() - {"transformer"}:
        pairs = zip(getattr(found, part).parameters(), getattr(given[0], part).parameters(), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)
    assert found.trained == {"average_of": [{"steps": 0}, {"steps": 1}, {"steps": 2}]}
    assert found.flow == given[0].flow
    assert torch.equal(found.openings.actions, given[0].openings.actions)


def test_another_decoder_is_no_matter_but_another_encoder_is(folders: list[Path], tmp_path: Path) -> None:
    """A transformer of other latents speaks of other things by the same numbers."""
    models = load_checkpoint(folders[1], "cpu", torch.float32)
    with torch.no_grad():
        models.autoencoder.tiny.decoder.layers[-1].bias += 1
    save_checkpoint(models, folders[1])
    average(*folders[:2], out=tmp_path / "average")
    with torch.no_grad():
        models.autoencoder.latent_std *= 2
    save_checkpoint(models, folders[1])
    with pytest.raises(
        ValueError, match=r"run1 speaks of other latents .*\(autoencoder latent_std\); average"
    ):
        average(*folders[:2], out=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_another_codebook_is_refused(folders: list[Path], tiny_models: WorldModels, tmp_path: Path) -> None:
    """The codes of discretised histories are fitted to each training's data."""
    schedule = f"{tiny().transformer.schedule}+D"
    sizes = replace(tiny(), transformer=replace(tiny().transformer, schedule=schedule, codes=8))
    for folder in folders[:2]:
        models = build_models(sizes, tiny_models.action_space, 0)
        models.transformer.codebook.codes.normal_(generator=torch.Generator().manual_seed(0))
        save_checkpoint(models, folder)
    average(*folders[:2], out=tmp_path / "average")
    models.transformer.codebook.codes += 1
    save_checkpoint(models, folders[1])
    with pytest.raises(ValueError, match=r"run1 speaks of other latents .*\(transformer codebook.codes\)"):
        average(*folders[:2], out=tmp_path / "other")


def test_other_sizes_are_refused(folders: list[Path], tiny_models: WorldModels, tmp_path: Path) -> None:
    sizes = replace(tiny(), transformer=replace(tiny().transformer, layers=1))
    smaller = build_models(sizes, tiny_models.action_space, 0).transformer
    save_checkpoint(replace(tiny_models, transformer=smaller), folders[1])
    with pytest.raises(ValueError, match=r"run1/transformer has layers 1, the first checkpoint \d+; average"):
        average(*folders[:2], out=tmp_path / "average")


def test_it_takes_two_and_keeps_them(folders: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 checkpoint is no average; name two or more"):
        average(folders[0], out=tmp_path / "average")
    link = tmp_path / "link"
    link.symlink_to(folders[1])
    with pytest.raises(ValueError, match="is one of the checkpoints; give another folder"):
        average(*folders[:2], out=link)
    shutil.rmtree(folders[1] / "transformer")
    with pytest.raises(FileNotFoundError, match="transformer is missing from the checkpoint"):
        average(*folders[:2], out=tmp_path / "average")
