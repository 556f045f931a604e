"""What learns: globs over parameter names; a glob that matches nothing is an error."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence

from torch import nn

from bimo.core.errors import RecipeError
from bimo.core.part import nearest


def chosen(names: Iterable[str], globs: Sequence[str]) -> list[str]:
    """The names that any glob matches, in their order. Raises RecipeError for a glob that matches none."""
    every = list(names)
    kept: set[str] = set()
    for glob in globs:
        matched = fnmatch.filter(every, glob)
        if not matched:
            heads = sorted({name.rsplit(".", 1)[0] for name in every})
            tops = tuple(dict.fromkeys(name.split(".")[0] for name in every))
            near = ", ".join(nearest(glob.rstrip(".*"), heads) or tops)
            raise RecipeError(
                f"{glob!r} 没有对应任何参数；最接近的是 {near}",
                f"{glob!r} matches no parameter; the nearest are {near}",
            )
        kept.update(matched)
    return [name for name in every if name in kept]


def freeze(parameters: dict[str, nn.Parameter], globs: Sequence[str]) -> list[str]:
    """Lets the chosen parameters learn and no other; answers their names. Raises RecipeError as ``chosen``."""
    names = set(chosen(parameters, globs))
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in names)
    return [name for name in parameters if name in names]
