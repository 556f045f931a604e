"""The step caches of libraries for transformers, enabled on a denoiser during one drawing: diffusers' own
(``diffusers.hooks``), and DBCache of cache-dit for transformers that diffusers has none for.
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
from bimo.diffusion.step_cache import StepCacheSetting
from bimo.diffusion.system import System

#: Kinds that are hooks in the network; their state is that of a single drawing.
HOOKED = ("first-block", "taylor", "dbcache")
WARM_STEPS = 3
#: Blocks that cache-dit always computes, to see how much has changed: as first-block does.
FIRST_BLOCKS = 1


@contextmanager
def step_cached(system: System, requests: list[Request]) -> Generator[None]:
    """Enables the step cache that the requests ask for on the last level's transformer, if it is one of diffusers'.
    Raises RequestError if diffusers has none for that denoiser, or if several requests are drawn together.
    """
    settings = [StepCacheSetting.named(each.step_cache) for each in requests if each.step_cache is not None]
    hooked = next((each for each in settings if each.kind in HOOKED), None)
    if hooked is None:
        yield
        return
    if len(requests) > 1:
        raise RequestError(
            "the step cache {kind} remembers one drawing at a time and {count} are drawn together; draw them one by "
            "one, or take easy",
            kind=hooked.kind,
            count=len(requests),
        )
    if hooked.kind == "dbcache":
        with _by_cache_dit(_network_of_cache_dit(system), hooked.number):
            yield
        return
    network = _network(system)
    network.enable_cache(_config(hooked))
    try:
        with network.cache_context("drawing"):
            yield
    finally:
        network.disable_cache()


def check(system: System, request: Request) -> None:
    """Raises RequestError if the library has no step cache for the last level's denoiser, or is not installed."""
    setting = None if request.step_cache is None else StepCacheSetting.named(request.step_cache)
    if setting is not None and setting.kind in HOOKED:
        (_network_of_cache_dit if setting.kind == "dbcache" else _network)(system)


def _network(system: System) -> Any:
    from diffusers.models.cache_utils import CacheMixin

    denoiser = system.level(system.recipe.levels[-1].name).denoiser
    network = next((module for module in denoiser.modules() if isinstance(module, CacheMixin)), None)
    if network is None:
        raise RequestError(
            "diffusers has no step cache for the denoiser of {name}; take easy, which serves every system",
            name=system.recipe.name,
        )
    return network


def _config(setting: StepCacheSetting) -> Any:
    from diffusers.hooks.first_block_cache import FirstBlockCacheConfig
    from diffusers.hooks.taylorseer_cache import TaylorSeerCacheConfig

    if setting.kind == "first-block":
        return FirstBlockCacheConfig(threshold=setting.number)
    return TaylorSeerCacheConfig(cache_interval=int(setting.number), disable_cache_before_step=WARM_STEPS)


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


@contextmanager
def _by_cache_dit(network: nn.Module, threshold: float) -> Generator[None]:
    """Has cache-dit cache a network. It replaces methods of the network and of its blocks, and does not put back all of
    them itself.
    """
    cache_dit = _cache_dit()
    config = cache_dit.DBCacheConfig(
        Fn_compute_blocks=FIRST_BLOCKS,
        residual_diff_threshold=threshold,
        max_warmup_steps=WARM_STEPS,
        enable_separate_cfg=False,  # the branches of guidance are rows of one call
    )
    own = {module: dict(vars(module)) for module in network.modules()}
    cache_dit.enable_cache(network, cache_config=config)
    try:
        yield
    finally:
        cache_dit.disable_cache(network)
        for module, attributes in own.items():
            vars(module).clear()
            vars(module).update(attributes)
