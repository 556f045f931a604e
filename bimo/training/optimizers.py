"""What learns, by globs over parameter names, and how: optimisers, rates over time, averaged weights."""

from __future__ import annotations

import fnmatch
import math
import os
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib import import_module
from typing import Any, cast

import torch
from torch import Tensor, nn

from bimo.core.errors import RecipeError, TrainingError
from bimo.core.messages import Both
from bimo.core.part import nearest
from bimo.core.recipe import Stage
from bimo.training.distributed.processes import Processes

#: What a stage says, and DeepSpeed's configuration therefore cannot.
OF_THE_STAGE = ("optimizer", "scheduler", "fp16", "bf16", "amp", "torch_autocast")


def chosen(names: Iterable[str], globs: Sequence[str]) -> list[str]:
    """The names that any glob matches, in their order. Raises RecipeError for a glob that matches none."""
    every = list(names)
    selected: set[str] = set()
    for glob in globs:
        matched = fnmatch.filter(every, glob)
        if not matched:
            heads = sorted({name.rsplit(".", 1)[0] for name in every})
            tops = tuple(dict.fromkeys(name.split(".")[0] for name in every))
            near = ", ".join(nearest(glob.rstrip(".*"), heads) or tops)
            raise RecipeError("{glob!r} matches no parameter; the nearest are {near}", glob=glob, near=near)
        selected.update(matched)
    return [name for name in every if name in selected]


def freeze(parameters: dict[str, nn.Parameter], globs: Sequence[str]) -> list[str]:
    """Lets the chosen parameters learn and no other; answers their names. Raises RecipeError as ``chosen``."""
    names = set(chosen(parameters, globs))
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in names)
    return [name for name in parameters if name in names]


def rate(stage: Stage, step: int) -> float:
    """The learning rate of a step: linear warm-up to ``stage.lr``, then its schedule down to ``stage.floor``."""
    if step < stage.warmup:
        return stage.lr * (step + 1) / stage.warmup
    share = min(1.0, (step - stage.warmup) / max(1, stage.steps - stage.warmup))
    if stage.lr_schedule == "constant":
        return stage.lr
    if stage.lr_schedule == "cosine":
        left = 0.5 * (1 + math.cos(math.pi * share))
    else:
        left = (1 - share) ** (stage.power if stage.lr_schedule == "polynomial" else 1.0)
    return stage.floor + (stage.lr - stage.floor) * left


