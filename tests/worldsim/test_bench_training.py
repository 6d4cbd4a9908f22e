"""The search for the largest batch, and a bench that ends on a CPU."""

import json
from pathlib import Path

import pytest
import torch

from models.schedule import Schedule
from worldsim.bench_training import CLOSE, TrainingBench, bench_training, billion, fits, largest_batch, timed
from worldsim.presets import tiny


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 37, 100, 1000, 5000])
@pytest.mark.parametrize("most", [1, 64, 4000])
def test_the_largest_batch_is_found(limit: int, most: int) -> None:
    """To a few percent, never one that does not fit, never above what is allowed, in a few dozen tries."""
    tried: list[int] = []

    def fits_in(batch: int) -> bool:
        tried.append(batch)
        return batch <= limit

    found, best = largest_batch(fits_in, most), min(limit, most)
    assert found <= best
    assert best - found <= max(1, CLOSE * best) if best else found == 0
    assert found in tried or found == 0
    assert max(tried, default=0) <= most
    assert len(tried) < 30


def test_what_does_not_fit_is_no_error() -> None:
    def step(batch: int) -> None:
        if batch > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    assert [fits(step, batch, torch.device("cpu")) for batch in (1, 2, 3)] == [True, True, False]


def test_a_batch_that_fits_no_more_is_made_smaller() -> None:
    """Memory in pieces may lack room for what had room before; a single sample that finds none is an error."""
    tried: list[int] = []

    def step(batch: int) -> None:
        tried.append(batch)
        if batch > 90:
            raise torch.OutOfMemoryError("CUDA out of memory")

    found, seconds = timed(step, 100, 3, torch.device("cpu"))
    assert found == tried[-1] <= 90 < tried[-5]
    assert tried[-4:] == [found] * 4
    assert seconds >= 0
    with pytest.raises(torch.OutOfMemoryError):
        timed(lambda batch: step(batch + 100), 1, 1, torch.device("cpu"))


def test_the_bench_ends_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench_training(TrainingBench(size="tiny", device="cpu", most=2, steps=1, out=tmp_path / "train.json"))
    figures = json.loads((tmp_path / "train.json").read_text())
    for name, text in (("packed", "td_f16k4f2k2f1k1_g1"), ("unpacked", "td_f19k1_g1")):
        assert figures[name]["tokens"] == Schedule.parse(text).tokens(12, 16) + 48
        assert figures[name]["largest_batch"] == 2
        assert figures[name]["samples_per_s"] > 0
    printed = capsys.readouterr().out
    assert "| tokens | 124 | 960 | 7.74 |" in printed
    assert "| largest batch | 2 | 2 | 1.00 |" in printed


def test_unequal_histories_are_refused() -> None:
    with pytest.raises(ValueError, match="reach 19 and 22 frames; compare equal ones"):
        TrainingBench(unpacked=tiny().transformer.schedule)


def test_the_large_case_is_of_a_billion() -> None:
    """Counted from the sizes: each layer has 4 + 2 · mlp_ratio squares of its width."""
    sizes = billion()
    assert 1e9 < sizes.layers * (4 + 2 * sizes.mlp_ratio) * sizes.width**2 < 1.3e9
