"""Bad input at the doors: one line that names the value and the mend, a code that is not 0, and nothing lost."""

import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

import play
from worldsim import cli
from worldsim.action_space import ActionFactor, ActionSpace
from worldsim.build import build_models, random_openings
from worldsim.checkpoint import COMPONENTS, WorldModels, load_checkpoint, save_checkpoint, save_component
from worldsim.episode import EpisodeHeader, EpisodeWriter
from worldsim.presets import tiny
from worldsim.tensor_files import save_tensors
from worldsim.video import VideoWriter, write_png

WEIGHTS = "diffusion_pytorch_model.safetensors"
Door = Callable[[str], tuple[int, str]]


@pytest.fixture(scope="module")
def models() -> WorldModels:
    factors = [("move", "w", "s"), ("turn", "left", "right"), ("strafe", "a", "d")]
    space = ActionSpace(
        tuple(
            ActionFactor(name=name, choices=("none", "one", "two"), keys=((one,), (two,)))
            for name, one, two in factors
        )
    )
    models = build_models(tiny(), space, seed=0)
    models.openings = random_openings(models, count=2, frames=8)
    return models


@pytest.fixture(scope="module")
def sound(models: WorldModels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a sound checkpoint, and a folder of two sound episodes, neither to be changed."""
    folder = tmp_path_factory.mktemp("sound")
    save_checkpoint(models, folder / "checkpoint")
    rng = np.random.default_rng(0)
    for number in range(2):
        header = EpisodeHeader(
            environment="test",
            engine="none",
            seed=number,
            map_seed=number,
            map_hash="",
            action_space=models.action_space,
            settings={},
        )
        with EpisodeWriter(folder / f"data/episode_{number:06d}.h5", header) as writer:
            for _ in range(60):
                frame = rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)
                writer.append(frame, np.zeros(3, np.int64))
    return folder


@pytest.fixture
def here(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a copy to break, an empty folder, a file in the way."""
    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("in the way")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Door:
    """Call `play` or `worldsim` with words; returns the exit code and the last line on stderr."""

    def call(words: str) -> tuple[int, str]:
        name, *arguments = shlex.split(words)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        with pytest.raises(SystemExit) as left:
            {"play": play.main, "worldsim": cli.main}[name]()
        output = capsys.readouterr().err
        assert "Traceback" not in output
        return int(left.value.code or 0), output.rstrip("\n").replace("\r", "\n").rpartition("\n")[2]

    return call


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


HEADLESS = "play --headless --frames 2 --out walk.mp4 --device cpu --checkpoint"
TRAIN = "--preset tiny --device cpu --workers 1 --loop.steps 48"


@pytest.mark.parametrize(
    ("words", "named", "mend"),
    [
        (f"{HEADLESS} nowhere", "nowhere is not a checkpoint", "train one with worldsim train"),
        (f"{HEADLESS} file", "file is not a checkpoint", "train one with worldsim train"),
        (f"{HEADLESS} checkpoint --device cuda", "'cuda': no GPU is visible", "use --device cpu"),
        (f"{HEADLESS} checkpoint --frames 0", "--frames 0 is too small", "give 1 or more"),
        (f"{HEADLESS} checkpoint --out file/walk.mp4", "file", "give another path"),
        (f"{HEADLESS} checkpoint --out empty", "'empty' is no video name", "end it with .mp4 or .gif"),
        (f"{HEADLESS} checkpoint --record file", "file", "give another path"),
        ("worldsim evaluate drift --checkpoint checkpoint --data empty --out o", "empty holds no", "run worldsim record"),
        ("worldsim evaluate replay file", "file is not a folder", "run worldsim record"),
        ("worldsim evaluate revisits --checkpoint file --data data --out o", "file is not a check", "train one"),
        ("worldsim evaluate autoencoder --checkpoint checkpoint --data data --out file --frames 4", "file", "give another"),
        (f"worldsim train autoencoder --data empty --out o {TRAIN}", "empty holds no", "run worldsim record"),
        (f"worldsim train descriptor --data empty --out . {TRAIN}", "empty holds no", "run worldsim record"),
        (f"worldsim train model --data empty --out . {TRAIN}", "empty holds no", "run worldsim record"),
        (f"worldsim train autoencoder --data data --out file {TRAIN}", "file", "give another path"),
        ("worldsim train autoencoder --data data --out o --preset huge", "'huge' is not known", "use one of tiny"),
        (f"worldsim train descriptor --data data --out . {TRAIN} --preset default", "autoencoder", "--preset"),
        ("worldsim record --out file --episodes 1 --steps 5", "file", "give another path"),
    ],
)  # fmt: skip
def test_a_wrong_path_or_value_is_one_line(here: Path, door: Door, words: str, named: str, mend: str) -> None:
    """Each of these once ended in a traceback, in a bare "File exists", or after minutes of computing."""
    code, line = door(words)
    assert code == 2
    assert line.startswith("error: ")
    assert named in line
    assert mend in line
    assert (here / "file").read_text() == "in the way"
    assert not list(here.rglob("*.part*"))


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (f"{HEADLESS} checkpoint --memory best", "best"),
        ("worldsim evaluate drift --checkpoint checkpoint --data data --out o --memory-mode best", "best"),
        ("worldsim record --out o --steps 0", "steps 0"),
        ("worldsim train autoencoder --data data --out o --batch 0", "batch 0"),
        ("worldsim train descriptor --data data --out . --workers 0", "workers 0"),
        ("worldsim train model --data data --out . --loop.steps 0", "steps 0"),
    ],
)
def test_a_flag_out_of_range_is_named(here: Path, words: str, value: str, capfd, monkeypatch) -> None:
    """A batch of 0 once trained to NaN, which blamed the learning rate; 0 workers blamed "max_workers"."""
    name, *arguments = words.split()
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with pytest.raises(SystemExit) as left:
        {"play": play.main, "worldsim": cli.main}[name]()
    assert left.value.code == 2
    output = capfd.readouterr().err
    assert value in output
    assert "Traceback" not in output
    assert not (here / "o").exists()


