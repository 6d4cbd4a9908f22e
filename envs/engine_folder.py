"""The working folder of one engine process: made, marked as in use, deleted, also after a crash of its owner."""

import fcntl
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import vizdoom

_PREFIX = "worldsim-maze-"
_SETTLED_S = 60.0  # a younger folder may belong to an engine that is just starting

# The engine waits for ever once its owner is killed, so it asks the kernel to end with it (1 = PR_SET_PDEATHSIG).
_GUARD = """import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
instance = sys.argv[sys.argv.index("+viz_instance_id") + 1]
with open("started", "w") as file:
    file.write(f"{os.getpid()} {instance}")
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class EngineFolder:
    """A new folder for temporary files, locked as long as its owner lives."""

    def __init__(self) -> None:
        _delete_abandoned()
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._lock = os.open(self.path / "lock", os.O_CREAT | os.O_RDWR)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def executable(self) -> Path:
        """Return the program to start: on Linux a script that ties the engine's life to this process."""
        engine = Path(vizdoom.__file__).with_name("vizdoom")
        if sys.platform != "linux" or os.statvfs(self.path).f_flag & os.ST_NOEXEC:
            return engine
        guard, script = self.path / "guard.py", self.path / "engine"
        guard.write_text(_GUARD)
        words = [sys.executable, "-I", "-S", str(guard), str(os.getpid()), str(engine)]
        script.write_text("#!/bin/sh\nexec " + shlex.join(words) + ' "$@"\n')
        script.chmod(0o700)
        return script

    def engine_pid(self) -> int | None:
        """Return the engine's process number; None if it was not started by the script, or is gone."""
        try:
            pid = int((self.path / "started").read_text().split()[0])
            mine = os.fsencode(self.path) in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return None
        return pid if mine else None

    def kill_engine(self) -> None:
        """End the engine at once, where it was started by the script: its own way out crashes at times, aloud."""
        pid = self.engine_pid()
        if pid is not None:
            with suppress(OSError):  # gone already
                os.kill(pid, signal.SIGKILL)

    def delete(self) -> None:
        """Delete the folder and everything in it; harmless when done twice."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
            shutil.rmtree(self.path, ignore_errors=True)


def _delete_abandoned() -> None:
    """Delete folders whose owner was killed: nobody holds their lock."""
    for path in Path(tempfile.gettempdir()).glob(_PREFIX + "*/lock"):
        try:
            if time.time() - path.stat().st_mtime < _SETTLED_S:
                continue
            with path.open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _delete_shared_memory(path.with_name("started"))
                shutil.rmtree(path.parent, ignore_errors=True)
        except OSError:  # in use, another user's, or deleted by another process at this moment
            continue


def _delete_shared_memory(started: Path) -> None:
    """Delete the message queues and screen that a killed owner could not."""
    if started.exists():
        instance = started.read_text().split()[1]
        for path in Path("/dev/shm").glob(f"ViZDoom*{instance}"):
            path.unlink(missing_ok=True)
