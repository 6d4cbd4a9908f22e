"""Exact search by cosine + w·e^(−age/τ) in one FAISS inner product."""

import contextlib
import json
import os
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import faiss
import numpy as np
from jaxtyping import Float, Float32, Int64

from retrieval.shortlist import Shortlist

Mode = Literal["hybrid", "cosine", "time"]

FORMAT = "worldsim-hybrid-index-1"
# float32 overflows at e^89: no exponent in use passes this one, and older keys than e^−80 count as 0 in time.
EXPONENT_LIMIT = 60.0
EXPONENT_FLOOR = -80.0
# Reading so many keys takes less time than a shortlist of them.
MANY = 8192


@dataclass(frozen=True, kw_only=True)
class HybridIndexSettings:
    dim: int
    """Length of a key."""
    time_weight: float = 0.1
    """Weight w of the time term against a cosine of at most 1."""
    time_constant: float = 100.0
    """Age τ, in frames, at which the time term has fallen to 1/e."""
    telling: int = 0
    """Last columns of a key by which most keys are ruled out, where there are many; see `Shortlist`."""

    def __post_init__(self):
        if self.dim < 1 or self.time_constant <= 0 or self.time_weight < 0:
            raise ValueError(
                f"{self}: dim must be 1 or more, time_constant above 0 frames, time_weight 0 or more"
            )
        if not 0 <= self.telling <= self.dim:
            raise ValueError(f"telling {self.telling} is not within 0 and the key's {self.dim} columns")


