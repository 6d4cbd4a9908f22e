"""Ratings from paired choices (Elo 1978), as FramePack compares variants: K = 32, ratings within 16 are ties."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

K = 32.0
TIE = 16.0
START = 1000.0


@dataclass(frozen=True)
class Choice:
    """One pair and what was chosen."""

    first: str
    second: str
    score: float
    """1 if the first was chosen, 0 if the second, 0.5 for neither"""

    def __post_init__(self) -> None:
        if self.first == self.second or self.score not in (0.0, 0.5, 1.0):
            raise ValueError(
                f"a choice between {self.first!r} and {self.second!r} with score {self.score}; two names and 1, 0.5 or 0"
            )


def expected_score(rating: float, other: float) -> float:
    """1 / (1 + 10^((R_b − R_a) / 400)): how often the first is chosen."""
    return float(1 / (1 + 10 ** ((other - rating) / 400)))


def elo_ratings(
    choices: Sequence[Choice], names: Iterable[str], orders: int = 200, seed: int = 0
) -> dict[str, float]:
    """R ← R + K (score − expected), choice by choice; the mean over many orders, for the last choices count most."""
    names = list(names)
    place = {name: i for i, name in enumerate(names)}
    missing = {each for choice in choices for each in (choice.first, choice.second)} - set(names)
    if missing:
        raise ValueError(f"choices name {sorted(missing)[0]!r}, which is not among {', '.join(names)}")
    rng, total = np.random.default_rng(seed), np.zeros(len(names))
    for _ in range(orders):
        ratings = np.full(len(names), START)
        for index in rng.permutation(len(choices)):
            choice = choices[index]
            a, b = place[choice.first], place[choice.second]
            change = K * (choice.score - expected_score(ratings[a], ratings[b]))
            ratings[a] += change
            ratings[b] -= change
        total += ratings
    return dict(zip(names, (total / orders).tolist(), strict=True))


def ranks(ratings: dict[str, float]) -> dict[str, int]:
    """Places from 1 on; who is within TIE of the best of a place shares it."""
    placed: dict[str, int] = {}
    best, rank = float("inf"), 0
    for count, (name, rating) in enumerate(sorted(ratings.items(), key=lambda each: -each[1]), start=1):
        if best - rating > TIE or count == 1:
            best, rank = rating, count
        placed[name] = rank
    return placed


def choices_by_distance(distances: dict[str, Sequence[float]]) -> list[Choice]:
    """A choice for every pair of names and every start: whose distance to real play is smaller there."""
    names = list(distances)
    counts = {len(each) for each in distances.values()}
    if len(counts) > 1:
        raise ValueError(f"{sorted(counts)} starts: all must have rolled out the same ones")
    made = []
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            for one, other in zip(distances[first], distances[second], strict=True):
                made.append(Choice(first, second, 0.5 if one == other else float(one < other)))
    return made
