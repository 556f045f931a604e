"""Selects the trained parameters by globs over names, and builds their optimiser."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from bimo.core.errors import RecipeError, TrainingError
from bimo.core.messages import Listed
from bimo.core.part import nearest
from bimo.core.recipe import Stage
from bimo.training.optimizer_classes import optimizer_class

#: How many of the parameters that learn are named in a message.
NAMED = 3


def chosen(names: Iterable[str], globs: Sequence[str]) -> list[str]:
    """The names that any glob matches, in order. Raises RecipeError for a glob that matches none."""
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
    """Freezes all but the chosen parameters; returns the names of these. Raises RecipeError as ``chosen``."""
    names = set(chosen(parameters, globs))
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in names)
    return [name for name in parameters if name in names]


def set_modes(module: nn.Module, above: bool = False) -> None:
    """Sets training mode for modules whose parameters are all trained, evaluation mode for all others; those without
    parameters have that of the module ``above``.
    """
    parameters = list(module.parameters())
    module.training = all(p.requires_grad for p in parameters) if parameters else above
    for child in module.children():
        set_modes(child, module.training)


def optimiser(stage: Stage, parameters: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser of a stage; vectors and scalars (norms, biases) have no weight decay. Each group has its ``share``
    of the stage's learning rate. With ``stage.fused_backward`` every parameter has an optimiser of its own. Raises
    RecipeError for a glob of ``stage.lr_overrides`` that matches no trained parameter, for an unavailable optimiser,
    and for Muon where nothing that learns is a matrix.
    """
    if stage.optimiser == "muon" and not _matrices(stage, parameters):
        raise RecipeError(
            "muon of stage {name!r} makes steps of matrices, and of what learns nothing is one ({listed}), so that all "
            "of it would have AdamW's; let optimiser be adamw",
            name=stage.name,
            listed=Listed(list(parameters)[:NAMED]),
        )
    shares = dict.fromkeys(parameters, 1.0)
    for glob, peak in stage.lr_overrides:
        shares |= dict.fromkeys(chosen(parameters, (glob,)), peak / stage.lr)
    built = _optimiser(stage, parameters, shares)
    if not stage.fused_backward:
        return built
    names = {id(parameter): name for name, parameter in parameters.items()}
    order = [names[id(parameter)] for group in built.param_groups for parameter in group["params"]]
    return ChainedOptimizer(*(_optimiser(stage, {name: parameters[name]}, shares) for name in order))


def _optimiser(stage: Stage, parameters: dict[str, nn.Parameter], shares: dict[str, float]) -> torch.optim.Optimizer:
    """AdamW (arXiv:1711.05101), Adafactor, Muon with AdamW for parameters that are no matrices, or one of a library."""
    try:
        options: dict[str, Any] = dict(stage.optimiser_args)
        matrices = _matrices(stage, parameters) if stage.optimiser == "muon" else []
        if matrices:
            kernels = options.pop("convolutions", False)
            inner = _groups(stage, {name: parameters[name] for name in matrices}, shares)
            options = {"adjust_lr_fn": "match_rms_adamw", **options}
            muon = (ConvolutionalMuon if kernels else torch.optim.Muon)(cast(Any, inner), lr=stage.lr, **options)
            rest = _groups(stage, {name: p for name, p in parameters.items() if name not in matrices}, shares)
            return ChainedOptimizer(muon, *([_adamw(stage, rest, {})] if rest else []))
        groups = _groups(stage, parameters, shares)
        if stage.optimiser in ("adamw", "muon"):
            return _adamw(stage, groups, stage.optimiser_args if stage.optimiser == "adamw" else {})
        settings: Any = {"lr": stage.lr, **stage.optimiser_args}
        if stage.optimiser == "adafactor":
            return torch.optim.Adafactor(groups, **settings)
        return optimizer_class(stage)(groups, **settings)
    except (TypeError, ValueError, ImportError, NotImplementedError) as error:
        raise RecipeError(
            "the optimiser {optimiser} of stage {name!r} refuses what it is given (optimiser_args): {error}",
            optimiser=stage.optimiser,
            name=stage.name,
            error=error,
        ) from None


