"""`worldsim schedule`: the table must say what the packer does."""

from pathlib import Path

import pytest
from PIL import Image

from models.packer import HistoryPacker
from models.schedule import Schedule
from worldsim.cli import parse


def test_table_counts_the_packers_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    """The page is read to size a model: its sum is the length of the context that the packer makes."""
    text = "td_f8k4f4k2f2k1_r3k1_g1"
    parse(["schedule", text, "--before", "50", "--latent-height", "12", "--latent-width", "20"])()
    printed = capsys.readouterr().out
    packer = HistoryPacker(Schedule.parse(text), 4, 12, 20, 32, 16, 8)
    assert f"context: {len(packer.cos)} tokens" in printed
    assert "0–35" in printed  # the tail
    assert "any 3" in printed


def test_early_history_has_fewer_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    """Three frames fill one k2 group and one k1 frame: 12 + 48 tokens."""
    parse(["schedule", "td_f4k2f1k1_g1", "--before", "3"])()
    assert "context: 60 tokens, 72 once" in capsys.readouterr().out


def test_picture_is_drawn(tmp_path: Path) -> None:
    """Bars in more than one colour: an empty picture would pass for a schedule without frames."""
    out = tmp_path / "new" / "schedule.png"
    parse(["schedule", "f1k1_x_g9_f1k1f4k2f16k4_td", "--before", "4", "--after", "60", "--out", str(out)])()
    with Image.open(out) as picture:
        colours = picture.convert("RGB").getcolors(1 << 20)
    assert colours is not None
    assert len([count for count, _ in colours if count > 500]) >= 4


def test_bad_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="-1 frames before"):
        parse(["schedule", "td_f1k1_g1", "--before", "-1"])()
