"""笔墨: from a sentence in Chinese or English to a picture. What is named here is promised, and nothing else."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bimo.core.picture import Picture
    from bimo.core.recipe import Recipe
    from bimo.core.request import Request
    from bimo.engine.engine import Engine
    from bimo.hub.loading import load
    from bimo.hub.registry import recipe
    from bimo.inscription.drawing import draw

    __version__: str

__all__ = ["Engine", "Picture", "Recipe", "Request", "draw", "load", "recipe"]

#: Where each name lives; it is imported when it is first asked for, so that `import bimo` is light.
_HOMES = {
    "Picture": "bimo.core.picture",
    "Recipe": "bimo.core.recipe",
    "Request": "bimo.core.request",
    "Engine": "bimo.engine.engine",
    "draw": "bimo.inscription.drawing",
    "load": "bimo.hub.loading",
    "recipe": "bimo.hub.registry",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from bimo.core.installing import installed_version

        return installed_version()
    if name not in _HOMES:
        raise AttributeError(f"module 'bimo' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])
