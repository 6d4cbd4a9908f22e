"""The episode format: lossless, one clear line for every broken file, and little lost to a kill."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest

from worldsim.action_space import ActionFactor, ActionSpace
from worldsim.deflate import deflate
from worldsim.episode import Episode, EpisodeHeader, EpisodeWriter, list_episodes, next_episode_path, recover
from worldsim.episode_format import part_path
from worldsim.episode_part import BATCH, LEVEL

SPACE = ActionSpace(
    (
        ActionFactor(name="move", choices=("none", "forward", "back"), keys=(("w",), ("s",))),
        ActionFactor(name="fire", choices=("none", "shoot"), keys=(("space",),)),
    )
)
HEADER = EpisodeHeader(
    environment="Test/World-v0",
    engine="numpy",
    seed=3,
    map_seed=2**40,
    map_hash="ab" * 32,
    action_space=SPACE,
    settings={"width": 32, "map": {"rows": (3, 4)}},
)


def trajectory(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    actions = np.stack([rng.integers(0, 3, count), rng.integers(0, 2, count)], axis=1)
    actions[0] = 0
    return {
        "frames": rng.integers(0, 256, (count, 24, 32, 3), dtype=np.uint8),
        "actions": actions,
        "poses": rng.normal(size=(count, 4)).astype(np.float32),
        "rooms": rng.integers(0, 20, count),
        "tics": np.arange(count) * 4 + 1,
    }


def write(
    writer: EpisodeWriter, data: dict[str, np.ndarray], start: int = 0, stop: int | None = None
) -> None:
    for t in range(start, len(data["frames"]) if stop is None else stop):
        pose, room, tic = data["poses"][t], int(data["rooms"][t]), int(data["tics"][t])
        writer.append(data["frames"][t], data["actions"][t], pose=pose, room=room, tic=tic)


def assert_equal(episode: Episode, data: dict[str, np.ndarray], count: int | None = None) -> None:
    for name in ("actions", "poses", "rooms", "tics"):
        np.testing.assert_array_equal(getattr(episode, name), data[name][:count])
    np.testing.assert_array_equal(episode.frames(), data["frames"][:count])


@pytest.mark.parametrize("count", [1, BATCH, 5 * BATCH + 7])
def test_roundtrip_is_lossless(tmp_path: Path, count: int) -> None:
    """Guards against any loss: a lossy codec, a forgotten last flush, rows out of order."""
    data = trajectory(count)
    path = next_episode_path(tmp_path / "new")
    with EpisodeWriter(path, HEADER) as writer:
        write(writer, data)
    assert list_episodes(path.parent) == [path]
    with Episode.open(path) as episode:
        assert len(episode) == count
        assert episode.header == HEADER
        assert_equal(episode, data)
        picks = np.random.default_rng(1).integers(0, count, 50)
        np.testing.assert_array_equal(episode.frame_at(picks), data["frames"][picks])
        assert episode.torn_frames() == []
        with pytest.raises(ValueError, match=rf"frames 0..{count - 1}, not {count}"):
            episode.frame_at(np.array([0, count]))
    with h5py.File(path) as file:  # plain HDF5 tools must read the chunks we wrote around its filters
        np.testing.assert_array_equal(file["frames"][:], data["frames"])
    assert next_episode_path(path.parent).name == "episode_000001.h5"


def test_writer_refuses_what_it_cannot_keep(tmp_path: Path) -> None:
    """Guards against overwriting an episode, and against rows that would not fit the alignment of actions."""
    path, data = tmp_path / "episode_000000.h5", trajectory(3)
    writer = EpisodeWriter(path, HEADER)
    with pytest.raises(ValueError, match="must be all zeros"):
        writer.append(data["frames"][0], np.array([1, 0]))
    with pytest.raises(ValueError, match=r"factor 'fire' is not within 0\.\.1"):
        writer.append(data["frames"][0], np.array([0, 2]))
    write(writer, data)
    with pytest.raises(ValueError, match=r"a frame of .* among frames of"):
        writer.append(data["frames"][0, :12], np.array([0, 0]))
    with pytest.raises(FileExistsError, match=r"h5\.part exists already"):
        EpisodeWriter(path, HEADER)
    writer.finish()
    with pytest.raises(FileExistsError, match=r"h5 exists already"):
        EpisodeWriter(path, HEADER)


def test_frames_made_later_are_the_same(tmp_path: Path) -> None:
    """Guards against frames made in another order, or from what the caller's loop variable has become."""
    path, data = tmp_path / "episode_000000.h5", trajectory(40)
    with EpisodeWriter(path, HEADER) as writer:
        for t in range(40):
            frame = data["frames"][t]
            later = partial(np.bitwise_xor, frame ^ 255, 255) if t % 3 else frame
            writer.append(
                later, data["actions"][t], pose=data["poses"][t], room=int(data["rooms"][t]), tic=4 * t + 1
            )
    with Episode.open(path) as episode:
        assert_equal(episode, data)
        assert episode.torn_frames() == []


