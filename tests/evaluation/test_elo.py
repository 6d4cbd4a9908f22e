"""Ratings against the formula by hand, and the page on which people choose."""

import json
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from worldsim.ablation.compare import Clips, serve
from worldsim.evaluation.elo import (
    Choice,
    choices_by_distance,
    elo_ratings,
    expected_score,
    ranks,
)


def test_one_choice_by_hand() -> None:
    """Equals are expected to win half the time: the winner gains K / 2."""
    assert elo_ratings([Choice("a", "b", 1.0)], "ab") == {"a": 1016.0, "b": 984.0}
    assert elo_ratings([Choice("a", "b", 0.5)], "abc") == {"a": 1000.0, "b": 1000.0, "c": 1000.0}
    assert expected_score(1400.0, 1000.0) == pytest.approx(10 / 11)


def test_ratings_order_by_strength_and_keep_their_mean() -> None:
    """a beats b nine times in ten, b beats c: places follow, whatever the order of choices."""
    choices = [Choice("a", "b", float(i % 10 > 0)) for i in range(60)]
    choices += [Choice("c", "b", float(i % 10 == 0)) for i in range(60)]
    ratings = elo_ratings(choices, "abc")
    assert ratings["a"] > ratings["b"] + 100 > ratings["c"] + 200
    assert sum(ratings.values()) == pytest.approx(3000)
    assert ratings == elo_ratings(choices, "abc")
    assert ratings == pytest.approx(elo_ratings(choices[::-1], "abc"), abs=25)
    assert ranks(ratings) == {"a": 1, "b": 2, "c": 3}


def test_who_is_within_sixteen_shares_a_place() -> None:
    assert ranks({"a": 1100.0, "b": 1090.0, "c": 1084.0, "d": 1083.0, "e": 1000.0}) == {
        "a": 1, "b": 1, "c": 1, "d": 4, "e": 5,
    }  # fmt: skip


def test_the_nearer_of_every_pair_is_chosen() -> None:
    choices = choices_by_distance({"a": [0.1, 0.5], "b": [0.2, 0.5], "c": [0.0, 0.9]})
    assert choices == [
        Choice("a", "b", 1.0), Choice("a", "b", 0.5), Choice("a", "c", 0.0), Choice("a", "c", 1.0),
        Choice("b", "c", 0.0), Choice("b", "c", 1.0),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="all must have rolled out the same ones"):
        choices_by_distance({"a": [0.1], "b": [0.2, 0.3]})


def test_choices_of_nobody_are_refused() -> None:
    with pytest.raises(ValueError, match=r"two names and 1, 0\.5 or 0"):
        Choice("a", "a", 1.0)
    with pytest.raises(ValueError, match="'z', which is not among a, b"):
        elo_ratings([Choice("a", "z", 1.0)], "ab")


def make_clips(folder: Path) -> Clips:
    for variant in ("plain", "joint"):
        for start in ("000", "001"):
            path = folder / variant / "drift" / "clips" / f"{start}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"{variant} {start}".encode())
    return Clips(folder, seed=0)


def test_a_person_chooses_on_the_page(tmp_path: Path) -> None:
    """Two clips of one start are shown unnamed; what is chosen is kept and rated."""
    clips = make_clips(tmp_path)
    server = serve(clips, 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        page = urllib.request.urlopen(address).read().decode()
        shown = [part.split("'")[0] for part in page.split("src='/clip/")[1:]]
        assert len({part.split("/")[0] for part in shown}) == 2
        assert len({part.split("/")[-1] for part in shown}) == 1
        assert urllib.request.urlopen(f"{address}/clip/{shown[0]}").read() in (
            b"plain 000", b"plain 001", b"joint 000", b"joint 001",
        )  # fmt: skip
        for choice in ("left", "tie"):
            form = urllib.parse.urlencode({"pair": json.dumps(["plain", "joint"]), "choice": choice})
            urllib.request.urlopen(address, form.encode()).read()
        assert clips.choices() == [Choice("plain", "joint", 1.0), Choice("plain", "joint", 0.5)]
        for path, form, code in (
            ("/clip/../secret", None, 404),
            ("/etc", None, 404),
            ("/", {"pair": json.dumps(["plain", "nobody"]), "choice": "left"}, 400),
            ("/", {"pair": "torn", "choice": "left"}, 400),
        ):
            data = None if form is None else urllib.parse.urlencode(form).encode()
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(address + path, data)
            assert caught.value.code == code
            caught.value.close()
    finally:
        server.shutdown()
        server.server_close()
    with clips.kept.open("a") as file:
        file.write('{"first": "pla')  # torn by a kill
    assert len(Clips(tmp_path).choices()) == 2


def test_a_folder_without_pairs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has 0 clips .* run worldsim evaluate drift --clips 8"):
        Clips(tmp_path)
