"""Writes a plan as a Python recipe file, to be read, edited, and run again by `bimo train`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, cast

from bimo.core.messages import say
from bimo.core.part import Part
from bimo.core.recipe import Stage

RECIPE_FILE = "recipe.py"
#: The name of the recipe in the file.
NAME = "finetuned"
WIDTH = 110
FIRST = ("steps", "batch", "lr")
INDENT = "    "


def source(model: str, stages: Sequence[Stage], prompts: Sequence[str], title: str, command: str) -> str:
    """The text of the file; its docstring has the ``title`` and the ``command`` that runs it again."""
    every = sorted(set(_imports((*stages,))))
    imports = [f"from {module} import {', '.join(sorted(names))}" for module, names in _by_module(every)]
    staged = "".join(f"{INDENT * 2}{_code(stage, 2)},\n" for stage in stages)
    return "\n".join(
        [
            f'"""{title}',
            "",
            say("Written by bimo finetune. Edit it, and run it again with:"),
            "",
            f"{INDENT}{command}",
            '"""',
            "",
            "from dataclasses import replace",
            "",
            *imports,
            "",
            f"base = registry.recipe({_text(model)})",
            "",
            f"{NAME} = replace(",
            f"{INDENT}base,",
            f"{INDENT}prompts={_code(tuple(prompts), 1)},",
            f"{INDENT}stages=(",
            f"{staged}{INDENT}),",
            ")",
            "",
        ]
    )


def _imports(values: Iterable[Any]) -> Iterable[tuple[str, str]]:
    """(module, name) of every part in some values."""
    yield "bimo.hub", "registry"
    for value in values:
        if isinstance(value, Part):
            yield type(value).__module__, type(value).__name__
            yield from _imports(getattr(value, field.name) for field in _fields_to_write(value))
        elif isinstance(value, (tuple, list)):
            yield from _imports(cast("Sequence[Any]", value))


def _by_module(names: Iterable[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    modules: dict[str, list[str]] = {}
    for module, name in names:
        modules.setdefault(module, []).append(name)
    return sorted(modules.items())


def _fields_to_write(part: Part) -> list[dataclasses.Field[Any]]:
    """The fields of a part that differ from their defaults, and of a stage those that are edited most, first."""
    always = FIRST if isinstance(part, Stage) else ()
    return [
        field
        for field in dataclasses.fields(part)
        if field.name in always or getattr(part, field.name) != _default(field)
    ]


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _code(value: Any, depth: int) -> str:
    """A value as Python, on one line where it fits."""
    line = _line(value)
    if len(line) + len(INDENT) * depth <= WIDTH and not isinstance(value, Stage):
        return line
    inner, outer = INDENT * (depth + 1), INDENT * depth
    if isinstance(value, Part):
        arguments = [
            f"{field.name}={_code(getattr(value, field.name), depth + 1)}" for field in _fields_to_write(value)
        ]
        return f"{type(value).__name__}(\n" + "".join(f"{inner}{one},\n" for one in arguments) + f"{outer})"
    if isinstance(value, tuple):
        items = cast("tuple[Any, ...]", value)
        return "(\n" + "".join(f"{inner}{_code(item, depth + 1)},\n" for item in items) + f"{outer})"
    return line


def _line(value: Any) -> str:
    if isinstance(value, Part):
        arguments = [f"{field.name}={_line(getattr(value, field.name))}" for field in _fields_to_write(value)]
        return f"{type(value).__name__}({', '.join(arguments)})"
    if isinstance(value, tuple):
        items = [_line(item) for item in cast("tuple[Any, ...]", value)]
        return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
    return _text(value) if isinstance(value, str) else repr(value)


def _text(value: str) -> str:
    """A text in double quotes."""
    quoted = repr(value)
    return f'"{quoted[1:-1]}"' if quoted.startswith("'") and '"' not in value else quoted
