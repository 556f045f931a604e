"""ZeRO by DeepSpeed: an optimiser whose state is sharded over the processes."""

from __future__ import annotations

import os
from functools import partial
from importlib import import_module
from typing import Any, cast

import torch
from torch import Tensor, nn

from bimo.core.errors import TrainingError
from bimo.core.messages import Message
from bimo.core.recipe import Stage
from bimo.training.distributed.processes import Processes

#: Settings of the stage, which DeepSpeed's configuration must not have.
OF_THE_STAGE = ("optimizer", "scheduler", "fp16", "bf16", "amp", "torch_autocast")


class DeepSpeedZero(torch.optim.Optimizer):
    """ZeRO by DeepSpeed (arXiv:1910.02054): AdamW with sharded state. ``state_dict`` returns the gathered state of a
    plain AdamW: it can be resumed with any number of processes, and without DeepSpeed.

    ``engine``, through which the module is used, reduces, clips and shards gradients.
    """

    def __init__(self, stage: Stage, module: nn.Module, optimiser: torch.optim.Optimizer, processes: Processes) -> None:
        """Raises TrainingError for a stage or configuration that is not supported."""
        os.environ.setdefault("DS_ACCELERATOR", processes.device.type)
        config = zero_settings(stage)
        deepspeed: Any = import_module("deepspeed")
        # None of its compiled operations is used, but it would compile one for CPUs.
        deepspeed.ops.__compatible_ops__ = {}
        parameters: list[Any] = list(module.parameters())
        for parameter in parameters:
            # Excluded from the initial broadcast: all processes have the same values, and broadcasting scalars fails.
            parameter.ds_optim_param = True
        self.parameters: list[list[nn.Parameter]] = [list(group["params"]) for group in optimiser.param_groups]
        try:
            self.engine: Any = deepspeed.initialize(model=module, optimizer=optimiser, config=config)[0]
        except ValueError as error:
            raise _refused(stage, Message("its configuration is wrong: {error}", error=error)) from None
        self._inner = optimiser
        # DeepSpeed replaces them by one flat shard of each group.
        super().__init__(optimiser.param_groups, {})
        self.param_groups = optimiser.param_groups
        self._all = [parameter for members in self.parameters for parameter in members]
        self._processes, self._used, self._linked = processes, set[int](), False
        every: list[Any] = self._all
        self._hooks = [p.register_post_accumulate_grad_hook(partial(self._use, at)) for at, p in enumerate(every)]

    def _use(self, at: int, _: Tensor) -> None:
        self._used.add(at)

    def _link(self) -> None:
        """Links each parameter to its state; DeepSpeed does this itself after a group's step, for that group alone."""
        utils: Any = import_module("deepspeed.utils")
        for group, members in zip(self.param_groups, self.parameters, strict=True):
            utils.lazy_init_hp_params_optimizer_state(members, group["params"][0], self._inner.state)
        self._linked = True

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step with the gradients of all processes."""
        users = self._processes.total(*(float(at in self._used) for at in range(len(self._all))))
        idle = [parameter for parameter, used in zip(self._all, users, strict=True) if not used]
        self._used.clear()
        # AdamW skips parameters without a gradient; in a flat shard their gradient is zero, and they would decay.
        before = [(view, view.clone()) for parameter in idle for view in _views(parameter)]
        self.engine.step()
        for view, value in before:
            view.copy_(value)
        if not self._linked:
            self._link()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Does nothing: a step frees its gradients."""

    def state_dict(self) -> dict[str, Any]:
        """The state as AdamW has it, with whole tensors. All processes must call this."""
        utils: Any = import_module("deepspeed.utils")
        made: dict[str, Any] = {"state": {}, "param_groups": []}
        for group, members in zip(self.param_groups, self.parameters, strict=True):
            state, first = self._inner.state[group["params"][0]], len(made["state"])
            for at, parameter in enumerate(members, first):
                full_state = {n: utils.safe_get_full_optimizer_state(parameter, n) for n in state if n != "step"}
                made["state"][at] = {n: full_state.get(n, value).clone() for n, value in state.items()}
            made["param_groups"].append({**group, "params": list(range(first, len(made["state"])))})
        return made

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads this process's part of ``state_dict`` or of AdamW's state."""
        utils: Any = import_module("deepspeed.utils")
        states: list[dict[str, Any]] = [
            state_dict["state"].get(at, {}) for group in state_dict["param_groups"] for at in group["params"]
        ]
        first = 0
        for group, members in zip(self.param_groups, self.parameters, strict=True):
            own, first = states[first : first + len(members)], first + len(members)
            flat = cast(Tensor, group["params"][0])
            # Parameters that were never updated have no state in AdamW.
            known = max(own, key=lambda state: float(state.get("step", 0.0)))
            self._inner.state[flat] = {
                name: value.clone() if name == "step" else torch.zeros_like(flat) for name, value in known.items()
            }
        self._link()
        for parameter, state in zip(self._all, states, strict=True):
            for name in (name for name in state if name != "step"):
                utils.safe_set_full_optimizer_state(parameter, state[name].to(self._processes.device), name)

    def close(self) -> None:
        """Leaves the trained parameters as ordinary ones."""
        self.engine.destroy()
        for hook in self._hooks:
            hook.remove()
        for parameter in self._all:
            parameter.data = parameter.data.clone()


def _views(parameter: nn.Parameter) -> list[Tensor]:
    """A parameter with the parts of its flat copy and of its state in this process."""
    own: Any = getattr(parameter, "_hp_mapping", None)
    return [parameter.data] + ([] if own is None else [own.hp_fragment, *(own.optim_fragment or {}).values()])


def zero_settings(stage: Stage) -> dict[str, Any]:
    """DeepSpeed's configuration: sharding from accelerate's, optimisation from the stage."""
    accelerate: Any = import_module("accelerate")
    try:
        config: dict[str, Any] = accelerate.DeepSpeedPlugin().deepspeed_config
    except ValueError as error:
        raise _refused(stage, Message("its configuration is wrong: {error}", error=error)) from None
    # "auto" of accelerate means DeepSpeed's default.
    parts = {name: value for name, value in config["zero_optimization"].items() if value != "auto"}
    overridden = [name for name in OF_THE_STAGE if config.get(name, {}).get("enabled", name in config)]
    if overridden:
        near = Message("{name} is for the stage to say; leave it out of the configuration", name=overridden[0])
        raise _refused(stage, near)
    if parts.get("stage") not in (1, 2):
        near = Message(
            "it is configured for ZeRO {number}, and 1 and 2 are here; for weights in parts too take FSDP "
            "(distributed_type: FSDP, fsdp_version: 2)",
            number=parts.get("stage"),
        )
        raise _refused(stage, near)
    if stage.optimiser != "adamw":
        near = Message(
            "the state of {optimiser} cannot be parted; begin this one by torchrun (DDP)", optimiser=stage.optimiser
        )
        raise _refused(stage, near)
    if stage.precision == "fp16":
        raise _refused(stage, Message("fp16's scaling has not been tried on parts; let precision be bf16 or fp32"))
    return {
        "zero_optimization": parts,
        "gradient_clipping": stage.max_grad_norm,
        # The loop accumulates and weighs batches: for DeepSpeed each batch is one, and a step ends when it is called.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        # torch's AdamW, wherever its state is.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def _refused(stage: Stage, near: Message) -> TrainingError:
    return TrainingError("stage {name!r} cannot be learnt by DeepSpeed: {near}", name=stage.name, near=near)
