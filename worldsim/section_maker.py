"""From a history to the next section's latents: pack, encode, denoise."""

from jaxtyping import Float, Int
from torch import Tensor

from models.flow import FlowSettings, sample
from models.graphed import Graphed
from models.history import History
from models.packer import Pack
from models.transformer import HistoryCache
from worldsim.checkpoint import WorldModels


class SectionMaker:
    """The parts of a step that the transformer does; on a GPU each is one CUDA graph."""

    def __init__(self, models: WorldModels, flow: FlowSettings) -> None:
        self.models, self.flow = models, flow
        self._pack = Graphed(models.transformer.pack)
        self.encode = Graphed(models.transformer.encode_history)
        self.sample = Graphed(self._denoise)

    def pack(self, history: History) -> Pack:
        """The packed context. A CPU saves the work on absent tokens; a graph's shapes must not change with them."""
        pack = self._pack(history)
        return pack if self.models.device.type == "cuda" else pack.without_absent()

    def _denoise(
        self,
        noise: Float[Tensor, "batch section channel height width"],
        actions: Int[Tensor, "batch step factor"],
        cache: HistoryCache,
    ) -> Float[Tensor, "batch section channel height width"]:
        """Clean latents of the section from noise."""
        return sample(self.models.transformer, noise, actions, cache, self.flow)
