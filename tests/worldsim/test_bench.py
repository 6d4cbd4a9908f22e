"""The structure of `worldsim bench step`; times themselves are not tested."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from worldsim.bench import (
    PARTS,
    MemorySize,
    PartTime,
    StepBench,
    StepReport,
    bench_models,
    bench_step,
    fill_memory,
    limited_threads,
    measure_steps,
    total_ratio,
)
from worldsim.checkpoint import load_checkpoint, save_checkpoint
from worldsim.world import World

SETTINGS = StepBench(preset="tiny", device="cpu", steps=4, warmup=1, memory_frames=(300, 40))


@pytest.fixture(scope="module")
def report() -> StepReport:
    models, name = bench_models(SETTINGS)
    return measure_steps(models, name, SETTINGS)


def test_every_part_of_the_step_is_told(report: StepReport) -> None:
    """A part that `World.step` gains must not vanish from the table: parts would no longer add up to the step."""
    world = World(bench_models(SETTINGS)[0])
    fill_memory(world, 40)
    assert set(PARTS) == set(world.step(np.zeros((1, 3), np.int64)).timings_s)
    for size in report.sizes:
        assert list(size.parts) == [*PARTS, "total"]
        assert size.parts["total"].share == 1.0
        assert 0.5 < sum(size.parts[name].share for name in PARTS) <= 1.0
        for part in size.parts.values():
            assert 0 < part.p50_ms <= part.p95_ms
        assert size.frames_per_s == pytest.approx(1e3 / size.parts["total"].p50_ms)


def test_ratio_is_that_of_the_medians(report: StepReport) -> None:
    """Largest over smallest whatever their order in the flags, and medians, which a hiccup does not move."""
    largest, smallest = report.sizes
    assert report.total_ratio == largest.parts["total"].p50_ms / smallest.parts["total"].p50_ms

    def size(frames: int, p50_ms: float) -> MemorySize:
        part = PartTime(p50_ms=p50_ms, p95_ms=100.0, share=1.0)
        return MemorySize(memory_frames=frames, parts={"total": part}, frames_per_s=1.0)

    assert total_ratio([size(10, 2.0), size(1000, 3.0), size(100, 50.0)]) == 1.5


def test_memory_is_really_filled() -> None:
    """A bench of an empty memory, or of keys that all look alike, would praise any index."""
    world = World(bench_models(SETTINGS)[0])
    fill_memory(world, 1300)
    keys = world.memory._index.keys()[:, : world.models.descriptor.dim]
    assert len(world.memory) == len(keys) == 1300
    np.testing.assert_allclose(np.linalg.norm(keys, axis=1), 1, atol=1e-5)
    assert len(np.unique(keys, axis=0)) == 1300
    assert 0.9 < float(world.memory.latents([0, 999, 1000, 1299]).float().std()) < 1.1
    section = world.step(np.ones((1, 3), np.int64))
    assert len(section.recalled) == world.models.schedule.recalled.frames


def test_bytes_of_a_frame_are_those_of_the_memory(report: StepReport) -> None:
    """Counted by hand: 4 × 12 × 16 float16, three int64 actions, a pose of three float32, 16 + 8 + 1 float32 columns,
    one int64 time."""
    assert report.bytes_a_frame == 2 * 4 * 12 * 16 + 8 * 3 + 4 * 3 + 4 * 25 + 8


def test_threads_are_limited_and_given_back() -> None:
    """A limit that torch does not hear of makes a claim about few cores false."""
    before = torch.get_num_threads()
    with limited_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with limited_threads(None):
        assert torch.get_num_threads() == before


def test_json_and_table_tell_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file is what documents are filled from: it must hold every figure, and what they were measured on."""
    out = tmp_path / "deep" / "step.json"
    bench_step(
        StepBench(preset="tiny", device="cpu", steps=2, warmup=0, memory_frames=(30,), threads=1, out=out)
    )
    content, table = json.loads(out.read_text()), capsys.readouterr().out
    assert content["settings"]["memory_frames"] == [30]
    assert content["threads"] == 1
    assert 0 < content["cores_busy"] < 1.5
    assert content["total_ratio"] == 1.0
    assert content["peak_bytes"] > 2**24
    for name, part in content["sizes"][0]["parts"].items():
        assert f"| {name} | {part['p50_ms']:.1f} | {part['p95_ms']:.1f} | {part['share']:.0%} |" in table
    for figure in (content["device"], f"{content['cores']} cores", "1 threads", content["dtype"]):
        assert figure in table


def test_a_checkpoint_is_timed_as_it_is_played(tmp_path: Path) -> None:
    """The checkpoint's own weights and denoising steps, not those of a preset."""
    models, _ = bench_models(SETTINGS)
    save_checkpoint(models, tmp_path / "mine")
    settings = StepBench(checkpoint=tmp_path / "mine", device="cpu", steps=1, warmup=0, memory_frames=(30,))
    loaded, name = bench_models(settings)
    assert name == "checkpoint mine"
    torch.testing.assert_close(
        loaded.transformer.patchify.proj.weight,
        load_checkpoint(tmp_path / "mine", "cpu").transformer.patchify.proj.weight,
        check_dtype=False,
    )
    assert models.flow.denoising_steps == 2
    assert measure_steps(loaded, name, settings).sampler.startswith("2 denoising steps")
    faster = StepBench(**{**asdict(settings), "denoising_steps": 1})
    assert measure_steps(loaded, name, faster).sampler.startswith("1 denoising steps")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"checkpoint": Path("here"), "preset": "tiny"}, "here"),
        ({"steps": 0}, "0 steps"),
        ({"warmup": -1}, "-1"),
        ({"threads": 0}, "0 threads"),
        ({"memory_frames": (0, 5)}, r"\(0, 5\)"),
        ({"memory_frames": ()}, r"\(\)"),
    ],
)
def test_bad_flags_are_named(flags: dict, words: str) -> None:
    """A bench of nothing would divide by zero, minutes later."""
    with pytest.raises(ValueError, match=words):
        StepBench(**flags)


def test_unknown_names_are_told() -> None:
    """The door turns these into one line; a KeyError would be a traceback."""
    with pytest.raises(ValueError, match="huge"):
        bench_models(StepBench(preset="huge", device="cpu"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        bench_models(StepBench(checkpoint=Path("nowhere"), device="cpu"))
