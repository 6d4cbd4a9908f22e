"""The append-only memory of a world: every latent ever shown, its action, and the index over them."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from retrieval.hybrid_index import HybridIndex, HybridIndexSettings
from retrieval.spread import candidates_needed, spread
from worldsim.recall import MEMORY_MODES, MemoryMode, RecallSettings


@dataclass(frozen=True)
class Recalled:
    """One recalled frame."""

    frame: int
    """its number in memory, 0 the oldest"""
    age: int
    """frames between it and the section that it was recalled for"""
    score: float


class Memory:
    """Latents, actions and descriptor keys of one world, oldest first; recall by the mode chosen.

    Nothing is ever overwritten or dropped: cost of a recall is one index search, however old the world.
    """

    def __init__(
        self,
        latent_shape: tuple[int, int, int],
        factors: int,
        key_dim: int,
        mode: MemoryMode,
        settings: RecallSettings,
        device: torch.device,
        seed: int = 0,
    ) -> None:
        if mode not in MEMORY_MODES:
            raise ValueError(f"memory mode {mode!r} is not known; use one of {', '.join(MEMORY_MODES)}")
        self.mode = mode
        self.settings = settings
        self._index = HybridIndex(
            HybridIndexSettings(
                dim=key_dim, time_weight=settings.time_weight, time_constant=settings.time_constant
            )
        )
        self._latents = torch.zeros(256, *latent_shape, dtype=torch.float16, device=device)
        self._actions = torch.zeros(256, factors, dtype=torch.int64, device=device)
        self._length = 0
        self._random = np.random.default_rng(seed)

    def __len__(self) -> int:
        return self._length

    @property
    def needs_query(self) -> bool:
        """Whether recall looks at a query at all."""
        return self.mode in ("cosine", "hybrid", "oracle")

    def append(
        self,
        latents: Float[Tensor, "n channel height width"],
        actions: Int64[Tensor, "n factor"],
        keys: Float32[np.ndarray, "n dim"] | None,
    ) -> None:
        """Add frames. `keys` are their descriptors, None where the mode needs none (off, random)."""
        end = self._length + len(latents)
        while end > len(self._latents):
            self._latents = torch.cat((self._latents, torch.zeros_like(self._latents)))
            self._actions = torch.cat((self._actions, torch.zeros_like(self._actions)))
        self._latents[self._length : end] = latents.to(self._latents.dtype)
        self._actions[self._length : end] = actions.to(self._actions.device)
        if keys is not None:
            self._index.add(keys, np.arange(self._length, end, dtype=np.int64))
        self._length = end

    def latents(self, frames: Int64[np.ndarray, " n"] | list[int]) -> Float[Tensor, "n channel height width"]:
        """Latents of the frames of those numbers."""
        return self._latents[torch.as_tensor(frames, dtype=torch.int64, device=self._latents.device)]

    def recent(
        self, count: int
    ) -> tuple[
        Float[Tensor, "{count} channel height width"],
        Int64[Tensor, "{count} factor"],
        Bool[Tensor, " {count}"],
    ]:
        """The newest `count` latents, their actions and which exist, oldest first; zeros where the world is younger."""
        numbers = torch.arange(self._length - count, self._length, device=self._latents.device)
        present = numbers >= 0
        numbers = numbers.clamp(min=0)
        latents = self._latents[numbers] * present.view(-1, 1, 1, 1)
        return latents, self._actions[numbers] * present[:, None], present

    def recall(
        self, query: Float32[np.ndarray, " dim"] | None, count: int, exclude_recent: int
    ) -> list[Recalled]:
        """Up to `count` frames for the section that comes next, best first, the newest `exclude_recent` left out."""
        older = self._length - exclude_recent
        if self.mode == "off" or older <= 0:
            return []
        if self.mode == "random":
            chosen = self._random.choice(older, size=min(count, older), replace=False)
            return [Recalled(frame=int(i), age=self._length - int(i), score=0.0) for i in chosen]
        wanted = min(candidates_needed(count, self.settings.gap_frames), older)
        if query is None:
            query = np.zeros(self._index.settings.dim, np.float32)
        mode = "cosine" if self.mode == "oracle" else self.mode
        scores, ids = self._index.search(query[None], self._length, wanted, exclude_from=older, mode=mode)
        choice, real = spread(
            torch.from_numpy(scores),
            torch.from_numpy(ids),
            count,
            self.settings.gap_frames,
            torch.from_numpy(ids >= 0),
        )
        picks = choice[0][real[0]].tolist()
        return [
            Recalled(frame=int(ids[0, i]), age=self._length - int(ids[0, i]), score=float(scores[0, i]))
            for i in picks
        ]
