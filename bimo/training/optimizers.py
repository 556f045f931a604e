"""What learns, by globs over parameter names, and by which optimiser and numbers."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from bimo.core.errors import RecipeError, TrainingError
from bimo.core.part import nearest
from bimo.core.recipe import Stage
from bimo.training.optimizer_classes import optimizer_class


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


def optimiser(stage: Stage, parameters: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser of a stage; vectors and scalars (norms, biases) do not decay. Each group has its ``share`` of the
    stage's rate. With ``stage.fused_backward`` every parameter has one of its own. Raises RecipeError for a glob of
    ``stage.lr_overrides`` that nothing that learns matches, and for an optimiser that cannot be had.
    """
    shares = dict.fromkeys(parameters, 1.0)
    for glob, peak in stage.lr_overrides:
        shares |= dict.fromkeys(chosen(parameters, (glob,)), peak / stage.lr)
    made = _optimiser(stage, parameters, shares)
    if not stage.fused_backward:
        return made
    names = {id(parameter): name for name, parameter in parameters.items()}
    order = [names[id(parameter)] for group in made.param_groups for parameter in group["params"]]
    return ChainedOptimizer(*(_optimiser(stage, {name: parameters[name]}, shares) for name in order))


def _optimiser(stage: Stage, parameters: dict[str, nn.Parameter], shares: dict[str, float]) -> torch.optim.Optimizer:
    """AdamW (arXiv:1711.05101), Adafactor, Muon with AdamW for what it is not made for, or a library's."""
    try:
        options: dict[str, Any] = dict(stage.optimiser_args)
        kernels = stage.optimiser == "muon" and options.pop("convolutions", False)
        matrices = [n for n, p in parameters.items() if stage.optimiser == "muon" and _is_matrix(n, p, kernels)]
        if matrices:
            inner = _groups(stage, {name: parameters[name] for name in matrices}, shares)
            options = {"adjust_lr_fn": "match_rms_adamw", **options}
            muon = (ConvolutionalMuon if kernels else torch.optim.Muon)(cast(Any, inner), lr=stage.lr, **options)
            rest = _groups(stage, {name: p for name, p in parameters.items() if name not in matrices}, shares)
            return ChainedOptimizer(muon, *([_adamw(stage, rest, {})] if rest else []))
        groups = _groups(stage, parameters, shares)
        if stage.optimiser in ("adamw", "muon"):
            return _adamw(stage, groups, stage.optimiser_args if stage.optimiser == "adamw" else {})
        given: Any = {"lr": stage.lr, **stage.optimiser_args}
        if stage.optimiser == "adafactor":
            return torch.optim.Adafactor(groups, **given)
        return optimizer_class(stage)(groups, **given)
    except (TypeError, ValueError, ImportError, NotImplementedError) as error:
        raise RecipeError(
            "the optimiser {optimiser} of stage {name!r} refuses what it is given (optimiser_args): {error}",
            optimiser=stage.optimiser,
            name=stage.name,
            error=error,
        ) from None


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


def _adamw(stage: Stage, groups: list[dict[str, Any]], given: Mapping[str, Any]) -> torch.optim.Optimizer:
    told: Any = {"lr": stage.lr, "betas": stage.betas, "eps": stage.eps, "fused": True, **given}
    return torch.optim.AdamW(groups, **told)


def _is_matrix(name: str, parameter: nn.Parameter, kernels: bool) -> bool:
    """Whether a parameter is a linear map, or with ``kernels`` a convolution's kernel: no vector, and no table of words
    or places, whose rows have nothing to do with each other.
    """
    linear = parameter.ndim == 2 or (kernels and parameter.ndim == 4)
    return linear and name.endswith(".weight") and "embedding" not in name


class ConvolutionalMuon(torch.optim.Muon):
    """Muon that takes the kernels of convolutions, too: [out, in, h, w] is the matrix [out, in h w], as in the
    reference implementation (arXiv:2502.16982; github.com/KellerJordan/Muon). torch's refuses all but matrices.
    """

    def __init__(self, params: Any, **options: Any) -> None:
        # torch checks the dimensions where it takes its defaults; these are taken from an optimiser of one matrix.
        defaults = torch.optim.Muon([nn.Parameter(torch.zeros(1, 1))], **options).defaults
        torch.optim.Optimizer.__init__(self, params, defaults)

    def _init_group(
        self,
        group: Any,
        params_with_grad: list[Tensor],
        grads: list[Tensor],
        muon_momentum_bufs: list[Tensor],
    ) -> bool:
        """Collects a group's tensors, as matrices; parameters and momenta as views, since a step writes into them."""
        is_complex = cast(Any, super())._init_group(group, params_with_grad, grads, muon_momentum_bufs)
        grads[:] = [gradient.flatten(1) for gradient in grads]
        for tensors in (params_with_grad, muon_momentum_bufs):
            tensors[:] = [tensor.view(len(tensor), -1) for tensor in tensors]
        return is_complex


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
