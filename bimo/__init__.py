"""笔墨: from a sentence in Chinese or English to a picture. What is named here is promised, and nothing else."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bimo.core.picture import Picture
    from bimo.core.recipe import Recipe
    from bimo.core.request import Request
    from bimo.diffusion.batching import draw
    from bimo.hub.registry import load, recipe

__version__ = "0.1.0"
__all__ = ["Picture", "Recipe", "Request", "draw", "load", "recipe"]

#: Where each name lives; it is imported when it is first asked for, so that `import bimo` is light.
_HOMES = {
    "Picture": "bimo.core.picture",
    "Recipe": "bimo.core.recipe",
    "Request": "bimo.core.request",
    "draw": "bimo.diffusion.batching",
    "load": "bimo.hub.registry",
    "recipe": "bimo.hub.registry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bimo' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
