"""Device, precision and processes of a run."""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from terramorph.errors import ConfigError, warn
from terramorph.imports import import_without
from terramorph.processor import native_bf16, warn_of_emulation
from terramorph.training.config import TrainConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_BF16: Literal["bf16-mixed"] = "bf16-mixed"
_FP32: Literal["32-true"] = "32-true"
"""Precisions of Fabric."""


def make_fabric(config: TrainConfig, begun_in: str = "") -> Fabric:
    """Choose device and precision and, under torchrun, join the group of processes.

    Args:
        begun_in: Precision of a run that is resumed, as in `Plan`; "" if it begins.
    """
    import_without("lightning_fabric", "torchmetrics")  # it only asks for the version
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    has_gpu = torch.cuda.is_available()
    if config.device == "cuda" and not has_gpu:
        raise ConfigError("There is no CUDA device here; set device=cpu, or install a CUDA build of torch.")
    device = "cuda" if has_gpu and config.device != "cpu" else "cpu"
    if config.launch == "graph" and device == "cpu":
        raise ConfigError("launch=graph needs a CUDA device; set launch=auto.")
    bf16 = config.precision == "bf16"
    if bf16:
        warn_of_emulation(device)
    elif config.precision == "auto" and begun_in != _FP32:
        bf16 = native_bf16(device)
        if begun_in == _BF16 and not bf16:
            warn(f"bf16, in which the run was trained so far, is emulated on this {device}; the run continues in fp32.")
    processes = nodes = 1
    if torch.distributed.is_torchelastic_launched():  # torchrun passes its settings in the environment alone
        processes = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // processes
    if config.launch == "graph" and processes * nodes > 1:
        raise ConfigError("launch=graph trains in one process only; set launch=auto under torchrun.")
    # Fabric logs its precision on its own logger; the plan that a run reports says the same. Whoever gives that
    # logger a level wants to read it.
    log = logging.getLogger("lightning_fabric.utilities.rank_zero")
    log.setLevel(log.level or logging.WARNING)
    fabric = Fabric(
        accelerator=device,
        devices=processes,
        num_nodes=nodes,
        # Batch statistics belong to each process, and broadcasting them would break a second forward pass.
        strategy=DDPStrategy(broadcast_buffers=False) if processes * nodes > 1 else "auto",
        precision=_BF16 if bf16 else _FP32,
    )
    fabric.launch()
    if processes * nodes > 1:
        atexit.register(_leave_group)
    return fabric


def launch_of(config: TrainConfig, fabric: Fabric) -> Literal["eager", "graph", "compile"]:
    """Resolve `launch=auto`.

    Terms from outside may wait for the device, which a graph cannot; for those that do not, set launch=graph.
    """
    if config.launch != "auto":
        return config.launch
    alone_on_gpu = fabric.device.type == "cuda" and fabric.world_size == 1
    return "graph" if alone_on_gpu and not config.without_graph and not config.loss.terms else "eager"


def averaged(fabric: Fabric, losses: Mapping[str, Tensor]) -> dict[str, float]:
    """Average losses, 0-d each, over all processes."""
    if fabric.world_size == 1:
        return {name: float(value) for name, value in losses.items()}
    together = fabric.all_reduce(torch.stack(list(losses.values())), reduce_op="mean")
    assert isinstance(together, Tensor)
    return dict(zip(losses, together.tolist(), strict=True))


def any_process(fabric: Fabric, answer: bool) -> bool:
    """Return whether the answer of any process is True, so that all stop after the same step."""
    if fabric.world_size == 1:
        return answer
    votes = fabric.all_reduce(torch.tensor(float(answer), device=fabric.device), reduce_op="sum")
    assert isinstance(votes, Tensor)
    return bool(votes > 0)


def _leave_group() -> None:
    """End the threads of the process group; where the interpreter ends before them, the process may be aborted."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
