"""Recording the maze: many processes, a kill at any moment, and going on to the very same files."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from worldsim.episode import Episode, EpisodeWriter, list_episodes
from worldsim.episode_part import PartFile
from worldsim.record import RecordSettings, record

ROOT = Path(__file__).parents[2]
STEPS = 700
COMMAND = """
import signal
import sys
from pathlib import Path
from worldsim.record import RecordSettings, record
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let background jobs ignore it
    record(RecordSettings(out=Path(sys.argv[1]), episodes=2, workers=2, steps=int(sys.argv[2])))
"""


def start_recording(folder: Path) -> subprocess.Popen[str]:
    script = folder.parent / "record_it.py"
    script.write_text(COMMAND)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), str(folder), str(STEPS)]
    return subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def part_of(folder: Path, size: int) -> bool:
    """Whether a file that is being recorded is larger than so many bytes."""
    with suppress(FileNotFoundError):  # renamed between the listing and the look
        return any(part.stat().st_size > size for part in folder.glob("*.part"))
    return False


def wait_for_part(folder: Path, size: int) -> None:
    for _ in range(3000):
        if part_of(folder, size):
            return
        time.sleep(0.01)
    raise AssertionError(f"no part of {size} bytes: {[(p, p.stat().st_size) for p in folder.iterdir()]}")


def wait_until_free(folder: Path) -> None:
    """Processes whose parent was killed notice it within a batch; until then they hold their files."""
    for _ in range(100):
        try:
            for part in folder.glob("*.part"):
                with part.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.05)
    raise AssertionError("the workers outlived their parent")


def kill_while_recording(folder: Path, whole_group: bool) -> None:
    """On a busy machine recording may end before its kill comes: then the kill showed nothing, and it begins again."""
    for _ in range(5):
        with start_recording(folder) as process:
            while process.poll() is None and not part_of(folder, 1_000_000):
                time.sleep(0.01)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL) if whole_group else process.kill()
        wait_until_free(folder)
        if list(folder.glob("*.part")):
            return
        shutil.rmtree(folder)
    raise AssertionError("it finished before every kill: the test saw nothing")


def begin_again(path: Path, count: int, moved: int | None = None) -> None:
    """Make a finished episode one in the making, of so many frames; one of them seen from another place."""
    with Episode.open(path) as episode:
        frames, actions, poses = episode.frames(), episode.actions, episode.poses.copy()
        rooms, tics, header = episode.rooms, episode.tics, episode.header
    path.unlink()
    if moved is not None:
        poses[moved, 0] += 1
    writer = EpisodeWriter(path, header)
    for t in range(count):
        action = actions[t].astype(np.int64)
        writer.append(frames[t], action, pose=poses[t], room=int(rooms[t]), tic=int(tics[t]))
    writer.suspend()


def same(one: Path, other: Path) -> bool:
    with Episode.open(one) as a, Episode.open(other) as b:
        columns = ("actions", "poses", "rooms", "tics", "frame_crcs")
        return a.header == b.header and all(np.array_equal(getattr(a, c), getattr(b, c)) for c in columns)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference") / "episodes"
    report = record(RecordSettings(out=folder, episodes=2, workers=1, steps=STEPS))
    assert report.frames == report.new_frames == 2 * (STEPS + 1)
    return folder


@pytest.mark.parametrize("whole_group", [True, False])
def test_killed_recording_goes_on_to_the_same_files(
    tmp_path: Path, reference: Path, whole_group: bool
) -> None:
    """Guards against a rerun that starts over, skips, or goes on with another state of player or engine."""
    folder = tmp_path / "episodes"
    kill_while_recording(folder, whole_group)
    report = record(RecordSettings(out=folder, episodes=2, workers=2, steps=STEPS))
    assert report.frames == 2 * (STEPS + 1)
    assert not list(folder.glob("*.part*"))
    for mine, expected in zip(list_episodes(folder), list_episodes(reference), strict=True):
        assert same(mine, expected)


def test_interrupt_keeps_every_frame(tmp_path: Path, reference: Path) -> None:
    """Guards against Ctrl-C leaving torn files or processes behind."""
    folder = tmp_path / "episodes"
    with start_recording(folder) as process:
        wait_for_part(folder, 100_000)
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in stderr
    for part in folder.glob("*.part"):
        file = PartFile.resume(part)
        assert file is not None
        assert len(file) > 0
        file.close()
    record(RecordSettings(out=folder, episodes=2, workers=1, steps=STEPS))
    assert all(same(a, b) for a, b in zip(list_episodes(folder), list_episodes(reference), strict=True))


def test_part_of_another_trajectory_is_recorded_anew(
    tmp_path: Path, reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against going on after frames that the engine does not make, or going wrong without a word."""
    folder = tmp_path / "episodes"
    shutil.copytree(reference, folder)
    begin_again(folder / "episode_000001.h5", 100, moved=7)
    record(RecordSettings(out=folder, episodes=2, workers=1, steps=STEPS))
    assert (
        "episode_000001.h5.part does not replay in this engine; it is recorded anew"
        in capsys.readouterr().err
    )
    assert same(folder / "episode_000001.h5", reference / "episode_000001.h5")


