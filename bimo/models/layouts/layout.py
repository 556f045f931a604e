"""The interface of published layouts: recognising folders, determining their recipes, reading their weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bimo.core.recipe import Recipe
    from bimo.diffusion.system import System

#: Modules with a ``LAYOUT``, in the order in which they are tried; imported only then.
MODULES = (
    "bimo.models.layouts.diffusers_folder",
    "bimo.models.cascade.layout",
    "bimo.models.hunyuan_dit.layout",
    "bimo.models.pangu.layout",
    "bimo.models.clip.taiyi_layout",
    "bimo.models.clip.layout",
    "bimo.models.pai_diffusion.layout",
)


def no_base(folder: Path) -> tuple[str, ...]:
    """No recipes: the files determine everything."""
    return ()


@dataclass(frozen=True)
class Layout:
    """A layout of published systems.

    ``claims(folder)`` looks at file names and small configs only. ``recipe_of(folder)`` reads no weights;
    ``read(folder, dtype=None)`` does, in the stored dtype if ``dtype`` is None. If the files do not determine
    everything, ``bases(folder)`` names the recipes that a folder can be read as, the most common first; the chosen one
    is the second argument of both.
    """

    claims: Callable[[Path], bool]
    recipe_of: Callable[..., Recipe]
    read: Callable[..., System]
    bases: Callable[[Path], tuple[str, ...]] = no_base


def layouts() -> Iterator[Layout]:
    """Every published layout, imported one by one."""
    for name in MODULES:
        yield importlib.import_module(name).LAYOUT
