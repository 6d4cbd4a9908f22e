"""The worker thread: when time passes, what it is fed, and how it ends."""

import threading
import time

import pytest

from worldsim.play.session import PlaySession, SessionSettings


@pytest.fixture
def start():
    """Starts sessions and ends them after the test."""
    sessions = []

    def begin(world, recording=None, **settings) -> PlaySession:
        session = PlaySession(lambda: world, SessionSettings(**{"max_fps": 0.0, **settings}), recording)
        sessions.append(session)
        session.start()
        return session

    yield begin
    for session in sessions:
        session.close()


def test_time_passes_only_while_a_key_is_held(make_world, start, wait) -> None:
    """Guards against a world that drifts while nobody plays, and against one that does not start when one does."""
    world = make_world()
    session = start(world)
    wait(lambda: session.screen.snapshot().phase == "waiting")
    time.sleep(0.1)
    assert world.actions == []
    session.press("w")
    wait(lambda: len(world.actions) > 5)
    session.press("left")
    wait(lambda: [1, 1] in world.actions)
    session.release("w")
    session.release("left")
    wait(lambda: session.screen.snapshot().phase == "waiting")
    made = len(world.actions)
    time.sleep(0.1)
    assert len(world.actions) == made
    assert [0, 0] not in world.actions
    assert world.threads == {"world"}


def test_real_time_goes_on_without_keys(make_world, start, wait) -> None:
    """Guards against --realtime that waits for a key."""
    world = make_world()
    start(world, realtime=True)
    wait(lambda: len(world.actions) > 3)
    assert world.actions[:3] == [[0, 0]] * 3


def test_a_tap_is_one_section(make_world, start, wait) -> None:
    """Guards against lost taps while a section is made, and against taps that last for two sections."""
    world = make_world(step_s=0.05, section_length=2)
    session = start(world)
    wait(lambda: session.screen.snapshot().phase == "waiting")
    session.press("w")
    assert world.in_step.wait(5)
    session.release("w")
    session.press("right")
    session.release("right")
    wait(lambda: len(world.actions) == 4)
    wait(lambda: session.screen.snapshot().phase == "waiting")
    assert world.actions == [[1, 0], [1, 0], [0, 2], [0, 2]]


def test_pause_stops_the_world_and_drops_taps(make_world, start, wait) -> None:
    """Guards against a pause that lets the world run on, and against keys of the pause played after it."""
    world = make_world()
    session = start(world, realtime=True)
    wait(lambda: world.actions)
    session.toggle_pause()
    wait(lambda: session.screen.snapshot().phase == "paused")
    made = len(world.actions)
    session.press("w")
    session.release("w")
    time.sleep(0.1)
    assert len(world.actions) == made
    session.toggle_pause()
    wait(lambda: len(world.actions) > made)
    assert [1, 0] not in world.actions


def test_the_speed_limit_holds(make_world, start, wait) -> None:
    """Guards against a game that runs away on a fast machine, or sections of two frames counted as one."""
    world = make_world(section_length=2)
    session = start(world, realtime=True, max_fps=50.0)
    wait(lambda: world.actions)
    start_s, made = time.monotonic(), len(world.actions)
    wait(lambda: len(world.actions) >= made + 30)
    assert time.monotonic() - start_s >= 0.5
    rate = session.screen.snapshot().frames_per_s
    assert rate is not None
    assert rate <= 52.0


def test_reset_begins_the_world_of_its_seed(make_world, start, wait) -> None:
    """Guards against frame numbers, pictures, times or a pause of the old world in the new one."""
    world = make_world()
    session = start(world, seed=7)
    wait(lambda: session.screen.snapshot().phase == "waiting")
    assert session.screen.snapshot().frame_u8[0, 0].tolist() == [2, 7, 0]
    session.press("w")
    wait(lambda: session.screen.snapshot().frame > 4)
    assert session.screen.snapshot().timings_s
    session.release("w")
    session.toggle_pause()
    session.reset(9)
    wait(lambda: session.screen.snapshot().seed == 9)
    snapshot = session.screen.snapshot()
    assert (snapshot.frame, snapshot.frame_u8[0, 0].tolist()) == (2, [2, 9, 0])
    assert (snapshot.recalled, snapshot.timings_s) == ((), {})
    wait(lambda: session.screen.snapshot().phase == "waiting")


def test_recalled_frames_come_with_pictures(make_world, start, wait) -> None:
    """Guards against thumbnails of other frames, or ones decoded anew though they were shown."""
    world = make_world()
    session = start(world)
    session.press("w")
    wait(lambda: session.screen.snapshot().thumbnails)
    snapshot = session.screen.snapshot()
    assert snapshot.thumbnails[0].shape == (6, 8, 3)
    assert snapshot.thumbnails[0][0, 0].tolist() == [0, 0, 0]
    assert snapshot.recalled[0].frame == 0
    assert world.decoded == []


def test_what_the_worker_raises_is_kept(start, wait) -> None:
    """Guards against a window that hangs on "loading" because the thread died."""

    def no_checkpoint():
        raise FileNotFoundError("nowhere is not a checkpoint; run worldsim train")

    session = PlaySession(no_checkpoint, SessionSettings())
    session.start()
    wait(lambda: not session.running)
    assert session.close()
    assert isinstance(session.error, FileNotFoundError)


def test_close_in_the_middle_of_a_section_waits_for_it(make_world, start, wait) -> None:
    """Guards against a section cut off half-way, and a world that is never closed."""
    world = make_world(step_s=0.2)
    session = start(world)
    session.press("w")
    assert world.in_step.wait(5)
    assert session.close()
    assert (world.closed, len(world.actions), session.error) == (True, 1, None)


def test_a_stuck_section_is_left_behind(make_world, start, wait) -> None:
    """Guards against a closed window whose process lives on for as long as the section takes."""
    world = make_world()
    stuck = threading.Event()
    world.step = lambda actions: stuck.wait(20)
    session = start(world)
    session.press("w")
    wait(lambda: session.screen.snapshot().phase == "playing")
    start_s = time.monotonic()
    assert not session.close(timeout_s=0.1)
    assert time.monotonic() - start_s < 5
    stuck.set()
