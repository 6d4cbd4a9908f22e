"""Several training processes: who draws what, and that all keep the same weights."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from worldsim.training.processes import Processes

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
ADVERSE = {"adversarial_weight": 0.05, "adversarial_after": 2}

TWO_PROCESSES = """
import sys
from pathlib import Path

sys.path[:0] = [{root!r}, {here!r}]
import torch
from conftest import make_episodes, make_trainer, tiny_training
from worldsim.training.loop import LoopSettings, TrainingLoop
from worldsim.training.processes import Processes

torch.set_num_threads(1)
out = Path(sys.argv[1])
processes = Processes.join("cpu")
trainer = make_trainer(
    tiny_training(batch=2), make_episodes(seed=processes.rank), processes, seed=processes.rank
)
loop = TrainingLoop("model", out, trainer.state, LoopSettings(steps=12, warmup_steps=4, log_steps=6), processes)
loop.train(trainer.take_step)
trainer.state.save(out / f"rank_{{processes.rank}}.safetensors")

rank = processes.rank
layer = torch.nn.Linear(2, 1).to(memory_format=torch.contiguous_format)
layer.weight.grad, layer.bias.grad = torch.full((1, 2), 1.0 + rank), torch.full((1,), 10.0 * rank)
processes.average_gradients(layer.parameters())
assert layer.weight.grad.tolist() == [[1.5, 1.5]] and layer.bias.grad.tolist() == [5.0], layer.weight.grad
assert processes.mean(torch.tensor([float(rank), 3.0])).tolist() == [0.5, 3.0]
assert processes.agreed(100.0 + rank) == 100.0
layer = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
processes.same_start(layer)
total = layer.weight.detach().sum()[None]
assert torch.equal(processes.mean(total.clone()), total)
processes.leave()
"""


SHARDED = """
import sys
from contextlib import suppress
from pathlib import Path

sys.path[:0] = [{root!r}, {here!r}]
import torch
from torch.distributed.tensor import DTensor
from conftest import make_episodes, make_trainer, tiny_training
from models.transformer import WorldTransformer
from worldsim.presets import tiny
from worldsim.training.loop import LoopSettings, TrainingLoop
from worldsim.training.processes import Processes

torch.set_num_threads(1)
out, processes = Path(sys.argv[1]), Processes.join("cpu")


def train(name, sharded, stop=None):
    settings, episodes = tiny_training(batch=4, **{adverse!r}), make_episodes(seed=processes.rank)
    torch.manual_seed(0)  # the judge's first weights
    trainer = make_trainer(settings, episodes, processes, sharded=sharded)
    parts = [isinstance(each, DTensor) for each in trainer.model.parameters()]
    assert all(parts) if sharded else not any(parts)
    loop = TrainingLoop(
        "model", out / name, trainer.state, LoopSettings(steps=24, warmup_steps=4, log_steps=6), processes
    )

    def take_step(step):
        if step == stop:
            trainer.state.save(loop.path, processes.main)
            raise InterruptedError
        return trainer.take_step(step)

    with suppress(InterruptedError):
        loop.train(take_step)
    return trainer


trainer = train("split", True)
held = sum(each.to_local().numel() for each in trainer.model.parameters())
everything = sum(each.numel() for each in trainer.model.parameters())
assert held < 0.75 * everything, (held, everything)
averaged = WorldTransformer.of(tiny().transformer)
trainer.state.copy_average_to(averaged)
if processes.main:
    averaged.save_pretrained(out / "averaged")
train("whole", False)
train("resumed", True, stop=12)
train("resumed", True)
processes.leave()
"""


def test_split_weights_train_the_same_model(tmp_path: Path) -> None:
    """FSDP2 against gradients that are averaged: own frames, weights, averages, optimisers, judge must come out alike.

    Also where it is stopped and goes on, and in the checkpoint, which holds whole weights.
    """
    script = tmp_path / "script.py"
    script.write_text(SHARDED.format(root=str(ROOT), here=str(Path(__file__).parent), adverse=ADVERSE))
    done = torchrun(script, str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    split, whole, resumed = (
        load_file(tmp_path / name / "state" / "model.safetensors") for name in ("split", "whole", "resumed")
    )
    assert split.keys() == whole.keys() == resumed.keys()
    assert any(name.startswith("optimizer.0.") for name in split)
    for name, tensor in whole.items():
        torch.testing.assert_close(
            split[name], tensor, rtol=2e-2, atol=2e-3, msg=lambda text, name=name: f"{name}: {text}"
        )
        torch.testing.assert_close(resumed[name], split[name], rtol=2e-2, atol=2e-3)
    kept = load_file(tmp_path / "averaged" / "diffusion_pytorch_model.safetensors")
    for name in ("blocks.1.up.weight", "packer.level_embedding"):
        assert torch.equal(kept[name], split[f"average.{name}"])


def torchrun(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Two processes on this machine, on a free port."""
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    return subprocess.run(
        [sys.executable, *words], text=True, capture_output=True, timeout=110, cwd=ROOT, env=environment
    )


def test_two_processes_train_one_model(tmp_path: Path) -> None:
    """Different data, different random numbers, different first weights: after each step the weights must agree."""
    script = tmp_path / "script.py"
    script.write_text(TWO_PROCESSES.format(root=str(ROOT), here=str(Path(__file__).parent)))
    done = torchrun(script, str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    first, second, kept = (
        load_file(tmp_path / name)
        for name in ("rank_0.safetensors", "rank_1.safetensors", "state/model.safetensors")
    )
    assert first.keys() == second.keys() == kept.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert [name for name in first if not torch.equal(first[name], kept[name])] == []


def test_one_process_keeps_its_gradients() -> None:
    """Without torchrun nothing is sent anywhere."""
    alone = Processes.join("cpu")
    assert (alone.rank, alone.count, alone.main) == (0, 1, True)
    layer = torch.nn.Linear(2, 1)
    layer.weight.grad = torch.tensor([[1.0, 2.0]])
    alone.average_gradients(layer.parameters())
    assert layer.weight.grad.tolist() == [[1.0, 2.0]]
    assert alone.agreed(3.5) == 3.5
    alone.barrier()
    alone.leave()


def test_seeds_differ_by_rank_seed_and_step() -> None:
    """Two processes, or two steps, that draw the same batch waste the second one."""
    seeds = [
        Processes(rank=rank, count=4, device=CPU).seed(seed, step)
        for rank in range(4)
        for seed in (0, 1, 2)
        for step in range(500)
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    bits = torch.tensor([[seed >> bit & 1 for bit in range(62)] for seed in seeds], dtype=torch.float32)
    assert bool(((bits.mean(0) - 0.5).abs() < 0.05).all())


def test_generators_repeat_and_differ() -> None:
    """The same (seed, step) gives the same numbers, a neighbour gives others."""
    processes = Processes(rank=1, count=2, device=CPU)
    first, again, next_step, other_rank = (
        torch.rand(4, generator=each)
        for each in (
            processes.generator(0, 5),
            processes.generator(0, 5),
            processes.generator(0, 6),
            Processes(rank=0, count=2, device=CPU).generator(0, 5),
        )
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, next_step)
    assert not torch.equal(first, other_rank)


@pytest.mark.parametrize("name", ["cuda", "nonsense"])
def test_missing_devices_are_refused(name: str) -> None:
    """A training asked to run on a GPU must not creep along on the CPU."""
    if name == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match=f"device '{name}'"):
        Processes.join(name)
