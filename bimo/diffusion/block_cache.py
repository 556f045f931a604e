"""The step caches of libraries for the blocks of a transformer: diffusers' own (``diffusers.hooks``), and DBCache of
cache-dit for transformers that diffusers has none for.

They are hooks in the network, and what they remember is of one drawing. So they are in the network during the calls of
their drawing alone: others take turns with it step by step, and find the network as it is.
"""

# cache-dit has no types.
# pyright: reportMissingImports=false, reportUnknownVariableType=false, reportUnknownMemberType=false

from __future__ import annotations

import importlib
import logging
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from torch import nn

from bimo.core.errors import RequestError
from bimo.core.installing import installing
from bimo.core.request import Request
from bimo.core.tensors import BlockCache, DenoiserInput
from bimo.diffusion.step_cache import StepCacheSetting
from bimo.diffusion.system import System

WARM_STEPS = 3
#: Blocks that cache-dit always computes, to see how much has changed: as first-block does.
FIRST_BLOCKS = 1
#: The attribute in which diffusers keeps the hooks of a module, group offloading's among them.
HOOKS = "_diffusers_hook"
_ABSENT = object()


def check(system: System, request: Request) -> None:
    """Raises RequestError if the library has no step cache for the last level's denoiser, or is not installed."""
    setting = None if request.step_cache is None else StepCacheSetting.named(request.step_cache)
    if setting is not None and setting.in_blocks:
        _network(system, setting.kind)


@contextmanager
def cached(system: System, inputs: DenoiserInput) -> Generator[None]:
    """The context of one call of a denoiser for one drawing: the step cache that it asks for is in the network, with
    what it kept of the drawing's earlier steps.
    """
    cache = inputs.blocks
    if cache is None:
        yield
        return
    network = _network(system, cache.kind)
    modules: list[nn.Module] = list(network.modules())
    own = {module: dict(vars(module)) for module in modules}
    try:
        if cache.kept is None:
            for module in modules:
                vars(module).pop(HOOKS, None)  # new hooks would be added to those, for all drawings
            _enable(network, cache)
        else:
            _set(cache.kept)
        if cache.kind == "dbcache":
            yield
        else:
            with network.cache_context("drawing"):
                yield
        if inputs.step == inputs.steps - 1 and cache.kind != "dbcache":
            network._reset_stateful_cache()  # frees its tensors: hooks refer to each other
    finally:
        cache.kept = {module: _changes(vars(module), before) for module, before in own.items()}
        _set({module: _changes(before, vars(module)) for module, before in own.items()})


def _changes(attributes: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """The attributes that are not the same objects as in ``others``; _ABSENT for those that only these have."""
    changed = {name: value for name, value in attributes.items() if others.get(name, _ABSENT) is not value}
    return changed | dict.fromkeys(others.keys() - attributes.keys(), _ABSENT)


def _set(changes: dict[nn.Module, dict[str, Any]]) -> None:
    # Through the dictionary: torch's setattr sorts modules and parameters into others.
    for module, attributes in changes.items():
        for name, value in attributes.items():
            if value is _ABSENT:
                vars(module).pop(name, None)
            else:
                vars(module)[name] = value


def _network(system: System, kind: str) -> Any:
    """The network of the last level's denoiser that a library has the step cache for. Raises RequestError."""
    return _network_of_cache_dit(system) if kind == "dbcache" else _network_of_diffusers(system)


def _network_of_diffusers(system: System) -> Any:
    from diffusers.models.cache_utils import CacheMixin

    denoiser = system.level(system.recipe.levels[-1].name).denoiser
    network = next((module for module in denoiser.modules() if isinstance(module, CacheMixin)), None)
    if network is None:
        raise RequestError(
            "diffusers has no step cache for the denoiser of {name}; take easy, which serves every system",
            name=system.recipe.name,
        )
    return network


def _network_of_cache_dit(system: System) -> nn.Module:
    from diffusers.models.modeling_utils import ModelMixin

    register = _cache_dit().BlockAdapterRegister
    denoiser = system.level(system.recipe.levels[-1].name).denoiser
    networks = (module for module in denoiser.modules() if isinstance(module, ModelMixin))
    network = next((module for module in networks if register.is_supported(module)), None)
    if network is None:
        raise RequestError(
            "cache-dit has no step cache for the denoiser of {name}; take easy, which serves every system",
            name=system.recipe.name,
        )
    return network


def _cache_dit() -> Any:
    """Imports cache-dit and mutes what it logs of itself; its loggers do not propagate. Raises RequestError."""
    if find_spec("cache_dit") is None:
        raise RequestError(
            "the step cache dbcache needs {library}, which is not installed; run {command}",
            library="cache-dit",
            command=installing("cache-dit"),
        )
    library = importlib.import_module("cache_dit")
    for name in logging.root.manager.loggerDict:
        if name.startswith("cache_dit"):
            logging.getLogger(name).setLevel(logging.ERROR)
    return library


def _enable(network: Any, cache: BlockCache) -> None:
    from diffusers.hooks.first_block_cache import FirstBlockCacheConfig
    from diffusers.hooks.taylorseer_cache import TaylorSeerCacheConfig

    if cache.kind == "first-block":
        network.enable_cache(FirstBlockCacheConfig(threshold=cache.number))
    elif cache.kind == "taylor":
        network.enable_cache(
            TaylorSeerCacheConfig(cache_interval=int(cache.number), disable_cache_before_step=WARM_STEPS)
        )
    else:
        cache_dit = _cache_dit()
        config = cache_dit.DBCacheConfig(
            Fn_compute_blocks=FIRST_BLOCKS,
            residual_diff_threshold=cache.number,
            max_warmup_steps=WARM_STEPS,
            enable_separate_cfg=False,  # the branches of guidance are rows of one call
        )
        cache_dit.enable_cache(network, cache_config=config)
