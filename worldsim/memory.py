"""The append-only memory of a world: every latent ever shown, its action, and the index over them."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from models.patchifier import tail_cells
from models.schedule import Tail
from retrieval.hybrid_index import HybridIndex, HybridIndexSettings, Mode
from retrieval.landmarks import YOUNGEST, Landmarks, nearest
from retrieval.motion import traced_back
from retrieval.place import PLACE_COLUMNS, place_keys, place_queries
from retrieval.pose_graph import SETTLE_EVERY, settled
from retrieval.spread import candidates_needed, spread
from retrieval.whereabouts import Followed
from worldsim.recall import (
    MEMORY_MODES,
    PLACE,
    MemoryMode,
    Recalled,
    RecallSettings,
    hybrid_place,
    least_score,
    score_latents,
)


class Memory:
    """Latents, actions, estimated poses and keys of one world, oldest first; recall by the mode chosen.

    A key is a descriptor's and, beside it, where the frame was seen from (`place_keys`): one search ranks by both.
    Nothing is ever dropped: cost of a recall is one index search, however old the world.
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
        tail: Tail | None = None,
        scan_channels: int = 0,
    ) -> None:
        if mode not in MEMORY_MODES:
            raise ValueError(f"memory mode {mode!r} is not known; use one of {', '.join(MEMORY_MODES)}")
        self.mode = mode
        self.settings = settings
        self._index = HybridIndex(
            HybridIndexSettings(
                dim=key_dim + PLACE_COLUMNS,
                time_weight=settings.time_weight,
                time_constant=settings.time_constant,
                telling=PLACE_COLUMNS,
            )
        )
        self._key_dim = key_dim
        self._latents = torch.zeros(256, *latent_shape, dtype=torch.float16, device=device)
        self._actions = torch.zeros(256, factors, dtype=torch.int64, device=device)
        self._path = Followed.of_poses(torch.zeros(1, 256, 3, device=device))
        self._places = torch.zeros(256, PLACE_COLUMNS, device=device)
        self._scans = torch.zeros(256, scan_channels, latent_shape[2], dtype=torch.float16, device=device)
        self._tail = tail
        self._cells = tail_cells(torch.zeros(256, *latent_shape, device=device), tail)
        self._length = 0
        self._unsettled = 0
        self._random = np.random.default_rng(seed)

    def __len__(self) -> int:
        return self._length

    @property
    def needs_query(self) -> bool:
        """Whether recall looks at a descriptor's query."""
        return self.mode == "cosine" or (self.mode == "hybrid" and self.settings.measure == "learned")

    @property
    def needs_keys(self) -> bool:
        """Whether frames are put into the index at all."""
        return self.mode not in ("off", "random")

    def append(
        self,
        latents: Float[Tensor, "n channel height width"],
        actions: Int64[Tensor, "n factor"],
        path: Followed,
        keys: Float32[np.ndarray, "n dim"] | None,
        true_poses: Float[Tensor, "n 3"] | None = None,
        scans: Float[Tensor, "n scanned width"] | None = None,
    ) -> Float[Tensor, "2"]:
        """Add frames. `path`, a batch of one, is the odometer's account of them; the oracle's recall goes by true poses.

        Returns how far from there the newest lies after all: every now and then all places settle.
        `keys` are the frames' descriptors, `scans` what they tell as witnesses; None where nobody asks: zeros.
        """
        end = self._length + len(latents)
        while end > len(self._latents):
            for name in ("_latents", "_actions", "_places", "_cells", "_scans"):
                kept = getattr(self, name)
                setattr(self, name, torch.cat((kept, torch.zeros_like(kept))))
            self._path = self._path.room(len(self._latents))
        part = slice(self._length, end)
        self._latents[part] = latents.to(self._latents.dtype)
        self._actions[part] = actions.to(self._actions.device)
        self._path.put(path, self._length)
        self._places[part] = place_keys(path.poses[0], PLACE)
        self._cells[part] = tail_cells(self._latents[part].float(), self._tail)
        if scans is not None:
            self._scans[part] = scans.to(self._scans.dtype)
        if self.needs_keys:
            known = self._places[part] if true_poses is None else place_keys(true_poses, PLACE)
            places = known.cpu().numpy()
            described = np.zeros((len(places), self._key_dim), np.float32) if keys is None else keys
            self._index.add(
                np.concatenate((described, places), 1), np.arange(self._length, end, dtype=np.int64)
            )
        self._length = end
        self._unsettled += len(latents)
        return self.settle() if self._unsettled >= SETTLE_EVERY else self._poses.new_zeros(2)

    def settle(self) -> Float[Tensor, "2"]:
        """Put the newest frames to where all steps and sightings place them best; returns how far the last one moved.

        Where nothing was recognised since they last did, they do already. The oracle goes on recalling by true poses.
        """
        since, self._unsettled = self._length - self._unsettled, 0
        if not self._path.variances[0, since : self._length].isfinite().any():
            return self._poses.new_zeros(2)
        first, poses = settled(self._path.part(0, self._length), since)
        part = slice(first, self._length)
        shift = poses[0, -1, :2] - self._poses[self._length - 1, :2]
        self._poses[part], self._places[part] = poses[0], place_keys(poses[0], PLACE)
        if self.needs_keys and self.mode != "oracle":
            self._index.retell(first, self._places[part].cpu().numpy())
        return shift

    @property
    def _poses(self) -> Float[Tensor, "room 3"]:
        return self._path.poses[0]

    @property
    def poses(self) -> Float[Tensor, "n 3"]:
        """Where every frame was seen from, as estimated."""
        return self._poses[: self._length]

    @property
    def scans(self) -> Float[Tensor, "n scanned width"]:
        """What every frame tells as a witness, `Foresight.scans`."""
        return self._scans[: self._length]

    def latents(self, frames: Int64[Tensor, " n"] | list[int]) -> Float[Tensor, "n channel height width"]:
        """Latents of the frames of those numbers."""
        return self._latents[torch.as_tensor(frames, dtype=torch.int64, device=self._latents.device)]

    def recent(
        self, count: int
    ) -> tuple[
        Float[Tensor, "{count} channel height width"],
        Int64[Tensor, "{count} factor"],
        Float[Tensor, "{count} 3"],
        Bool[Tensor, " {count}"],
    ]:
        """The newest `count` latents, their actions, poses and which exist, oldest first; zeros where there are none.

        Their poses are told back from the newest one's.
        """
        numbers = torch.arange(self._length - count, self._length, device=self._latents.device)
        present = numbers >= 0
        numbers = numbers.clamp(min=0)
        latents = self._latents[numbers] * present.view(-1, 1, 1, 1)
        there, headings = present[:, None], self._poses[numbers, 2]
        newest = self._poses[max(0, self._length - 1)]
        poses = traced_back(newest, self._path.moves[0, numbers], headings)
        return latents, self._actions[numbers] * there, poses * there, present

    def landmarks(self, pose: Float[Tensor, "3"], age: int) -> Landmarks | None:
        """What a player there may recognise, `age` frames after the newest; None while all frames are too young."""
        old = self._length + age - YOUNGEST
        if old <= 0:
            return None
        allowed = torch.ones(1, old, dtype=torch.bool, device=pose.device)
        frames, found = nearest(self._places[None, :old], pose[None], allowed)
        return Landmarks(
            latents=self._latents[frames], frames=frames, poses=self._poses[frames], present=found,
            doubts=self._path.doubts[0, frames, 1],
        )  # fmt: skip

    def tail(
        self, first: int, recent: int
    ) -> tuple[Float[Tensor, "n channel rows cols"], Int64[Tensor, " n"]]:
        """What a schedule's tail keeps of the frames between the `first` and the `recent` ones, and their ages.

        `tail_cells` of every frame, or if the tail compresses the means of all cells and ages; nothing if it deletes.
        """
        numbers = torch.arange(first, max(first, self._length - recent))
        if self._tail not in ("ta", "tc"):
            numbers = numbers[:0]
        cells = self._cells[numbers.to(self._cells.device)]
        ages = (self._length - numbers).to(self._cells.device)
        if self._tail == "tc" and len(ages):
            return cells.mean(0, keepdim=True), ages.float().mean(0, keepdim=True).round().long()
        return cells, ages

    def recall(
        self,
        query: Float32[np.ndarray, " dim"] | None,
        pose: Float[Tensor, "3"] | None,
        count: int,
        exclude_recent: int,
    ) -> list[Recalled]:
        """Up to `count` frames for the section that comes next, best first, the newest `exclude_recent` left out.

        By hybrid score, none that has nothing to do with the coming view (`least_score`).

        `query` is what the coming view is expected to look like, `pose` where it is expected to be seen from (the
        oracle's: is).
        """
        older = self._length - exclude_recent
        if self.mode == "off" or older <= 0 or count == 0:
            return []
        if self.mode == "random":
            chosen = self._random.choice(older, size=min(count, older), replace=False)
            return [self._as_recalled(int(i), 0.0) for i in chosen]
        wanted = min(candidates_needed(count, self.settings.gap_frames), older)
        scores, ids = self._best(query, pose, wanted, older)
        allowed = ids >= 0
        if pose is not None and self.mode == "hybrid":
            newest = self._poses[None, self._length - 1]
            allowed &= scores >= least_score(pose[None], newest, self.settings).cpu()
        choice, real = spread(scores, ids, count, self.settings.gap_frames, allowed)
        return [self._as_recalled(int(ids[0, i]), float(scores[0, i])) for i in choice[0][real[0]].tolist()]

    def ranked(
        self,
        query: Float32[np.ndarray, " dim"] | None,
        pose: Float[Tensor, "3"] | None,
        count: int,
        exclude_recent: int,
        taken: Sequence[Recalled],
    ) -> list[Recalled]:
        """The `count` most important frames besides the newest and those `taken`, the best last, however close they lie."""
        older = self._length - exclude_recent
        if older <= 0 or count == 0:
            return []
        scores, ids = self._best(query, pose, min(count + len(taken), older), older)
        gone = {-1, *(pick.frame for pick in taken)}
        best = zip(ids[0].tolist(), scores[0].tolist(), strict=True)
        rest = [self._as_recalled(frame, score) for frame, score in best if frame not in gone]
        return rest[:count][::-1]

    def nearest(self, pose: Float[Tensor, "3"], exclude_recent: int) -> Recalled | None:
        """The frame that was seen from nearest to a pose, as estimated, the newest left out; None while there is none.

        Its score is minus what place and heading cost, in the widths of `PlaceSettings`: the mode does not matter.
        """
        older = self._length - exclude_recent
        if older <= 0:
            return None
        scores = self._places[:older] @ place_queries(pose[None], PLACE)[0]
        best = int(scores.argmax())
        return self._as_recalled(best, float(scores[best]))

    def _as_recalled(self, frame: int, score: float) -> Recalled:
        return Recalled(frame=frame, age=self._length - frame, score=score)

    def _best(
        self,
        query: Float32[np.ndarray, " dim"] | None,
        pose: Float[Tensor, "3"] | None,
        wanted: int,
        older: int,
    ) -> tuple[Float[Tensor, "1 candidate"], Int64[Tensor, "1 candidate"]]:
        """Scores and numbers of the best of the `older` oldest frames."""
        if self.mode == "hybrid" and self.settings.measure == "latent":
            ages = torch.arange(self._length, self._length - older, -1, device=self._latents.device)
            newest = self._latents[self._length - 1]
            scored = score_latents(self._latents[None, :older], newest[None], ages[None], self.settings)
            values, numbers = scored.sort(dim=1, descending=True, stable=True)
            return values[:, :wanted].cpu(), numbers[:, :wanted].cpu()
        whole, mode = self._query(query, pose)
        scores, ids = self._index.search(whole[None], self._length, wanted, exclude_from=older, mode=mode)
        return torch.from_numpy(scores), torch.from_numpy(ids)

    def _query(
        self, query: Float32[np.ndarray, " dim"] | None, pose: Float[Tensor, "3"] | None
    ) -> tuple[Float32[np.ndarray, " whole"], Mode]:
        """The index's query of this mode, and whether time counts."""
        whole = np.zeros(self._index.settings.dim, np.float32)
        if query is not None and self.needs_query:
            whole[: self._key_dim] = query
        if pose is not None and self.mode in ("place", "hybrid", "oracle"):
            place = hybrid_place(self.settings) if self.mode == "hybrid" else PLACE
            whole[self._key_dim :] = place_queries(pose[None], place)[0].cpu().numpy()
        modes: dict[MemoryMode, Mode] = {"time": "time", "hybrid": "hybrid"}
        return whole, modes.get(self.mode, "cosine")
