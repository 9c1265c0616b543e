"""Many processes as one, under torchrun: which share is mine, and what all have found together.

Started without torchrun there is one process, and everything here gives back what it was given.
"""
import json
import os

import torch
import torch.distributed as group


def start(device) -> None:
    """Joins the processes that torchrun started: gloo on CPUs, NCCL for what lies on GPUs."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not group.is_initialized():
        group.init_process_group("cpu:gloo,cuda:nccl" if torch.device(device).type == "cuda" else "gloo")


def stop() -> None:
    """Leaves the group."""
    if group.is_initialized():
        group.destroy_process_group()


def world() -> int:
    """How many processes there are."""
    return group.get_world_size() if group.is_initialized() else 1


def rank() -> int:
    """My number among them, from 0. Process 0 prints and writes."""
    return group.get_rank() if group.is_initialized() else 0


def share(rows: list[int]) -> list[int]:
    """My part of the rows: every `world()`-th, so that rows in order of length give equal work."""
    if world() == 1:
        return rows
    from datasets import Dataset
    return list(Dataset.from_dict({"row": rows}).shard(world(), rank(), contiguous=False)["row"])


def total(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, in place; every process gets the same bits."""
    if world() > 1:
        group.all_reduce(tensor)
    return tensor


def totals(tensors: dict) -> dict:
    """`total` of every tensor (float64), by name in alphabetical order; a process has all of them or, its share empty, none."""
    if world() > 1:
        for name, size in _shapes(tensors).items():
            tensors.setdefault(name, torch.zeros(size, dtype=torch.float64))
    return {name: total(tensors[name]) for name in sorted(tensors)}


def _shapes(tensors: dict) -> dict:
    """`{name: shape}` as the processes that have any tensors know it, for those that have none."""
    text = json.dumps({name: list(tensor.shape) for name, tensor in tensors.items()}, sort_keys=True).encode() if tensors else b""
    length = torch.tensor(len(text))
    group.all_reduce(length, group.ReduceOp.MAX)
    letters = torch.zeros(int(length) + 1, dtype=torch.uint8)  # never of length 0
    letters[:len(text)] = torch.tensor(list(text))
    group.all_reduce(letters, group.ReduceOp.MAX)  # who knows anything knows the same, the others bring zeros
    return json.loads(bytes(letters[:-1].tolist()) or b"{}")


def anywhere(flag: bool) -> bool:
    """Whether it is so in one process at least: what all must decide alike."""
    return bool(total(torch.tensor(int(flag))))


def from_first(tensor: torch.Tensor) -> torch.Tensor:
    """Process 0's values for all, in place: eigenvectors are unique only up to sign, and machines differ."""
    if world() > 1:
        group.broadcast(tensor, 0)
    return tensor


def wait() -> None:
    """Returns once all processes have come here."""
    if world() > 1:
        group.barrier()