@pytest.mark.parametrize(
    ("made", "line"), [(np.zeros((12, 32, 3), np.uint8), "among frames"), (None, "no picture")]
)
def test_a_frame_that_cannot_be_made_ends_the_episode(
    tmp_path: Path, made: np.ndarray | None, line: str
) -> None:
    """Guards against a gap: what comes after a lost batch must not be written behind what came before it."""
    path, data = tmp_path / "episode_000000.h5", trajectory(90)

    def make() -> np.ndarray:
        if made is None:
            raise ValueError("no picture")
        return made

    def append_all() -> None:
        with EpisodeWriter(path, HEADER) as writer:
            write(writer, data, stop=2 * BATCH + 3)
            writer.append(make, data["actions"][0])
            write(writer, data, start=2 * BATCH + 4)

    with pytest.raises(ValueError, match=line):
        append_all()
    assert recover(path) == path
    with Episode.open(path) as episode:
        assert_equal(episode, data, 2 * BATCH)


def test_resume_goes_on_where_an_error_stopped(tmp_path: Path) -> None:
    """Guards against a resumed file that repeats, skips or reorders frames."""
    path, data = tmp_path / "episode_000004.h5", trajectory(100)

    def stop_at_45() -> None:
        with EpisodeWriter(path, HEADER) as writer:
            write(writer, data, stop=45)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop_at_45()
    assert next_episode_path(tmp_path).name == "episode_000005.h5"
    writer = EpisodeWriter.resume(path)
    assert writer is not None
    assert len(writer) == 45
    np.testing.assert_array_equal(writer.column("actions"), data["actions"][:45])
    with writer:
        write(writer, data, start=45)
    with Episode.open(path) as episode:
        assert_equal(episode, data)
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_episode import HEADER, EpisodeWriter, trajectory, write
data = trajectory(3000)
writer = EpisodeWriter(Path(sys.argv[1]), HEADER)
for t in range(3000):
    write(writer, data, t, t + 1)
    print(t + 1, flush=True)
"""


@pytest.mark.parametrize("lines", [1, 2 * BATCH + 1, 400, 777])
def test_kill_loses_at_most_thirty_frames(tmp_path: Path, lines: int) -> None:
    """Guards against a file that does not open again, or frames lost beyond one flush, after kill -9."""
    path = tmp_path / "episode_000000.h5"
    here = str(Path(__file__).parent)
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", KILLED, str(path), here]
    environment = {**os.environ, "PYTHONPATH": root}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for _ in range(lines):
            process.stdout.readline()
        time.sleep(0.003)
        process.send_signal(signal.SIGKILL)
        appended = lines + len(process.stdout.read().split())
    recovered = recover(path)
    if recovered is None:
        assert appended <= 2 * BATCH
        assert not part_path(path).exists()
        return
    with Episode.open(recovered) as episode:
        assert appended - 2 * BATCH <= len(episode) <= appended + 1
        assert_equal(episode, trajectory(3000), len(episode))


FULL = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_episode import HEADER, EpisodeWriter, trajectory, write
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
try:
    with EpisodeWriter(Path(sys.argv[1]), HEADER) as writer:
        write(writer, trajectory(3000))
except OSError as error:
    print(error)
"""


def test_a_file_that_cannot_grow_keeps_what_it_has(tmp_path: Path) -> None:
    """Guards against a full disk that costs the whole episode, a crash at exit, or a message of half a screen."""
    path = tmp_path / "episode_000000.h5"
    command = [sys.executable, "-c", FULL, str(path), str(Path(__file__).parent)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"[Errno 27] File too large: '{path}.part'\n"
    assert recover(path) == path
    with Episode.open(path) as episode:
        assert len(episode) > 60
        assert_equal(episode, trajectory(3000), len(episode))


NO_ROOM = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_episode import HEADER, EpisodeWriter, trajectory, write
writer = EpisodeWriter(Path(sys.argv[1]), HEADER)
write(writer, trajectory(40))
writer.flush()
resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000))
try:
    writer.finish()
except OSError as error:
    print(error)
