"""FSDP2 (torch's ``fully_shard``), as accelerate's configuration wants it: each process keeps a part of what learns."""

# torch and accelerate leave parts of their interfaces untyped; what crosses them here is named where it is kept.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from bimo.core.errors import TrainingError
from bimo.core.recipe import Stage

#: What modules are asked by besides ``forward``: for that too the parts are gathered.
METHODS = ("encode", "decode", "posterior", "look", "blank")


def sharded(stage: Stage, exercise: nn.Module, device: torch.device) -> nn.Module:
    """The exercise with what learns in it in parts, one a process; what is frozen stays whole in each.

    accelerate's launcher says by its configuration which modules are gathered by themselves (``fsdp_auto_wrap_policy``
    and what belongs to it), whether they are given up between forward and backward (``fsdp_reshard_after_forward``),
    and whether parts lie in the processor's memory (``fsdp_offload_params``). Raises TrainingError where the stage
    cannot be learnt in parts, and for a class to wrap that is not there.
    """
    from accelerate import FullyShardedDataParallelPlugin
    from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    _refuse(stage, exercise)
    plugin: Any = FullyShardedDataParallelPlugin(fsdp_version=2)
    settings: dict[str, Any] = {
        "mesh": init_device_mesh(device.type, (torch.distributed.get_world_size(),)),
        "reshard_after_forward": plugin.reshard_after_forward,
        "offload_policy": plugin.cpu_offload,
        "ignored_params": {p for p in exercise.parameters() if not p.requires_grad},
    }
    try:
        wanted = cast(Any, fsdp2_prepare_auto_wrap_policy(plugin, exercise))
    except ValueError as error:
        raise TrainingError(
            f"FSDP 的配置里要单独收放的类不对：{error}", f"a class that FSDP is configured to wrap: {error}"
        ) from None
    if wanted is not None:
        for module in [*exercise.modules()][:0:-1]:
            # What has no forward of its own is used through its parts.
            used = type(module).forward is not nn.Module.forward
            if used and wanted(module) and any(p.requires_grad for p in module.parameters()):
                fully_shard(module, **settings)
                for name in (name for name in METHODS if hasattr(module, name)):
                    register_fsdp_forward_method(module, name)
    return cast(nn.Module, fully_shard(exercise, **settings))


def _refuse(stage: Stage, exercise: nn.Module) -> None:
    scalars = [name for name, p in exercise.named_parameters() if p.requires_grad and not p.ndim]
    wrong: tuple[str, str] | None = None
    if scalars:
        wrong = f"单个的数 {scalars[0]} 不能分片", f"{scalars[0]} is a single number, which has no parts"
    elif stage.optimiser != "adamw":
        wrong = f"{stage.optimiser} 的状态不能分片", f"the state of {stage.optimiser} cannot be parted"
    elif stage.precision == "fp16":
        wrong = "fp16 的缩放没有在分片上试过", "fp16's scaling has not been tried on parts"
    elif hasattr(stage.objective, "lessons"):
        wrong = "它要边学边画，每个进程画的不一样", "it draws as it learns, each process something else"
    if wrong is not None:
        raise TrainingError(
            f"阶段 {stage.name!r} 不能用 FSDP：{wrong[0]}；这个阶段请用 torchrun 启动（DDP）",
            f"stage {stage.name!r} cannot be learnt by FSDP: {wrong[1]}; begin it by torchrun (DDP)",
        )
