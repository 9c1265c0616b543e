"""Many processes as one, under torchrun: which share is mine, and what all have together. Started
without torchrun there is one process, and everything here gives back what it was given."""
import os

import torch
import torch.distributed as group


def start(device) -> None:
    """Joins the processes that torchrun started: gloo on CPUs, NCCL for what lies on GPUs."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not group.is_initialized():
        on_gpu = torch.device(device).type == "cuda"
        group.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")


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
    return rows[rank()::world()]


def total(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, in place; every process gets the same bits."""
    if world() > 1:
        group.all_reduce(tensor)
    return tensor


def everyones(value) -> list:
    """The values of all processes, in their order. Returns once all have come here."""
    values = [value] * world()
    if world() > 1:
        group.all_gather_object(values, value)
    return values


def from_first(value):
    """Process 0's value, for all: what must be decided alike, or differs between machines."""
    box = [value]
    if world() > 1:
        group.broadcast_object_list(box, 0)
    return box[0]


def totals(sums: dict) -> dict:
    """The sums of all processes added up, by name; a process without stories has none."""
    parts = [part for part in everyones(sums) if part]
    return {name: sum(part[name] for part in parts) for first in parts[:1] for name in first}