class HybridIndex:
    """Keys with times; entry number = order of `add`. Score of an entry of time s for a query at time t:

        hybrid:  q·k + w·e^(−(t − s)/τ)        cosine:  q·k        time:  e^(−(t − s)/τ)

    e^(−(t−s)/τ) = e^((s−ref)/τ) · e^(−(t−ref)/τ): with the first factor as one more column of every key and
    the second as one more of the query, a flat inner-product search is exact for all three. `ref` moves along
    with time, so that neither factor leaves float32: the column is then computed anew from the times, and no
    rounding piles up.
    """

    def __init__(self, settings: HybridIndexSettings):
        self.settings = settings
        self._index = faiss.IndexFlatIP(settings.dim + 1)
        self._times = np.zeros(1024, np.int64)
        self._shortlist = Shortlist(settings.telling)
        self._reference = 0

    def __len__(self) -> int:
        return self._index.ntotal

    @property
    def times(self) -> Int64[np.ndarray, "n"]:
        """Times of all entries, in frames; a read-only view."""
        view = self._times[: len(self)]
        view.flags.writeable = False
        return view

    def keys(self) -> Float32[np.ndarray, "n dim"]:
        """A copy of all keys."""
        return self._rows()[:, :-1].copy()

    def add(self, keys: Float32[np.ndarray, "n dim"], times: Int64[np.ndarray, "n"]) -> None:
        """Append unit keys with their times in frames. ValueError if times fall or a key is not finite."""
        if keys.shape != (len(times), self.settings.dim):
            raise ValueError(
                f"keys {keys.shape} are not ({len(times)}, {self.settings.dim}): one key of dim a time"
            )
        if not len(times):
            return
        last = self._times[len(self) - 1] if len(self) else times[0]
        if np.any(np.diff(times, prepend=last) < 0):
            raise ValueError(
                f"times {times[0]}..{times[-1]} fall, or lie before the last entry's {last}; add in order"
            )
        if not np.isfinite(keys).all():
            raise ValueError("a key holds NaN or infinity; check the latents that it was made from")
        n, total = len(self), len(self) + len(times)
        if total > len(self._times):
            self._times = np.concatenate([self._times[:n], np.zeros(max(n, len(times)) + 1024, np.int64)])
        self._times[n:total] = times
        self._shortlist.put(n, keys)
        if n == 0:
            self._reference = int(times[-1])
        self._index.add(np.concatenate([keys, self._column(times)[:, None]], axis=1))
        if (times[-1] - self._reference) / self.settings.time_constant > EXPONENT_LIMIT:
            self._move_reference(int(times[-1]))

    def search(
        self,
        queries: Float32[np.ndarray, "q dim"],
        time: int,
        count: int,
        exclude_from: int | None = None,
        mode: Mode = "hybrid",
    ) -> tuple[Float32[np.ndarray, "q count"], Int64[np.ndarray, "q count"]]:
        """The `count` best entries for each query at time `time` (frames), best first.

        Entries numbered `exclude_from` and up (the recent past) are skipped inside the search. Where there
        are fewer than `count`, the score is −inf and the entry −1. ValueError if an entry searched lies after
        `time`.
        """
        if mode not in ("hybrid", "cosine", "time"):
            raise ValueError(f"mode {mode!r} is not hybrid, cosine or time")
        if queries.shape[1] != self.settings.dim or count < 1:
            raise ValueError(
                f"queries {queries.shape}, count {count}: want dim {self.settings.dim}, count 1 or more"
            )
        searched = len(self) if exclude_from is None else min(max(exclude_from, 0), len(self))
        if searched == 0:
            shape = (len(queries), count)
            return np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int64)
        if self._times[searched - 1] > time:
            raise ValueError(
                f"entry {searched - 1} has time {self._times[searched - 1]}, after the query's {time}"
            )
        tau = self.settings.time_constant
        if abs(time - self._reference) / tau > EXPONENT_LIMIT:
            self._move_reference(time)
        extended = np.empty((len(queries), self.settings.dim + 1), np.float32)
        extended[:, :-1] = 0 if mode == "time" else queries
        weight = {"hybrid": self.settings.time_weight, "cosine": 0.0, "time": 1.0}[mode]
        extended[:, -1] = weight * np.exp(-(time - self._reference) / tau)
        selector = self._selector(extended, count, searched, weight)  # A name keeps it alive in the search.
        parameters = faiss.SearchParameters()
        parameters.sel = selector
        scores, ids = self._index.search(extended, count, params=parameters)
        scores[ids < 0] = -np.inf
        return scores, ids

    def _selector(
        self, queries: Float32[np.ndarray, "q columns"], count: int, searched: int, time_weight: float
    ) -> faiss.IDSelector:
        """The first `searched` entries, or of many those that may be among the best."""
        chosen = None
        if searched >= MANY and len(queries) == 1:
            chosen = self._shortlist.chosen(queries[0, :-1], count, searched, time_weight)
        if chosen is None:
            return faiss.IDSelectorRange(0, searched)
        # It takes an array, and keeps it, whatever its signature says.
        return faiss.IDSelectorBitmap(np.packbits(chosen, bitorder="little"))  # type: ignore[call-arg, arg-type]

    def retell(self, first: int, told: Float32[np.ndarray, "n telling"]) -> None:
        """Put other numbers into the last, `telling` columns of the keys from number `first` on.

        ValueError if there are not so many keys, or so many columns.
        """
        last = first + len(told)
        if told.shape[1] != self.settings.telling or not 0 <= first <= last <= len(self):
            raise ValueError(
                f"{told.shape} numbers do not fit keys {first}..{last} of {len(self)}: want {self.settings.telling} a key"
            )
        if not len(told):
            return
        keys = self._rows()[first:last, :-1]
        keys[:, self.settings.dim - self.settings.telling :] = told
        self._shortlist.put(first, keys)

    def remove_after(self, n: int) -> None:
        """Keep the first n entries only, as if the others had never been added."""
        if not 0 <= n <= len(self):
            raise ValueError(f"cannot keep {n} of {len(self)} entries; give 0 to {len(self)}")
        if n < len(self):
            self._index.remove_ids(faiss.IDSelectorRange(n, len(self)))

    def save(self, path: str | os.PathLike) -> None:
        """Write settings, keys and times to one file, which is never seen half-written."""
        path = Path(path)
        partial = path.with_name(f"{path.name}.{os.getpid()}.part")
        header = json.dumps({"format": FORMAT, **asdict(self.settings)})
        try:
            with open(partial, "wb") as file:
                np.savez(file, header=np.array(header), times=self.times, keys=self._rows()[:, :-1])
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                partial.unlink()

    @classmethod
    def load(cls, path: str | os.PathLike, settings: HybridIndexSettings | None = None) -> "HybridIndex":
        """Read what `save` wrote; `settings`, if given, replace the saved ones (dim must agree).

        FileNotFoundError if there is none; ValueError if the file is damaged, of another format or of another
        dim.
        """
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as saved:
                header, times, keys = json.loads(str(saved["header"])), saved["times"], saved["keys"]
        except FileNotFoundError:
            raise FileNotFoundError(f"{path}: no index here; rebuild it from the stored latents") from None
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{path} is not a whole index file; rebuild it from the stored latents"
            ) from error
        found = header.pop("format", None)
        if found != FORMAT:
            raise ValueError(f"{path} has format {found}, this version reads {FORMAT}; rebuild it")
        stored = HybridIndexSettings(**header)
        if keys.shape != (len(times), stored.dim) or (settings and settings.dim != stored.dim):
            wanted = settings.dim if settings else stored.dim
            raise ValueError(
                f"{path} holds keys {keys.shape}, not of dim {wanted}; rebuild it with this descriptor"
            )
        index = cls(settings or stored)
        index.add(keys, times)
        return index

    def _rows(self) -> Float32[np.ndarray, "n columns"]:
        """FAISS's own storage, writable, valid until the next add."""
        n, columns = len(self), self.settings.dim + 1
        if n == 0:
            return np.zeros((0, columns), np.float32)
        return faiss.rev_swig_ptr(self._index.get_xb(), n * columns).reshape(n, columns)

    def _column(self, times: Int64[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """e^((s−ref)/τ), capped where too new for float32: `search` moves ref before it looks at those."""
        exponents = (times - self._reference) / self.settings.time_constant
        column = np.exp(np.minimum(exponents, EXPONENT_LIMIT)).astype(np.float32)
        return np.where(exponents < EXPONENT_FLOOR, np.float32(0), column)

    def _move_reference(self, time: int) -> None:
        self._reference = time
        self._rows()[:, -1] = self._column(self.times)
