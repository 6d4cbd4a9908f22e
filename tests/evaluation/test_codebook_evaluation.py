"""The sweep over codebook sizes, on a tiny autoencoder and recorded episodes."""

import json
from pathlib import Path

import pytest
from PIL import Image

from worldsim.evaluation.codebook import CodebookEvaluation, run_codebook


def test_more_codes_keep_more_and_the_page_says_so(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    """Variance kept rises with K towards what the autoencoder alone gives; plot and strip are there to be looked at."""
    settings = CodebookEvaluation(
        checkpoint=checkpoint, data=data, out=tmp_path, sizes=(2, 32, 512), frames=12, device="cpu"
    )
    summary = run_codebook(settings)
    kept = [row["variance_kept"] for row in summary["sizes"]]
    assert kept == sorted(kept)
    assert kept[-1] > kept[0] + 0.1
    assert all(0 <= row["dead_codes"] < row["codes"] for row in summary["sizes"])
    written = json.loads((tmp_path / "codebook.json").read_text())["sizes"]
    assert [row["variance_kept"] for row in written] == pytest.approx(kept, abs=1e-5)
    assert "| 512 |" in (tmp_path / "codebook.md").read_text()
    with Image.open(tmp_path / "codebook_strip.png") as strip:
        assert strip.height > 96 * 5
    with Image.open(tmp_path / "codebook.png") as plot:
        assert plot.width > 400


def test_bad_sizes_and_single_episodes_are_named(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"sizes \(\)"):
        CodebookEvaluation(checkpoint=checkpoint, data=data, out=tmp_path, sizes=())
    with pytest.raises(ValueError, match="5000 codes for"):
        run_codebook(
            CodebookEvaluation(
                checkpoint=checkpoint, data=data, out=tmp_path, sizes=(5000,), frames=2, device="cpu"
            )
        )