"""


def test_an_episode_that_cannot_become_hdf5_stays_a_log(tmp_path: Path) -> None:
    """Guards against a disk that fills up at the very end: one line, and nothing is lost or left over."""
    path = tmp_path / "episode_000000.h5"
    command = [sys.executable, "-c", NO_ROOM, str(path), str(Path(__file__).parent)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"[Errno 27] File too large: '{path}.part.new'\n"
    assert [item.name for item in tmp_path.iterdir()] == [part_path(path).name]
    assert recover(path) == path
    with Episode.open(path) as episode:
        assert_equal(episode, trajectory(40))


def test_recover_keeps_the_sound_beginning(tmp_path: Path) -> None:
    """Guards against trusting torn records: what follows the first that is not as it was written is cut off."""
    path, data = tmp_path / "episode_000000.h5", trajectory(90)
    writer = EpisodeWriter(path, HEADER)
    write(writer, data)
    writer.suspend()
    whole = part_path(path).read_bytes()
    torn = whole.index(deflate.compress(data["frames"][70].data, LEVEL)) + 20
    part_path(path).write_bytes(whole[:torn] + bytes([whole[torn] ^ 0xFF]) + whole[torn + 1 :])
    resumed = EpisodeWriter.resume(path)
    assert resumed is not None
    assert len(resumed) == 60
    write(resumed, data, start=60)
    resumed.finish()
    with Episode.open(path) as episode:
        assert_equal(episode, data, 90)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.5, 0.77, 0.999, 1.0])
def test_a_log_cut_anywhere_keeps_all_before_the_cut(tmp_path: Path, share: float) -> None:
    """A kill can end a write at any byte: whole batches before it stay."""
    path, data = tmp_path / "episode_000000.h5", trajectory(90)
    writer = EpisodeWriter(path, HEADER)
    write(writer, data)
    writer.suspend()
    whole = part_path(path).read_bytes()
    ends = [whole.index(deflate.compress(frame.data, LEVEL)) for frame in data["frames"]]
    cut = int(share * len(whole))
    part_path(path).write_bytes(whole[:cut])
    kept = sum(cut >= ends[t] for t in range(90)) // BATCH * BATCH
    recovered = recover(path)
    assert not part_path(path).exists()
    if recovered is None:
        assert kept <= BATCH
        return
    with Episode.open(recovered) as episode:
        assert kept - BATCH <= len(episode) <= kept + BATCH
        assert_equal(episode, data, len(episode))


def test_a_log_that_is_written_or_of_another_version_stays(tmp_path: Path) -> None:
    """Neither is cut, and neither deleted."""
    path = tmp_path / "episode_000000.h5"
    writer = EpisodeWriter(path, HEADER)
    write(writer, trajectory(40))
    writer.flush()
    with pytest.raises(OSError, match=r"h5\.part cannot be read \(.*\); is it being written\?"):
        EpisodeWriter.resume(path)
    writer.suspend()
    part = part_path(path)
    part.write_bytes(b"\x89HDF\r\n" + part.read_bytes())
    with pytest.raises(
        ValueError, match=r"was begun by another version of worldsim; finish it with that one"
    ):
        recover(path)
    assert part.exists()


def finished(path: Path, count: int = 40) -> Path:
    with EpisodeWriter(path, HEADER) as writer:
        write(writer, trajectory(count))
    return path


def test_torn_files_are_named_in_one_line(tmp_path: Path) -> None:
    """Guards against a traceback out of HDF5, or silently wrong frames, when a copy was cut short or flipped."""
    path = finished(tmp_path / "episode_000000.h5")
    with h5py.File(path) as file:
        info = file["frames"].id.get_chunk_info_by_coord((9, 0, 0, 0))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(
        OSError, match=r"episode_000000\.h5 is torn.*delete it or rerun worldsim record"
    ) as caught:
        Episode.open(path)
    assert "\n" not in str(caught.value)
    middle = info.byte_offset + info.size // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :])
    with Episode.open(path) as episode:
        assert episode.torn_frames() == [9]
        with pytest.raises(OSError, match=r"episode_000000\.h5 is torn at frame 9"):
            episode.frames()
    path.write_bytes(b"")
    with pytest.raises(OSError, match="is torn or not HDF5"):
        Episode.open(path)
    with pytest.raises(FileNotFoundError, match="is not a file"):
        Episode.open(tmp_path / "episode_000001.h5")


def test_files_of_another_format_are_refused(tmp_path: Path) -> None:
    """Guards against reading another version's meaning into the data, and against cryptic shape errors later."""
    path = finished(tmp_path / "episode_000000.h5")

    def refused(line: str) -> None:
        with pytest.raises(ValueError, match=line):
            Episode.open(path)

    with h5py.File(path, "r+") as file:
        file.attrs["complete"] = False
    refused("is unfinished")
    with h5py.File(path, "r+") as file:
        file.attrs["complete"] = True
        file["poses"].resize(39, axis=0)
    refused(r"poses is float32 \(39, 4\), not float32 \(40, 4\)")
    with h5py.File(path, "r+") as file:
        del file["poses"]
    refused("lacks the dataset 'poses'")
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 2
    refused("has episode format 2, this worldsim reads 1")
    with h5py.File(path, "w") as file:
        file["x"] = 1
    refused("not an episode")


def test_folders_without_episodes_say_so(tmp_path: Path) -> None:
    """Guards against training or evaluating on nothing."""
    with pytest.raises(FileNotFoundError, match="missing is not a folder; run worldsim record --out"):
        list_episodes(tmp_path / "missing")
    (tmp_path / "episode_000000.h5.part").touch()
    with pytest.raises(FileNotFoundError, match="holds no finished episodes"):
        list_episodes(tmp_path)
