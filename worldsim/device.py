"""Where and in which precision the networks run."""

import time

import torch


def choose_device(name: str) -> torch.device:
    """`auto` is the GPU where there is one. ValueError if the device named does not exist."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"device {name!r}: no GPU is visible; use --device cpu, or install a CUDA build of torch"
        )
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device {name!r} is not one that torch knows; use auto, cpu or cuda") from error


def choose_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU; on a CPU whichever of bfloat16 and float32 multiplies faster (few have the instructions)."""
    if device.type != "cpu":
        return torch.bfloat16
    seconds = {dtype: _matmul_seconds(dtype) for dtype in (torch.float32, torch.bfloat16)}
    return min(seconds, key=lambda dtype: seconds[dtype])


def _matmul_seconds(dtype: torch.dtype) -> float:
    left, right = torch.ones(256, 384, dtype=dtype), torch.ones(384, 1536, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - start)
    return best