@pytest.mark.parametrize("part", [f"{name}/{WEIGHTS}" for name in COMPONENTS] + ["world.json"])
def test_a_torn_checkpoint_is_named(here: Path, door: Door, part: str) -> None:
    """Half a download: the line names the part, and no video of noise is written."""
    halve(here / "checkpoint" / part)
    code, line = door(f"{HEADLESS} checkpoint")
    assert code == 2
    assert part.split("/")[0] in line
    assert "restore it" in line
    assert not (here / "walk.mp4").exists()


@pytest.mark.parametrize(
    "words",
    [
        "worldsim evaluate autoencoder --checkpoint checkpoint --data data --out o",
        "worldsim evaluate revisits --checkpoint checkpoint --data data --out o",
        "worldsim evaluate drift --checkpoint checkpoint --data data --out o",
        f"worldsim train descriptor --data data --out . {TRAIN}",
    ],
)
def test_a_torn_episode_is_named(here: Path, door: Door, words: str) -> None:
    """One bad file among thousands: without its name the whole recording is suspect."""
    halve(here / "data/episode_000001.h5")
    code, line = door(words)
    assert code == 2
    assert "data/episode_000001.h5 is torn" in line
    assert "delete it or rerun worldsim record" in line


def test_a_torn_manifest_is_named(here: Path, door: Door) -> None:
    """`worldsim record` must neither guess what was recorded nor record over it."""
    (here / "data/recording.json").write_text('{"steps": ')
    before = (here / "data/episode_000000.h5").read_bytes()
    code, line = door("worldsim record --out data --episodes 2 --steps 60")
    assert (code, "recording.json is not JSON" in line, "restore it" in line) == (2, True, True)
    assert (here / "data/episode_000000.h5").read_bytes() == before


@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """No file may grow beyond `limit` bytes: what a full disk does to whoever writes, without one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_tensors_that_do_not_fit_are_an_oserror_and_leave_the_old_ones(tmp_path: Path) -> None:
    """safetensors raises an error of its own when the disk is full: training ended in a traceback."""
    path = tmp_path / "state.safetensors"
    save_tensors(path, {"x": torch.zeros(3)})
    old = path.read_bytes()
    with small_files(50_000), pytest.raises(OSError, match="File too large") as caught:
        save_tensors(path, {"x": torch.zeros(100_000)})
    assert caught.value.filename == str(path)
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == [path.name]


def test_a_part_that_does_not_fit_leaves_the_old_part(here: Path, models: WorldModels) -> None:
    """A full disk at the end of a training tore the checkpoint that was there before."""
    with small_files(50_000), pytest.raises(OSError, match="transformer"):
        save_component(models.transformer, here / "checkpoint", "transformer")
    load_checkpoint(here / "checkpoint", device="cpu")
    assert sorted(os.listdir(here / "checkpoint/transformer")) == ["config.json", WEIGHTS]


@pytest.mark.parametrize("name", ["walk.mp4", "walk.gif", "strip.png"])
def test_pictures_that_do_not_fit_leave_nothing(tmp_path: Path, name: str) -> None:
    """A full disk left `.walk.123.part.mp4` behind, which filled it further, and a line without a name."""
    rng = np.random.default_rng(0)

    def write() -> None:
        if name == "strip.png":
            from PIL import Image

            write_png(tmp_path / name, Image.fromarray(rng.integers(0, 256, (500, 500, 3), dtype=np.uint8)))
            return
        with VideoWriter(tmp_path / name) as video:
            for _ in range(12):
                video.append(rng.integers(0, 256, (96, 128, 3), dtype=np.uint8))

    with small_files(20_000), pytest.raises(OSError, match=name.split(".")[0]):
        write()
    assert os.listdir(tmp_path) == []


@pytest.mark.timeout(400)  # a busy machine takes several times as long, and that is no defect
@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill-9"])
def test_a_stopped_training_goes_on(here: Path, way: signal.Signals) -> None:
    """Ctrl-C once cost the steps since the last save; after kill -9 the same command must find a whole state."""
    words = f"train descriptor --data data --out . {TRAIN} --loop.log-steps 2 --loop.save-minutes 0"
    command = [sys.executable, "-m", "worldsim.cli", *words.split()]
    root = str(Path(__file__).resolve().parent.parent)
    environment = os.environ | {"PYTHONPATH": root}
    state = here / "state/descriptor.safetensors"
    process = subprocess.Popen(command, cwd=here, env=environment, stderr=subprocess.PIPE, text=True)
    end_s = time.monotonic() + 150
    while not state.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end_s, "nothing was saved"
        time.sleep(0.01)
    process.send_signal(way)
    _, told = process.communicate(timeout=150)
    if way == signal.SIGINT:
        assert process.returncode == 130
        assert told.endswith("is saved; the same command goes on\ninterrupted\n")
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "descriptor: resumed at step" in done.stdout
    assert (here / "checkpoint/descriptor" / WEIGHTS).exists()
