"""Settings every test shares: no window, few threads, GPU tests only where there is a GPU.

Nothing of ours is imported here: the jaxtyping hook must see each package before it is first imported.
"""

import os

os.environ["SDL_VIDEODRIVER"] = "dummy"  # whatever the desktop sets: tests open no windows
os.environ["SDL_AUDIODRIVER"] = "dummy"
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread_per_worker() -> None:
    """Tests run in several processes; each takes one core, so that they do not fight over threads."""
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)
