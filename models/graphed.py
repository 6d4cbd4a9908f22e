"""Functions replayed as CUDA graphs: a small model spends its time on launching kernels, not on running them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from models.flow import Draft
from models.history import AgedFrames, History
from models.history_cache import HistoryCache, Tokens
from models.packer import Pack
from models.rotary import Phases

P = ParamSpec("P")
R = TypeVar("R")

for _type in (AgedFrames, Draft, History, Phases, Pack, Tokens, HistoryCache):
    torch.export.register_dataclass(_type)


@dataclass(frozen=True)
class _Capture:
    graph: torch.cuda.CUDAGraph
    inputs: list[Any]
    outputs: Any


class Graphed(Generic[P, R]):
    """Calls `function` as it is on a CPU; on a GPU captures it once for each set of shapes and replays it from then on.

    `function` must be free of gradients, of random numbers and of anything that waits for the GPU; arguments and
    results are trees of tensors (dataclasses of `models` included). Weights may change between calls, in place.
    """

    def __init__(self, function: Callable[P, R]) -> None:
        self.function = function
        self._captures: dict[tuple[Any, ...], _Capture] = {}

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        leaves, tree = pytree.tree_flatten((args, kwargs))
        if not any(isinstance(leaf, Tensor) and leaf.is_cuda for leaf in leaves):
            return self.function(*args, **kwargs)
        key = (str(tree), *map(_signature, leaves))
        if key not in self._captures:
            self._captures[key] = self._capture(leaves, tree)
        captured = self._captures[key]
        for kept, leaf in zip(captured.inputs, leaves, strict=True):
            if isinstance(leaf, Tensor):
                kept.copy_(leaf)
        captured.graph.replay()
        # The next replay writes over the results.
        result: R = pytree.tree_map_only(Tensor, Tensor.clone, captured.outputs)
        return result

    @torch.no_grad()
    def _capture(self, leaves: list[Any], tree: pytree.TreeSpec) -> _Capture:
        inputs = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        args, kwargs = pytree.tree_unflatten(inputs, tree)
        # Libraries choose their kernels and get their workspaces in calls that are not captured, on a side stream.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self.function(*args, **kwargs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self.function(*args, **kwargs)
        return _Capture(graph=graph, inputs=inputs, outputs=outputs)


def _signature(leaf: Any) -> Any:
    return (leaf.shape, leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else leaf
