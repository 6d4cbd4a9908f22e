"""Videos and film strips, read back by libraries that did not write them."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence

from worldsim.video import VideoSettings, VideoWriter, film_strip, write_png, write_video


def coloured_frames(count: int, height: int = 24, width: int = 32) -> list[np.ndarray]:
    """Frames whose red grows from frame to frame, with a blue right half."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[..., 0] = np.linspace(20, 230, count).astype(np.uint8)[:, None, None]
    frames[:, :, width // 2 :, 2] = 200
    return list(frames)


def decoded(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_mp4_holds_every_frame_in_order(tmp_path: Path) -> None:
    """Guards against frames left in the encoder at the end, a wrong order and swapped colour channels."""
    frames = coloured_frames(13)
    path = tmp_path / "new folder" / "walk.mp4"
    write_video(path, frames, VideoSettings(frames_per_s=8.75, scale=3))
    back = decoded(path)
    assert len(back) == 13
    assert back[0].shape == (72, 96, 3)
    for frame, read in zip(frames, back, strict=True):
        assert np.abs(read[36, 24].astype(int) - frame[12, 8]).max() < 20
        assert np.abs(read[36, 72].astype(int) - frame[12, 24]).max() < 20
    with av.open(str(path)) as container:
        assert float(container.streams.video[0].average_rate) == 8.75
    assert [entry.name for entry in path.parent.iterdir()] == ["walk.mp4"]


def test_gif_holds_every_frame(tmp_path: Path) -> None:
    """Guards against a GIF of its first frame only, or one that plays at another speed."""
    path = tmp_path / "walk.gif"
    write_video(path, coloured_frames(5), VideoSettings(frames_per_s=10.0, scale=2))
    with Image.open(path) as image:
        assert (image.size, image.n_frames, image.info["duration"]) == ((64, 48), 5, 100)


def test_gif_keeps_time(tmp_path: Path) -> None:
    """Guards against a GIF that runs 4 % fast because each span was rounded, or loses time where nothing moves."""
    frames = coloured_frames(30)
    frames[10:20] = [frames[10]] * 10
    path = tmp_path / "walk.gif"
    write_video(path, frames, VideoSettings(frames_per_s=8.75, scale=1))
    with Image.open(path) as image:
        spans_ms = [frame.info["duration"] for frame in ImageSequence.Iterator(image)]
    assert sum(spans_ms) == 3430
    assert len(spans_ms) == 21


@pytest.mark.parametrize("name", ["walk.mp4", "walk.gif"])
def test_a_broken_off_video_leaves_nothing(tmp_path: Path, name: str) -> None:
    """Guards against half a file under the final name, and against the old video being lost."""
    path = tmp_path / name
    path.write_bytes(b"the old one")

    def frames_then_failure():
        yield from coloured_frames(2)
        raise OSError("the world ended")

    with pytest.raises(OSError, match="the world ended"):
        write_video(path, frames_then_failure())
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    assert path.read_bytes() == b"the old one"


def test_bad_videos_are_refused(tmp_path: Path) -> None:
    """Guards against errors from deep inside a codec where one line can name the mend."""
    with pytest.raises(ValueError, match=r"'walk.avi' is no video name; end it with .mp4 or .gif"):
        VideoWriter(Path("walk.avi"))
    with pytest.raises(ValueError, match="at least one"):
        write_video(tmp_path / "empty.mp4", [])
    with pytest.raises(ValueError, match="needs even sides, not 33x24"):
        write_video(tmp_path / "odd.mp4", [np.zeros((24, 33, 3), np.uint8)], VideoSettings(scale=1))
    assert list(tmp_path.iterdir()) == []


def test_film_strip_places_each_frame(tmp_path: Path) -> None:
    """Guards against rows or columns in the wrong place, and a label painted over a frame."""
    red, green = np.zeros((10, 16, 3), np.uint8), np.zeros((10, 16, 3), np.uint8)
    red[..., 0] = 255
    green[..., 1] = 255
    path = tmp_path / "pictures" / "strip.png"
    write_png(path, film_strip([("true", [red, red, green]), ("made", [green])], scale=2))
    picture = np.asarray(Image.open(path))
    assert picture.shape == (2 * (14 + 20 + 2) - 2, 3 * 34 - 2, 3)
    assert (picture[14:34, 0:32] == (255, 0, 0)).all()
    assert (picture[14:34, 68:100] == (0, 255, 0)).all()
    assert (picture[50:70, 0:32] == (0, 255, 0)).all()
    assert not (picture[50:70, 34:66] == (255, 0, 0)).all(axis=-1).any()
    with pytest.raises(ValueError, match="at least one frame"):
        film_strip([("nothing", [])])
