"""Which of many keys can be among the best for a query, told by their last few columns: the others need not be read."""

import numpy as np
from jaxtyping import Bool, Float32


class Shortlist:
    """The last columns of every key, and how long the rest of a key is at most.

    A score is what these columns tell plus what the rest does, which by Cauchy and Schwarz is within ± length of the
    query's rest · longest rest. So whatever lies more than twice that below the count-th best by these columns has `count`
    better ones, and the search among the others is exact. Memory ranks by place and view: of an old world a few per cent
    lie near enough.
    """

    def __init__(self, columns: int) -> None:
        self._columns = np.zeros((columns, 1024), np.float32)
        self._largest = np.zeros(columns, np.float32)
        self._longest = 0.0

    def put(self, start: int, keys: Float32[np.ndarray, "n dim"]) -> None:
        """Keys from that number on, in place of any that there were."""
        columns, stop = len(self._columns), start + len(keys)
        if stop > self._columns.shape[1]:
            spare = np.zeros((columns, max(start, len(keys)) + 1024), np.float32)
            self._columns = np.concatenate((self._columns[:, :start], spare), 1)
        rest, last = np.split(keys, [keys.shape[1] - columns], axis=1)
        self._columns[:, start:stop] = last.T
        self._largest = np.maximum(self._largest, np.abs(last).max(0))
        self._longest = max(self._longest, float(np.linalg.norm(rest, axis=1).max()))

    def chosen(
        self, query: Float32[np.ndarray, " dim"], count: int, among: int, besides: float
    ) -> Bool[np.ndarray, " {among}"] | None:
        """Which of the first `among` keys may be of the `count` best; None where that may be most of them.

        `besides`: what else a score has, from 0 to that.
        """
        rest, last = np.split(query, [len(query) - len(self._columns)])
        if not last.any() or count > among:
            return None
        scores = last @ self._columns[:, :among]
        least = np.partition(scores, among - count)[among - count]
        within = float(np.linalg.norm(rest)) * self._longest
        # Sums of float32 are off by so much at most, these and those of the search.
        rounding = (
            4 * len(query) * np.finfo(np.float32).eps * (np.abs(last) @ self._largest + within + besides)
        )
        chosen = scores >= least - 2 * within - besides - rounding
        return chosen if 2 * np.count_nonzero(chosen) < among else None