def test_other_settings_in_the_same_folder_are_refused(tmp_path: Path, reference: Path) -> None:
    """Guards against a folder that mixes lengths or seeds; more episodes of the same kind are welcome."""
    folder = tmp_path / "episodes"
    shutil.copytree(reference, folder)
    before = {path: path.read_bytes() for path in folder.glob("*.h5")}
    with pytest.raises(ValueError, match=f"was recorded with steps {STEPS}, not 300; give the same again"):
        record(RecordSettings(out=folder, episodes=2, workers=1, steps=300))
    with pytest.raises(ValueError, match="was recorded with held_out False, not True"):
        record(RecordSettings(out=folder, episodes=2, workers=1, steps=STEPS, held_out=True))
    report = record(RecordSettings(out=folder, episodes=3, workers=1, steps=STEPS))
    assert report.new_frames == STEPS + 1
    assert all(path.read_bytes() == content for path, content in before.items())
    (folder / "recording.json").unlink()
    with pytest.raises(ValueError, match=r"holds episode_00000\d\.h5 but no recording\.json"):
        record(RecordSettings(out=folder, episodes=3, workers=1, steps=STEPS))


def test_routes_are_recorded_and_gone_on_with(tmp_path: Path) -> None:
    """Of the same seed whether at once or in two parts; a recording from before there were routes is gone on with too."""
    settings = RecordSettings(out=tmp_path / "whole", episodes=1, workers=1, steps=160, routes=("look-away",))
    record(settings)
    [whole] = list_episodes(settings.out)
    again = replace(settings, out=tmp_path / "again")
    shutil.copytree(settings.out, again.out)
    begin_again(again.out / whole.name, 90)
    record(again)
    assert same(again.out / whole.name, whole)
    exploring = replace(settings, out=tmp_path / "exploring", routes=())
    record(exploring)
    assert not same(exploring.out / whole.name, whole)
    with pytest.raises(ValueError, match=r"was recorded with routes \['look-away'\], not \[\]"):
        record(replace(settings, routes=()))
    path = exploring.out / "recording.json"
    told = json.loads(path.read_text())
    del told["routes"], told["env"]["map"]["twins"]
    path.write_text(json.dumps(told))
    assert record(exploring).new_frames == 0
    with pytest.raises(ValueError, match=r"need maps that have them; add --env\.map\.twins"):
        replace(settings, routes=("twins",))


def test_training_and_held_out_maps_never_meet(tmp_path: Path) -> None:
    """Guards against evaluating on maps that were trained on."""
    settings = RecordSettings(out=tmp_path, episodes=10, seed=999_990)
    assert settings.map_seed(9) == 999_999
    assert RecordSettings(out=tmp_path, held_out=True).map_seed(3) == 1_000_003
    with pytest.raises(ValueError, match=r"seed 999991 with 10 episodes leaves the map seeds 0\.\.999999"):
        RecordSettings(out=tmp_path, episodes=10, seed=999_991)
    with pytest.raises(ValueError, match="workers 0 is too small"):
        RecordSettings(out=tmp_path, workers=0)
