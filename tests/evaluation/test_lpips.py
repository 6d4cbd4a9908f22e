"""LPIPS against the package `lpips`, and what it says of weights that are none."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from worldsim.evaluation.lpips import Lpips, load_lpips, weights_digest
from worldsim.evaluation.revisits import RevisitEvaluation, run_revisits
from worldsim.evaluation.starts import StartSettings

CPU = torch.device("cpu")
BY_THE_PACKAGE = (0.7804748, 0.7895062)
"""what lpips 0.1.4 says of `some_pictures` with `lpips_weights`"""


def some_pictures(speed: float) -> torch.Tensor:
    """Two of 40x56, in blocks of 4 pixels, the same everywhere."""
    wave = (torch.arange(2 * 10 * 14 * 3, dtype=torch.float64).square() * speed).sin()
    blocks = (wave * 127.5 + 127.5).to(torch.uint8).view(2, 10, 14, 3)
    return blocks.repeat_interleave(4, 1).repeat_interleave(4, 2)


def test_as_the_package_told_it(lpips_weights: tuple[Path, Path]) -> None:
    """Guards against another normalisation, other layers, or heads at the wrong ones, where the package is not there."""
    lpips = load_lpips(lpips_weights, CPU)
    assert lpips is not None
    one, other = some_pictures(0.9), some_pictures(1.3)
    assert lpips(one, other).tolist() == pytest.approx(BY_THE_PACKAGE, rel=1e-4)
    assert lpips(one, one).tolist() == [0.0, 0.0]


@pytest.mark.filterwarnings("ignore")
def test_as_the_package_tells_it(tmp_path: Path) -> None:
    """With its own heads and the same random AlexNet. Skipped where lpips and torchvision are not installed."""
    package = pytest.importorskip("lpips")
    theirs = package.LPIPS(net="alex", pnet_rand=True, verbose=False)
    backbone = {
        f"features.{name.split('.', 2)[2]}": tensor
        for name, tensor in theirs.state_dict().items()
        if name.startswith("net.")
    }
    save_file(backbone, tmp_path / "alexnet.safetensors")
    ours = load_lpips(
        (tmp_path / "alexnet.safetensors", Path(package.__file__).parent / "weights/v0.1/alex.pth"), CPU
    )
    assert ours is not None
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randint(0, 256, (2, 3, 96, 128, 3), generator=generator, dtype=torch.uint8)
    planes = [each.permute(0, 3, 1, 2) / 127.5 - 1 for each in (one, other)]
    with torch.no_grad():
        wanted = theirs(*planes).flatten()
    torch.testing.assert_close(ours(one, other), wanted, rtol=1e-4, atol=1e-6)


def test_heads_that_the_package_saved_are_read(lpips_weights: tuple[Path, Path], tmp_path: Path) -> None:
    """Its file is of the format before zip archives."""
    heads = tmp_path / "alex.pth"
    torch.save(load_file(lpips_weights[1]), heads, _use_new_zipfile_serialization=False)
    one, other = some_pictures(0.9), some_pictures(1.3)
    first, second = (load_lpips(each, CPU) for each in (lpips_weights, (lpips_weights[0], heads)))
    assert first is not None
    assert second is not None
    assert torch.equal(first(one, other), second(one, other))


class Code:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def test_what_are_no_weights_is_one_line(lpips_weights: tuple[Path, Path], tmp_path: Path) -> None:
    """Guards against a traceback, against distances by an empty network, and against code in a file that is run."""
    backbone, heads = lpips_weights

    def refused(pair: tuple[Path, Path], line: str) -> None:
        with pytest.raises((ValueError, OSError), match=line) as caught:
            load_lpips(pair, CPU)
        assert "\n" not in str(caught.value)

    refused(
        (tmp_path / "none.pth", heads), "none.pth is no file; give AlexNet's weights as torchvision has them$"
    )
    refused(
        (heads, backbone),
        r"alex.safetensors: features.0.weight is missing, not \(64, 3, 11, 11\); give AlexNet",
    )
    refused(
        (backbone, backbone),
        r"alexnet.pth: lin0.model.1.weight is missing, not \(1, 64, 1, 1\); give LPIPS's heads",
    )
    wider = torch.load(backbone, weights_only=True) | {"features.3.bias": torch.zeros(7)}
    save_file(wider, tmp_path / "vgg.safetensors")
    refused(
        (tmp_path / "vgg.safetensors", heads), r"vgg.safetensors: features.3.bias is \(7,\), not \(192,\)"
    )
    torch.save([1, 2], tmp_path / "list.pth")
    refused((tmp_path / "list.pth", heads), "list.pth: features.0.weight is missing")
    torch.save({"features.0.weight": Code(tmp_path / "run")}, tmp_path / "code.pth")
    refused((tmp_path / "code.pth", heads), "code.pth is torn or holds more than tensors")
    assert not (tmp_path / "run").exists()
    old = tmp_path / "old.pth"
    torch.save(load_file(heads), old, _use_new_zipfile_serialization=False)
    for path in (*lpips_weights, old):
        whole = path.read_bytes()
        for size in (0, 1, 9, 100, len(whole) // 2, len(whole) - 1):
            torn = tmp_path / f"torn{path.suffix}"
            torn.write_bytes(whole[:size])
            refused(
                (torn, heads) if path == backbone else (backbone, torn),
                "torn.* is torn or holds more than tensors",
            )


def test_frames_too_small_for_alexnet_are_named() -> None:
    frames = torch.zeros(1, 30, 40, 3, dtype=torch.uint8)
    with pytest.raises(
        ValueError, match="frames of 30x40 are smaller than LPIPS takes, 31 pixels; leave --lpips out"
    ):
        Lpips()(frames, frames)
    enough = torch.zeros(1, 31, 31, 3, dtype=torch.uint8)
    assert Lpips()(enough, enough).tolist() == [0.0]


def test_a_column_where_weights_are_given_and_nowhere_else(
    lpips_weights: tuple[Path, Path], checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    """Guards against rows without LPIPS that a rerun with weights takes for its own, or with those of other weights."""
    plain = RevisitEvaluation(
        checkpoint=checkpoint, data=data, out=tmp_path / "plain", starts=2, controls=0, horizon=4, denoising_steps=1,
        modes=("off", "oracle"), strips=0, thresholds=StartSettings(history=40, gap=30, ahead=3, spacing=8), device="cpu",
    )  # fmt: skip
    told = replace(plain, out=tmp_path / "told", lpips=lpips_weights)
    without, summary = run_revisits(plain), run_revisits(told)
    assert without["run"] != summary["run"]
    assert "LPIPS" not in (plain.out / "revisits.md").read_text()
    page = (told.out / "revisits.md").read_text()
    header, row = (
        next(line for line in page.splitlines() if line.startswith(each)) for each in ("| memory", "| oracle")
    )
    assert "| SSIM | last 4 | gain, last 4 | LPIPS | last 4 | gain, last 4 | recovery |" in header
    assert header.count("|") == row.count("|")
    off, oracle = (summary["revisits"]["modes"][mode] for mode in ("off", "oracle"))
    assert oracle["lpips_gain"].mean == pytest.approx(off["lpips"].mean - oracle["lpips"].mean)
    assert np.shape(oracle["lpips_by_frame"]) == (4,)
    rest = {key: each for key, each in oracle.items() if "lpips" not in key}
    assert str(rest) == str(
        without["revisits"]["modes"]["oracle"]
    )  # as text: figures that are no numbers are unequal


def test_the_digest_is_of_content(lpips_weights: tuple[Path, Path], tmp_path: Path) -> None:
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(lpips_weights[1].read_bytes())
    assert weights_digest((lpips_weights[0], moved)) == weights_digest(lpips_weights)
    content = bytearray(moved.read_bytes())
    content[-1] ^= 1
    moved.write_bytes(content)
    assert weights_digest((lpips_weights[0], moved)) != weights_digest(lpips_weights)
