"""One step of a world, part by part: foresee and recall, pack, encode, denoise, decode, look at what was made."""

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.flow import FlowSettings, sample
from models.graphed import Graphed
from models.history import History
from models.history_cache import HistoryCache
from models.packer import Pack
from retrieval.foresight import Witnesses
from retrieval.landmarks import Landmarks
from retrieval.whereabouts import Followed, Sightings, Whereabouts
from worldsim.checkpoint import WorldModels
from worldsim.recall import make_queries

for _type in (Whereabouts, Followed, Landmarks, Sightings, Witnesses):
    torch.export.register_dataclass(_type)


class SectionMaker:
    """The parts of a step that networks do; on a GPU each is one CUDA graph for every batch of worlds."""

    def __init__(self, models: WorldModels, flow: FlowSettings) -> None:
        self.models, self.flow = models, flow
        self.expect = Graphed(models.odometer.expect)
        self.queries = Graphed(partial(make_queries, models.descriptor))
        self._pack = Graphed(models.transformer.pack_clean)
        self.encode = Graphed(models.transformer.encode_history)
        self.sample = Graphed(self._denoise)
        self.decode = Graphed(models.autoencoder.decode_frames)
        self.register = Graphed(models.odometer.registered)
        self.recognised = Graphed(models.odometer.recognised)
        self.keys = Graphed(models.descriptor.keys)
        self.scans = Graphed(models.odometer.scans)

    @classmethod
    def of(cls, models: WorldModels, flow: FlowSettings) -> "SectionMaker":
        """The one of these models and settings: all worlds share it, so that graphs are captured once."""
        if flow not in models.makers:
            models.makers[flow] = cls(models, flow)
        maker: SectionMaker = models.makers[flow]
        return maker

    def pack(
        self, history: History, noise: Float[Tensor, "batch frames channel height width"] | None = None
    ) -> Pack:
        """The packed context. A CPU saves the work on absent tokens; a graph's shapes must not change with them."""
        pack = self._pack(history, noise)
        return pack if self.models.device.type == "cuda" else pack.without_absent()

    def _denoise(
        self,
        noise: Float[Tensor, "batch section channel height width"],
        actions: Int[Tensor, "batch step factor"],
        cache: HistoryCache,
    ) -> Float[Tensor, "batch section channel height width"]:
        """Clean latents of the section from noise."""
        return sample(self.models.transformer, noise, actions, cache, self.flow)