def ordered(stage: Stage, parameters: dict[str, nn.Parameter]) -> list[str]:
    """The names of parameters in the order of a stage's optimiser."""
    names = {id(parameter): name for name, parameter in parameters.items()}
    built = optimiser(stage, parameters)
    return [names[id(parameter)] for group in built.param_groups for parameter in group["params"]]


def _groups(stage: Stage, parameters: dict[str, nn.Parameter], shares: dict[str, float]) -> list[dict[str, Any]]:
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        groups.setdefault((shares[name], parameter.ndim > 1), []).append(parameter)
    return [
        {"params": members, "weight_decay": stage.weight_decay if decays else 0.0, "share": share}
        for (share, decays), members in sorted(groups.items(), key=lambda item: (-item[0][0], -item[0][1]))
    ]


def _adamw(stage: Stage, groups: list[dict[str, Any]], overrides: Mapping[str, Any]) -> torch.optim.Optimizer:
    settings: Any = {"lr": stage.lr, "betas": stage.betas, "eps": stage.eps, "fused": True, **overrides}
    return torch.optim.AdamW(groups, **settings)


def _matrices(stage: Stage, parameters: Mapping[str, nn.Parameter]) -> list[str]:
    """The names of those parameters whose steps Muon makes."""
    kernels = bool(stage.optimiser_args.get("convolutions", False))
    return [name for name, parameter in parameters.items() if _is_matrix(name, parameter, kernels)]


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
        # The same group objects, so that a learning rate set here applies to them.
        self.param_groups = [group for each in optimisers for group in each.param_groups]

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of each."""
        for each in self.optimisers:
            each.step()

    def state_dict(self) -> dict[str, Any]:
        """The states of all optimisers, with parameters numbered through them."""
        built: dict[str, Any] = {"state": {}, "param_groups": []}
        for each in self.optimisers:
            state, first = each.state_dict(), sum(len(g["params"]) for g in built["param_groups"])
            built["state"] |= {first + at: value for at, value in state["state"].items()}
            renumbered = [{**g, "params": [first + at for at in g["params"]]} for g in state["param_groups"]]
            built["param_groups"] += renumbered
        return built

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what ``state_dict`` returned."""
        groups = list(state_dict["param_groups"])
        first = 0
        for each in self.optimisers:
            own, groups = groups[: len(each.param_groups)], groups[len(each.param_groups) :]
            past = first + sum(len(g["params"]) for g in own)
            state = {at - first: v for at, v in state_dict["state"].items() if first <= at < past}
            renumbered = [{**g, "params": [at - first for at in g["params"]]} for g in own]
            each.load_state_dict({"state": state, "param_groups": renumbered})
            first = past
        self.param_groups = [group for each in self.optimisers for group in each.param_groups]


def autocast(stage: Stage, device: torch.device) -> AbstractContextManager[object]:
    """Autocast to ``stage.precision``. Raises TrainingError for fp16 without a CUDA GPU: gradients underflow without
    loss scaling.
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
    """The loss scaler for fp16, against underflow of gradients; disabled for other precisions."""
    return torch.amp.GradScaler(device.type, enabled=stage.precision == "fp16")


def checkpoint_gradients(stage: Stage, system: nn.Module) -> None:
    """Enables gradient checkpointing of diffusers' modules if the stage asks for it: of frozen ones too, as gradients
    pass through them. Raises TrainingError if no module supports it.
    """
    on, able = stage.gradient_checkpointing, 0
    for name, module in cast("Iterable[tuple[str, Any]]", system.named_modules()):
        if not hasattr(module, "enable_gradient_checkpointing") or not module._supports_gradient_checkpointing:
            continue
        if on != module.is_gradient_checkpointing:
            (module.enable_gradient_checkpointing if on else module.disable_gradient_checkpointing)()
        # Pictures are encoded without a gradient unless their space is trained.
        able += ".space." not in name or any(p.requires_grad for p in module.parameters())
    if on and not able:
        raise TrainingError("no module of stage {name!r} can do gradient_checkpointing; leave it out", name=stage.name)
