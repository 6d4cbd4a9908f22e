"""Checkpoint folders: what is written comes back, and a broken folder is refused in one line that names it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from worldsim.checkpoint import COMPONENTS, WorldModels, load_checkpoint, save_checkpoint
from worldsim.openings import Openings
from worldsim.recall import RecallSettings
from worldsim.world import World


@pytest.fixture(scope="module")
def saved(tiny_models: WorldModels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    models = replace(
        tiny_models,
        recall=RecallSettings(time_weight=0.3, gap_frames=4),
        trained={"steps": 12, "preset": "tiny"},
    )
    save_checkpoint(models, folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def load(folder: Path) -> WorldModels:
    return load_checkpoint(folder, "cpu", torch.float32)


def test_every_part_comes_back(saved: Path, tiny_models: WorldModels) -> None:
    """Weights rounded to bfloat16, once; settings, actions and openings as they were."""
    models = load(saved)
    for name in COMPONENTS:
        before, after = getattr(tiny_models, name).state_dict(), getattr(models, name).state_dict()
        assert before.keys() == after.keys()
        for key, tensor in before.items():
            assert torch.equal(after[key], tensor.bfloat16().float()), f"{name}.{key}"
        assert not any(p.requires_grad for p in getattr(models, name).parameters())
    assert models.action_space == tiny_models.action_space
    assert models.flow == tiny_models.flow
    assert models.recall == RecallSettings(time_weight=0.3, gap_frames=4)
    assert models.trained == {"steps": 12, "preset": "tiny"}
    given = tiny_models.openings.latents.clamp(-8, 127 / 16)
    assert float((models.openings.latents - given).abs().max()) <= 1 / 32
    assert torch.equal(models.openings.actions, tiny_models.openings.actions)


@pytest.mark.usefixtures("nothing_is_too_far")
def test_saved_again_it_plays_the_same_world(saved: Path, tmp_path: Path) -> None:
    """Whatever is not stored (phases, time settings) must be made anew alike: the worlds are equal bit for bit."""
    save_checkpoint(load(saved), tmp_path / "again")
    worlds = [World(load(path)) for path in (saved, tmp_path / "again")]
    actions = np.random.default_rng(0).integers(0, 3, (20, 1, 3))
    assert np.array_equal(*(world.reset(3) for world in worlds))
    for action in actions:
        first, second = (world.step(action) for world in worlds)
        assert torch.equal(first.latents, second.latents)
        assert first.recalled == second.recalled
    assert first.recalled


@pytest.mark.usefixtures("nothing_is_too_far")
def test_it_plays_in_bfloat16(saved: Path) -> None:
    """The GPU's precision: no part may mix dtypes, and places stay as precise as they are told to be."""
    models = load_checkpoint(saved, "cpu", torch.bfloat16)
    assert (models.dtype, models.odometer.dtype) == (torch.bfloat16, torch.float32)
    world = World(models)
    world.reset(0)
    for action in np.random.default_rng(0).integers(0, 3, (18, 1, 3)):
        section = world.step(action)
    assert section.recalled
    assert bool(torch.isfinite(section.latents).all())


def test_dtype_is_chosen_where_none_is_given(saved: Path) -> None:
    """`auto` must end in a model that runs here."""
    models = load_checkpoint(saved)
    assert models.dtype in (torch.float32, torch.bfloat16)
    world = World(models)
    world.reset(0)
    world.step(np.zeros((1, 3), np.int64))


def test_a_checkpoint_may_lack_openings(folder: Path) -> None:
    """Evaluation needs none; only `reset` complains."""
    (folder / "openings.safetensors").unlink()
    assert load(folder).openings is None


def truncate(path: Path, share: float = 0.5) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def edit(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | changes))


def remove(path: Path, key: str) -> None:
    content = json.loads(path.read_text())
    del content[key]
    path.write_text(json.dumps(content))


def one_more_action(folder: Path) -> None:
    content = json.loads((folder / "world.json").read_text())
    content["action_space"].append({"name": "jump", "choices": ["none", "jump"], "keys": [["space"]]})
    (folder / "world.json").write_text(json.dumps(content))


def save_other_openings(folder: Path) -> None:
    from worldsim.openings import save_openings

    save_openings(Openings(torch.zeros(2, 3, 4, 6, 8), torch.zeros(2, 3, 3, dtype=torch.int64)), folder)


