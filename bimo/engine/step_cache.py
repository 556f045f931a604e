"""diffusers' step caches for transformers (``diffusers.hooks``), enabled on a denoiser during one drawing."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from bimo.core.errors import RequestError
from bimo.core.request import Request
from bimo.diffusion.step_cache import StepCacheSetting
from bimo.diffusion.system import System

#: Kinds that are hooks in the network; their state is that of a single drawing.
HOOKED = ("first-block", "taylor")
WARM_STEPS = 3


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
    network = _network(system)
    network.enable_cache(_config(hooked))
    try:
        with network.cache_context("drawing"):
            yield
    finally:
        network.disable_cache()


def check(system: System, request: Request) -> None:
    """Raises RequestError if diffusers has no step cache for the last level's denoiser."""
    setting = None if request.step_cache is None else StepCacheSetting.named(request.step_cache)
    if setting is not None and setting.kind in HOOKED:
        _network(system)


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
