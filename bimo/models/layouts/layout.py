"""The layouts that systems were published in: each knows its folders, their recipes and how their weights are read."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bimo.core.recipe import Recipe
    from bimo.diffusion.system import System

#: Modules with a ``LAYOUT``, in the order in which a folder is shown to them; imported only when their turn comes.
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
    """No recipe: the files of a folder say everything."""
    return ()


@dataclass(frozen=True)
class Layout:
    """How systems lie in folders of one kind.

    ``claims(folder)`` looks at names of files and small configs alone. ``recipe_of(folder)`` reads no weights;
    ``read(folder, dtype=None)`` does, as they are stored where there is no ``dtype``. Where files do not say all,
    ``bases(folder)`` names the recipes that a folder may be read as, the usual one first, and the recipe that was
    chosen of them is the second argument of both.
    """

    claims: Callable[[Path], bool]
    recipe_of: Callable[..., Recipe]
    read: Callable[..., System]
    bases: Callable[[Path], tuple[str, ...]] = no_base


def layouts() -> Iterator[Layout]:
    """Every published layout, each imported when it is reached."""
    for name in MODULES:
        yield importlib.import_module(name).LAYOUT
