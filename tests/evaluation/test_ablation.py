"""An ablation from trainings to the table, and again where it was stopped."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from models.schedule import Schedule
from worldsim.ablation.ablate import Ablation, run_ablation
from worldsim.ablation.suites import SUITES, Variant, suite
from worldsim.training.model_training import ModelTraining

TRAIN = "--batch 4 --draws 2 --own-frames.length 6 --loop.log-steps 6 --validation-episodes 1 --workers 1"


@pytest.fixture
def settings(data: Path, checkpoint: Path, tmp_path: Path) -> Ablation:
    return Ablation(
        suite="quick", data=data, held_out=data, out=tmp_path / "ablation", parts=checkpoint, preset="tiny",
        only=("td_f16k4f4k2f2k1_g1", "noise 0.1"), steps=6, train=TRAIN, starts=2, rollouts=2, frames=16, judge_steps=4,
        devices=("cpu",),
    )  # fmt: skip


def test_an_ablation_ends_in_a_table_and_goes_on(settings: Ablation) -> None:
    """One training serves two variants; all figures stand in the table; nothing is done twice."""
    run_ablation(settings)
    found = json.loads((settings.out / "ablation.json").read_text())
    plain, noisy = found["rows"]
    assert (plain["name"], noisy["name"]) == ("td_f16k4f4k2f2k1_g1", "noise 0.1")
    assert plain["schedule"] == noisy["schedule"] == "td_f16k4f4k2f2k1_g1"
    assert plain["tokens"] == Schedule.parse(plain["schedule"]).tokens(12, 16)
    assert plain["parameters"] == noisy["parameters"] > 10_000
    assert plain["elo"] + noisy["elo"] == pytest.approx(2000)
    assert len(plain["distances"]) == plain["rollouts"] == 2
    judged = json.loads((settings.out / "noise_0.1" / "drift" / "drift.json").read_text())
    assert judged["settings"]["history_noise"] == "0.1"
    assert judged["settings"]["guidance"] == "0.0"
    assert noisy["ms_a_frame"] == pytest.approx(1000 * judged["seconds_a_frame"])
    page = (settings.out / "ablation.html").read_text()
    assert page.count("<img src='data:image/png") >= 4
    assert (settings.out / "noise_0.1" / "drift" / "clips" / "001.mp4").stat().st_size > 500
    # Reports may come from several machines, without the weights.
    shutil.rmtree(settings.out / "td_f16k4f4k2f2k1_g1" / "run")
    (settings.out / "ablation.json").unlink()
    run_ablation(settings)
    assert not (settings.out / "td_f16k4f4k2f2k1_g1" / "run").exists()
    assert json.loads((settings.out / "ablation.json").read_text()) == found
    with pytest.raises(ValueError, match=r"was begun with steps '6', not '7'.*another --out"):
        run_ablation(replace(settings, steps=7))


def test_a_variant_that_fails_is_named(settings: Ablation) -> None:
    """The others are judged, the table has a line for it, and the command does not say that all is well."""
    broken = replace(settings, only=("sliding window",), data=settings.out / "nowhere")
    with pytest.raises(
        ChildProcessError, match=r"1 of 1 variants failed, first 'sliding window'.*nowhere.*train.log"
    ):
        run_ablation(broken)
    [row] = json.loads((settings.out / "ablation.json").read_text())["rows"]
    assert "nowhere" in row["failure"]
    assert "| – |" in (settings.out / "ablation.md").read_text()


@pytest.mark.parametrize("name", SUITES)
def test_every_variant_can_be_trained(name: str) -> None:
    """A flag that training does not know would come to light after hours."""
    import tyro

    variants = suite(name)
    names = [each.name for each in variants]
    assert len(set(names)) == len(names)
    for variant in variants:
        if variant.weights is None:
            told = tyro.cli(ModelTraining, args=["--data", "d", "--out", "o", *variant.train])
            assert told.sizes.schedule.section == 1
        else:
            assert next(each for each in variants if each.name == variant.weights).weights is None


def test_unknown_names_are_refused(settings: Ablation) -> None:
    with pytest.raises(ValueError, match="suite 'papr' is not known; use one of paper, quick"):
        suite("papr")
    with pytest.raises(ValueError, match="variant 'causl' is not of suite 'quick'"):
        run_ablation(replace(settings, only=("causl",)))
    assert isinstance(suite("paper")[0], Variant)