def optimiser(stage: Stage, parameters: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW (arXiv:1711.05101), Adafactor, or Muon with AdamW for what it is not made for; vectors and scalars (norms,
    biases) do not decay. Each group has its ``share`` of the stage's rate. Raises RecipeError for a glob of
    ``stage.rates`` that nothing that learns matches.
    """
    shares = dict.fromkeys(parameters, 1.0)
    for glob, peak in stage.lr_overrides:
        shares |= dict.fromkeys(chosen(parameters, (glob,)), peak / stage.lr)
    matrices = [n for n, p in parameters.items() if stage.optimiser == "muon" and _is_matrix(n, p)]
    if matrices:
        inner = _groups(stage, {name: parameters[name] for name in matrices}, shares)
        muon = torch.optim.Muon(cast(Any, inner), lr=stage.lr, adjust_lr_fn="match_rms_adamw")
        rest = _groups(stage, {name: p for name, p in parameters.items() if name not in matrices}, shares)
        return ChainedOptimizer(muon, *([_adamw(stage, rest)] if rest else []))
    made = _groups(stage, parameters, shares)
    return torch.optim.Adafactor(made, lr=stage.lr) if stage.optimiser == "adafactor" else _adamw(stage, made)


def ordered(stage: Stage, parameters: dict[str, nn.Parameter]) -> list[str]:
    """The names of parameters in the order in which a stage's optimiser counts them."""
    names = {id(parameter): name for name, parameter in parameters.items()}
    made = optimiser(stage, parameters)
    return [names[id(parameter)] for group in made.param_groups for parameter in group["params"]]


def _groups(stage: Stage, parameters: dict[str, nn.Parameter], shares: dict[str, float]) -> list[dict[str, Any]]:
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        groups.setdefault((shares[name], parameter.ndim > 1), []).append(parameter)
    return [
        {"params": members, "weight_decay": stage.weight_decay if decays else 0.0, "share": share}
        for (share, decays), members in sorted(groups.items(), key=lambda item: (-item[0][0], -item[0][1]))
    ]


def _adamw(stage: Stage, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=stage.lr, betas=stage.betas, eps=stage.eps, fused=True)


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is a linear map: no table of words or places, whose rows have nothing to do with each other,
    and no vector.
    """
    return parameter.ndim == 2 and name.endswith(".weight") and "embedding" not in name


class ChainedOptimizer(torch.optim.Optimizer):
    """Several optimisers, each for its own parameters, as one."""

    def __init__(self, *optimisers: torch.optim.Optimizer) -> None:
        self.optimisers = optimisers
        super().__init__([group for each in optimisers for group in each.param_groups], {})
        # The very groups of each, so that a rate set here is theirs.
        self.param_groups = [group for each in optimisers for group in each.param_groups]

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of each."""
        for each in self.optimisers:
            each.step()

    def state_dict(self) -> dict[str, Any]:
        """The states of each, the parameters counted through them all as an optimiser counts its own."""
        made: dict[str, Any] = {"state": {}, "param_groups": []}
        for each in self.optimisers:
            state, first = each.state_dict(), sum(len(g["params"]) for g in made["param_groups"])
            made["state"] |= {first + at: value for at, value in state["state"].items()}
            counted = [{**g, "params": [first + at for at in g["params"]]} for g in state["param_groups"]]
            made["param_groups"] += counted
        return made

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what ``state_dict`` gave."""
        groups = list(state_dict["param_groups"])
        first = 0
        for each in self.optimisers:
            own, groups = groups[: len(each.param_groups)], groups[len(each.param_groups) :]
            past = first + sum(len(g["params"]) for g in own)
            state = {at - first: v for at, v in state_dict["state"].items() if first <= at < past}
            counted = [{**g, "params": [at - first for at in g["params"]]} for g in own]
            each.load_state_dict({"state": state, "param_groups": counted})
            first = past
        self.param_groups = [group for each in self.optimisers for group in each.param_groups]


class DeepSpeedZero(torch.optim.Optimizer):
    """ZeRO by DeepSpeed (arXiv:1910.02054): an AdamW whose state lies in parts, one a process. What
    ``state_dict`` answers is whole, and is that of AdamW itself: it goes on with any number of processes, and without
    DeepSpeed.

    Gradients are brought together, clipped and parted by ``engine``, through which the module is used.
    """

    def __init__(self, stage: Stage, module: nn.Module, optimiser: torch.optim.Optimizer, processes: Processes) -> None:
        """Raises TrainingError for a stage, or a configuration, that this cannot learn by."""
        os.environ.setdefault("DS_ACCELERATOR", processes.device.type)
        config = zero_settings(stage)
        deepspeed: Any = import_module("deepspeed")
        # None of its compiled operations is used; it would compile one for processors all the same.
        deepspeed.ops.__compatible_ops__ = {}
        parameters: list[Any] = list(module.parameters())
        for parameter in parameters:
            # Not to be sent to all by the first process: each has it already, and of a single number that fails.
            parameter.ds_optim_param = True
        self.parameters: list[list[nn.Parameter]] = [list(group["params"]) for group in optimiser.param_groups]
        try:
            self.engine: Any = deepspeed.initialize(model=module, optimizer=optimiser, config=config)[0]
        except ValueError as error:
            raise _refused(stage, f"配置不对：{error}", f"its configuration is wrong: {error}") from None
        self._inner = optimiser
        # What DeepSpeed put in their place: one flat part of each group.
        super().__init__(optimiser.param_groups, {})
        self.param_groups = optimiser.param_groups
        self._all = [parameter for members in self.parameters for parameter in members]
        self._processes, self._used, self._linked = processes, set[int](), False
        every: list[Any] = self._all
        self._hooks = [p.register_post_accumulate_grad_hook(partial(self._use, at)) for at, p in enumerate(every)]

    def _use(self, at: int, _: Tensor) -> None:
        self._used.add(at)

    def _link(self) -> None:
        """Has DeepSpeed know each parameter's state: by itself it does after one group's step, for that group alone."""
        utils: Any = import_module("deepspeed.utils")
        for group, members in zip(self.param_groups, self.parameters, strict=True):
            utils.lazy_init_hp_params_optimizer_state(members, group["params"][0], self._inner.state)
        self._linked = True

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step by the gradients of all processes."""
        users = self._processes.total(*(float(at in self._used) for at in range(len(self._all))))
        idle = [parameter for parameter, used in zip(self._all, users, strict=True) if not used]
        self._used.clear()
        # AdamW passes by what has no gradient; in a flat part that is one of zeros, by which it would decay.
        before = [(view, view.clone()) for parameter in idle for view in _views(parameter)]
        self.engine.step()
        for view, value in before:
            view.copy_(value)
        if not self._linked:
            self._link()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing: a step leaves no gradients behind."""

    def state_dict(self) -> dict[str, Any]:
        """The state as AdamW has it, each tensor whole. All processes have to ask."""
        utils: Any = import_module("deepspeed.utils")
        made: dict[str, Any] = {"state": {}, "param_groups": []}
        for group, members in zip(self.param_groups, self.parameters, strict=True):
            state, first = self._inner.state[group["params"][0]], len(made["state"])
            for at, parameter in enumerate(members, first):
                whole = {n: utils.safe_get_full_optimizer_state(parameter, n) for n in state if n != "step"}
                made["state"][at] = {n: whole.get(n, value).clone() for n, value in state.items()}
            made["param_groups"].append({**group, "params": list(range(first, len(made["state"])))})
        return made

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes its part of what ``state_dict`` gave, or AdamW's."""
        utils: Any = import_module("deepspeed.utils")
        states: list[dict[str, Any]] = [
            state_dict["state"].get(at, {}) for group in state_dict["param_groups"] for at in group["params"]
        ]
        first = 0
        for group, members in zip(self.param_groups, self.parameters, strict=True):
            own, first = states[first : first + len(members)], first + len(members)
            flat = cast(Tensor, group["params"][0])
            # What no step used has no state in AdamW alone.
            known = max(own, key=lambda state: float(state.get("step", 0.0)))
            self._inner.state[flat] = {
                name: value.clone() if name == "step" else torch.zeros_like(flat) for name, value in known.items()
            }
        self._link()
        for parameter, state in zip(self._all, states, strict=True):
            for name in (name for name in state if name != "step"):
                utils.safe_set_full_optimizer_state(parameter, state[name].to(self._processes.device), name)

    def close(self) -> None:
        """Leaves what learnt as parameters like any others."""
        self.engine.destroy()
        for hook in self._hooks:
            hook.remove()
        for parameter in self._all:
            parameter.data = parameter.data.clone()


def _views(parameter: nn.Parameter) -> list[Tensor]:
    """A parameter, and what of its flat copy and of its state lies in this process."""
    own: Any = getattr(parameter, "_hp_mapping", None)
    return [parameter.data] + ([] if own is None else [own.hp_fragment, *(own.optim_fragment or {}).values()])


def zero_settings(stage: Stage) -> dict[str, Any]:
    """DeepSpeed's configuration: from accelerate's how it shards, from the stage how it learns."""
    accelerate: Any = import_module("accelerate")
    try:
        config: dict[str, Any] = accelerate.DeepSpeedPlugin().deepspeed_config
    except ValueError as error:
        raise _refused(stage, f"配置不对：{error}", f"its configuration is wrong: {error}") from None
    # What is left to accelerate is left to DeepSpeed.
    parts = {name: value for name, value in config["zero_optimization"].items() if value != "auto"}
    overridden = [name for name in OF_THE_STAGE if config.get(name, {}).get("enabled", name in config)]
    if overridden:
        raise _refused(
            stage,
            f"配置里的 {overridden[0]} 由阶段决定，请删去",
            f"{overridden[0]} is for the stage to say; leave it out of the configuration",
        )
    if parts.get("stage") not in (1, 2):
        raise _refused(
            stage,
            f"配置的是 ZeRO {parts.get('stage')}，这里有 1 和 2；权重也要切分请用 FSDP"
            "（distributed_type: FSDP，fsdp_version: 2）",
            f"it is configured for ZeRO {parts.get('stage')}, and 1 and 2 are here; for weights in parts too take FSDP "
            "(distributed_type: FSDP, fsdp_version: 2)",
        )
    if stage.optimiser != "adamw":
        raise _refused(
            stage,
            f"{stage.optimiser} 的状态不能分片；这个阶段请用 torchrun 启动（DDP）",
            f"the state of {stage.optimiser} cannot be parted; begin this one by torchrun (DDP)",
        )
    if stage.precision == "fp16":
        raise _refused(
            stage,
            "fp16 的缩放没有在分片上试过；precision 请用 bf16 或 fp32",
            "fp16's scaling has not been tried on parts; let precision be bf16 or fp32",
        )
    return {
        "zero_optimization": parts,
        "gradient_clipping": stage.max_grad_norm,
        # Rows and their weights are the loop's: for DeepSpeed each batch is one, and a step ends where it is called.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        # torch's AdamW, wherever its state lies.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def _refused(stage: Stage, zh: str, en: str) -> TrainingError:
    return TrainingError("stage {name!r} cannot be learnt by DeepSpeed: {near}", name=stage.name, near=Both(zh, en))


def autocast(stage: Stage, device: torch.device) -> AbstractContextManager[object]:
    """Products in the numbers of ``stage.precision``. Raises TrainingError for fp16 elsewhere than on a GPU of CUDA:
    its gradients vanish unless they are scaled.
    """
    if stage.precision in ("fp32", "bf16_weights"):
        return nullcontext()
    if stage.precision == "fp16" and device.type != "cuda":
        raise TrainingError(
            "stage {name!r} wants fp16, which cannot be trained in on {kind}: small gradients become zero; "
            "let precision be bf16 or fp32",
            name=stage.name,
            kind=device.type,
        )
    return torch.autocast(device.type, torch.float16 if stage.precision == "fp16" else torch.bfloat16)


def scaler(stage: Stage, device: torch.device) -> torch.amp.GradScaler:
    """What scales the loss, so that no small gradient of fp16 becomes zero; with other precisions it does nothing."""
    return torch.amp.GradScaler(device.type, enabled=stage.precision == "fp16")


def checkpoint_gradients(stage: Stage, system: nn.Module) -> None:
    """Has diffusers' modules work their blocks out twice where the stage says so: what is frozen too, for gradients
    go through it to what learns. Raises TrainingError where it says so and no module can.
    """
    on, able = stage.gradient_checkpointing, 0
    for name, module in cast("Iterable[tuple[str, Any]]", system.named_modules()):
        if not hasattr(module, "enable_gradient_checkpointing") or not module._supports_gradient_checkpointing:
            continue
        if on != module.is_gradient_checkpointing:
            (module.enable_gradient_checkpointing if on else module.disable_gradient_checkpointing)()
        # Pictures are encoded without a gradient unless their space learns.
        able += ".space." not in name or any(p.requires_grad for p in module.parameters())
    if on and not able:
        raise TrainingError("no module of stage {name!r} can do gradient_checkpointing; leave it out", name=stage.name)


class EMA:
    """Exponential moving average of what learns; its decay rises to ``decay`` as (1 + n) / (10 + n)."""

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.values: dict[str, Tensor] = {n: p.detach().clone() for n, p in parameters.items()} if decay else {}

    def update(self, parameters: dict[str, nn.Parameter], step: int) -> None:
        """One step towards the parameters as they are now."""
        if not self.values:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        now = [parameters[name].detach() for name in self.values]
        for average, value in zip(self.values.values(), now, strict=True):
            average.lerp_(value, 1 - decay)

    def swap(self, parameters: dict[str, nn.Parameter]) -> None:
        """Exchanges the average with the parameters; a second call undoes it."""
        with torch.no_grad():
            for name, value in self.values.items():
                weights = parameters[name].detach().clone()
                parameters[name].copy_(value)
                value.copy_(weights)
