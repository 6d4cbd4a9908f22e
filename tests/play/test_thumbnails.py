"""Thumbnails of recalled frames."""

import numpy as np

from worldsim.play.thumbnails import Thumbnails, shrink


def test_shrink_is_the_mean_of_blocks() -> None:
    """Guards against swapped axes and against odd edges that break the picture."""
    frame_u8 = np.zeros((5, 6, 3), np.uint8)
    frame_u8[0, 2] = 200
    small = shrink(frame_u8)
    assert small.shape == (2, 3, 3)
    assert small[:, :, 0].tolist() == [[0, 50, 0], [0, 0, 0]]


def test_forgotten_frames_are_decoded_a_few_at_a_time() -> None:
    """Guards against memory that grows without bound, and against a step that decodes everything at once."""
    decoded = []

    def decode(frame: int) -> np.ndarray:
        decoded.append(frame)
        return np.full((4, 4, 3), frame, np.uint8)

    thumbnails = Thumbnails(capacity=3)
    for frame in range(5):
        thumbnails.keep(frame, np.full((4, 4, 3), frame, np.uint8))
    assert sorted(thumbnails.fetch((0, 1, 4), decode, most=1)) == [0, 4]
    assert decoded == [0]
    thumbnails.clear()
    assert thumbnails.fetch((4,), decode, most=0) == {}