WEIGHTS = "diffusion_pytorch_model.safetensors"
BREAKS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no world.json": (lambda f: (f / "world.json").unlink(), "", "no world.json.*worldsim train"),
    "torn world.json": (lambda f: truncate(f / "world.json"), "world.json", "not JSON.*restore"),
    "world.json a list": (lambda f: (f / "world.json").write_text("[1]"), "world.json", "version None"),
    "other version": (lambda f: edit(f / "world.json", format_version=7), "world.json", "version 7.*reads 4"),
    "no version": (lambda f: remove(f / "world.json", "format_version"), "world.json", "version None"),
    "no flow": (lambda f: remove(f / "world.json", "flow"), "world.json", "flow.*train again"),
    "no noise to begin with": (
        lambda f: edit(f / "world.json", flow={"shift": 0.0, "denoising_steps": 4}), "world.json", "shift 0.0"
    ),
    "unknown setting": (
        lambda f: edit(f / "world.json", recall={"gap": 3}), "world.json", "gap.*train again"
    ),
    "bad setting": (
        lambda f: edit(f / "world.json", action_space=[{"name": "move"}]), "world.json", "choices.*train again"
    ),
    "another action": (one_more_action, "world.json", r"\(3, 3, 3, 2\).*\(3, 3, 3\)"),
    "no transformer": (lambda f: shutil.rmtree(f / "transformer"), "transformer", "missing.*worldsim train"),
    "no odometer": (lambda f: shutil.rmtree(f / "odometer"), "odometer", "missing.*worldsim train"),
    "no config": (lambda f: (f / "descriptor/config.json").unlink(), "descriptor", "missing.*restore"),
    "no weights": (lambda f: (f / "transformer" / WEIGHTS).unlink(), "transformer", "torn.*restore"),
    "torn weights": (lambda f: truncate(f / "transformer" / WEIGHTS), "transformer", "torn.*restore"),
    "torn early": (lambda f: truncate(f / "autoencoder" / WEIGHTS, 0.001), "autoencoder", "torn.*restore"),
    "empty weights": (lambda f: truncate(f / "descriptor" / WEIGHTS, 0), "descriptor", "torn.*restore"),
    "torn config": (lambda f: truncate(f / "autoencoder/config.json"), "autoencoder", "torn.*restore"),
    "config a list": (
        lambda f: (f / "autoencoder/config.json").write_text("[]"), "autoencoder", "torn.*restore"
    ),
    "other width": (lambda f: edit(f / "transformer/config.json", width=64), "transformer", "config.json.*restore"),
    "more layers": (lambda f: edit(f / "transformer/config.json", layers=3), "transformer", "blocks.2"),
    "fewer layers": (lambda f: edit(f / "transformer/config.json", layers=1), "transformer", "blocks.1"),
    "bad schedule": (
        lambda f: edit(f / "transformer/config.json", schedule="td_f2k3_r1k1_g1"), "transformer", "k3.*restore"
    ),
    "other latents": (
        lambda f: edit(f / "transformer/config.json", latent_height=24), "descriptor",
        r"\(4, 12, 16\).*\(4, 24, 16\).*restore"
    ),
    "torn openings": (lambda f: truncate(f / "openings.safetensors"), "openings.safetensors", "torn.*restore"),
    "other openings": (save_other_openings, "openings.safetensors", r"\(4, 6, 8\).*\(4, 12, 16\)"),
}  # fmt: skip


@pytest.mark.parametrize("damage", BREAKS)
def test_broken_folders_are_refused_in_one_line(folder: Path, damage: str) -> None:
    """Half a copy, an interrupted download, an older program: each must say which file and what to do."""
    spoil, where, line = BREAKS[damage]
    spoil(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=line) as caught:
        load(folder)
    assert str(folder / where) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """The most common mistake: a wrong --checkpoint."""
    with pytest.raises(FileNotFoundError, match=r"nowhere is not a checkpoint .*leave --checkpoint out"):
        load(tmp_path / "nowhere")


def test_a_device_that_is_not_there_is_named(saved: Path) -> None:
    """`--device cuda` on a machine without GPU, and a misspelt one."""
    with pytest.raises(ValueError, match="device 'tpux' is not one that torch knows"):
        load_checkpoint(saved, "tpux")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device 'cuda': no GPU is visible"):
            load_checkpoint(saved, "cuda")
