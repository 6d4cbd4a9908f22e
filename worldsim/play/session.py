"""The worker thread that runs a world, so that computing never blocks the window."""

import threading
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from worldsim.play.held_keys import HeldKeys
from worldsim.play.recording import Recording
from worldsim.play.screen import Phase, Screen
from worldsim.play.simulation import Moment, Simulation, SimulationMaker
from worldsim.play.thumbnails import Thumbnails

REST_S = 0.25
THUMBNAILS_DECODED = 1


@dataclass(frozen=True, kw_only=True)
class SessionSettings:
    """seed of the first world; max_fps in frames a second, 0 for as fast as it goes.

    In real time the world goes on with the action "none"; otherwise it waits while no key is held.
    """

    seed: int = 0
    max_fps: float = 8.75
    realtime: bool = False


class PlaySession:
    """Runs a simulation in a thread of its own, which also builds it; `screen` holds what to paint.

    The action of a section is read from the keys when the section starts, so the lag of an input is one section.
    What the worker raises is kept in `error`. No method but `close` waits for the worker.
    """

    def __init__(
        self, make: SimulationMaker, settings: SessionSettings, recording: Recording | None = None
    ) -> None:
        self.settings = settings
        self.screen = Screen()
        self.error: BaseException | None = None
        self._make = make
        self._recording = recording
        self._keys = HeldKeys()
        self._thumbnails = Thumbnails()
        self._frames_made = 0
        self._wake = threading.Condition()
        self._requests = 0
        self._stopping = False
        self._paused = False
        self._want_thumbnails = True
        self._reset_seed: int | None = settings.seed
        self._thread = threading.Thread(target=self._run, name="world", daemon=True)

    def start(self) -> None:
        """Starts the worker."""
        self._thread.start()

    @property
    def running(self) -> bool:
        """False once the worker ended, by `close` or by an error."""
        return self._thread.is_alive()

    def at_once(self) -> AbstractContextManager[None]:
        """Keys pressed and released inside count together: no section starts between one and the next."""
        return self._keys.at_once()

    def press(self, key: str) -> None:
        """A key went down; those that mean nothing to the world are passed over."""
        self._keys.press(key)
        self._request()

    def release(self, key: str) -> None:
        """A key went up."""
        self._keys.release(key)
        self._request()

    def release_all(self) -> None:
        """No key counts as held any more: the window lost the focus."""
        self._keys.release_all()
        self._request()

    def toggle_pause(self) -> None:
        """Stops or goes on; taps made during the pause are dropped."""
        with self._wake:
            self._paused = not self._paused
        self._keys.forget_taps()
        self._request()

    def reset(self, seed: int) -> None:
        """Asks for the world of that seed from its start, and goes on if paused."""
        with self._wake:
            self._reset_seed = seed
            self._paused = False
        self._keys.forget_taps()
        self._request()

    def want_thumbnails(self, wanted: bool) -> None:
        """Whether recalled frames are painted, so that pictures of them are worth their time."""
        self._want_thumbnails = wanted

    def close(self, timeout_s: float = 10.0) -> bool:
        """Ends the worker after the section it is in; False when that takes too long and it is left behind.

        The recording is complete either way: a section that ends later is no longer part of it.
        """
        self._stopping = True
        self._request()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        if self._recording is not None:
            self._recording.close()
        return not self._thread.is_alive()

    def _request(self) -> None:
        """Wakes the worker. It counts requests, so that one made just before it rests is not slept through."""
        with self._wake:
            self._requests += 1
            self._wake.notify_all()

    def _run(self) -> None:
        try:
            simulation = self._make()
            try:
                self._loop(simulation)
            finally:
                simulation.close()
        except BaseException as error:  # kept for the window's thread, which raises it
            self.error = error
        finally:
            self.screen.set_phase("closed")

    def _loop(self, simulation: Simulation) -> None:
        self.screen.announce(simulation)
        next_start_s = 0.0
        while not self._stopping:
            with self._wake:
                requests, reset_seed, paused = self._requests, self._reset_seed, self._paused
                self._reset_seed = None
            start_s = time.monotonic()
            if reset_seed is not None:
                self._open_world(simulation, reset_seed)
            elif paused:
                self._rest("paused", requests, REST_S)
            elif start_s < next_start_s:
                self._rest("playing", requests, next_start_s - start_s)
            elif not self._move(simulation, start_s):
                self._rest("waiting", requests, REST_S)
            elif self.settings.max_fps:
                next_start_s = start_s + simulation.section_length / self.settings.max_fps

    def _open_world(self, simulation: Simulation, seed: int) -> None:
        self.screen.set_phase("loading")
        moment = simulation.reset(seed)
        if self._recording is not None:
            self._recording.begin(simulation, seed, moment)
        self._thumbnails.clear()
        self._frames_made = 0
        self.screen.open_world(seed, moment)
        self._keep_thumbnails(moment)

    def _move(self, simulation: Simulation, start_s: float) -> bool:
        """Makes a section if time passes now; says whether it did."""
        action = simulation.action_space.from_keys(self._keys.take())
        if not (self.settings.realtime or action.any()):
            return False
        self.screen.set_phase("playing")
        actions = np.repeat(action[None], simulation.section_length, axis=0)
        moment = simulation.step(actions)
        end_s = time.monotonic()
        if self._recording is not None:
            self._recording.append(actions, moment)
        period_s = 1 / self.settings.max_fps if self.settings.max_fps else 0.0
        self.screen.show_section(self._frames_made, moment, start_s, end_s, period_s)
        self._keep_thumbnails(moment)
        if self._want_thumbnails and moment.recalled:
            frames = tuple(recalled.frame for recalled in moment.recalled)
            pictures = self._thumbnails.fetch(frames, simulation.frame_u8, THUMBNAILS_DECODED)
            self.screen.show_thumbnails(pictures)
        return True

    def _keep_thumbnails(self, moment: Moment) -> None:
        for frame_u8 in moment.frames_u8:
            self._thumbnails.keep(self._frames_made, frame_u8)
            self._frames_made += 1

    def _rest(self, phase: Phase, requests: int, timeout_s: float) -> None:
        """Waits until the window asks for something new since `requests`, or the time has passed."""
        self.screen.set_phase(phase)
        with self._wake:
            self._wake.wait_for(lambda: self._requests != requests, timeout_s)
