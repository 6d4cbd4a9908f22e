"""FSDP2: weights, gradients and optimiser states split over the processes, where one device cannot hold them all."""

import warnings

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from models.transformer import WorldTransformer
from worldsim.training.processes import Processes

METHODS = ("pack", "encode_history", "denoise_draws")
"""entries to the transformer beside `forward`: each gathers the weights that it needs"""


def shard(model: WorldTransformer, processes: Processes) -> None:
    """Split a model in place (Zhao et al. 2023): each block gathers its weights when it runs, and gives them back.

    Gradients are averaged over the processes as they are split. One process keeps everything.
    """
    if processes.count == 1:
        return
    # Views among what it returns are never changed in place here.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(processes.device.type, (processes.count,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for method in METHODS:
        register_fsdp_forward_method(model, method)


def give_back(model: nn.Module) -> None:
    """Drop gathered weights: after a forward without a backward, which would have done so."""
    if isinstance(model, FSDPModule):
        model.reshard()


def is_sharded(module: nn.Module) -> bool:
    """Whether its weights are split over processes."""
    return any(isinstance(each, DTensor) for each in module.parameters())


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor of which this process may hold a part; every process must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """What of it this process holds."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def split_like(tensor: Tensor, example: Tensor) -> Tensor:
    """A whole tensor, split as another is where that one has its shape."""
    if not isinstance(example, DTensor) or tensor.shape != example.shape:
        return tensor
    placed = tensor.to(example.device, example.dtype)
    split: Tensor = distribute_tensor(placed, example.device_mesh, example.placements)
    return split


def clipped_norm(parameters: list[nn.Parameter], most: float) -> Tensor:
    """`clip_grad_norm_`, its result whole."""
    return whole(torch.nn.utils.clip_grad_norm_(parameters, most)).detach()
