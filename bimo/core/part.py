"""A part is a frozen, keyword-only dataclass that names a piece. In JSON it has a short name of its own."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import json
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self, TypeVar, cast

from bimo.core import earlier_names
from bimo.core.errors import RecipeError
from bimo.core.messages import Listed, Message
from bimo.core.part_names import PART_NAMES

KIND = "kind"
#: How many choices are listed where none is near.
SHOWN = 16


def nearest(word: str, choices: Iterable[str], count: int = 3, cutoff: float = 0.5) -> tuple[str, ...]:
    """The choices most like a word, best first: what "did you mean" offers."""
    return tuple(difflib.get_close_matches(word, list(choices), n=count, cutoff=cutoff))


def meant(word: str, choices: Iterable[str]) -> Message:
    """ "; did you mean a, b?"; where nothing is near the whole choice, of many the nearest."""
    every = list(choices)
    if near := nearest(word, every):
        return Message("; did you mean {near}?", near=Listed(near))
    if len(every) > SHOWN:
        least = nearest(word, every, cutoff=0.0)
        return Message("; of {count} the nearest are {least}", count=len(every), least=Listed(least))
    return Message("; there is {every}", every=Listed(every))


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a recipe is made of. A part that is a module also has ``build()``, in the file of the module it builds.

    Every field is plain data (numbers, strings, tuples, mappings, other parts), so that a part dumps to JSON with
    every field filled in and loads back equal.
    """

    def __post_init__(self) -> None:
        hints = _hints(type(self))
        for field in fields(self):
            value = getattr(self, field.name)
            if not fits(value, hints[field.name]):
                expected = _readable(hints[field.name])
                raise RecipeError(
                    "{name}.{name_2} is {value!r}; expected {expected}",
                    name=type(self).__name__,
                    name_2=field.name,
                    value=value,
                    expected=expected,
                )

    def tiny(self) -> Self:
        """The same structure at toy width. Containers shrink what they hold; a part with widths overrides this."""
        return dataclasses.replace(self, **{f.name: _tiny(getattr(self, f.name)) for f in fields(self)})


P = TypeVar("P", bound=Part)


def kind_of(part: Part | type[Part]) -> str:
    """The name of a part in JSON: "Latent"; of a class that is not this package's, where it is imported from."""
    cls = part if isinstance(part, type) else type(part)
    place = f"{cls.__module__}:{cls.__qualname__}"
    return cls.__qualname__ if PART_NAMES.get(cls.__qualname__) == place else place


def dump(value: Any) -> Any:
    """A part as JSON-ready data, every field filled in. Raises RecipeError on a value that is not plain data."""
    if isinstance(value, Part):
        return {KIND: kind_of(value)} | {f.name: dump(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): dump(v) for k, v in cast(Mapping[Any, Any], value).items()}
    if isinstance(value, (tuple, list)):
        return [dump(v) for v in cast("tuple[Any, ...]", value)]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise RecipeError("a recipe holds plain data only, not {value!r}", value=value)


def load(data: Any) -> Any:
    """The part that some dumped data describes. Imports classes of this package only: data must never choose code.

    Raises RecipeError for a kind that is not a part of this package and for a field that the part does not have.
    """
    if isinstance(data, dict):
        table = cast(dict[str, Any], data)
        if KIND not in table:
            return {k: load(v) for k, v in table.items()}
        cls = _class_of(table[KIND])
        given = dict(_field_of_now(cls.__qualname__, k, load(v)) for k, v in table.items() if k != KIND)
        names = {f.name for f in fields(cls)}
        for name in given:
            if name not in names:
                near = meant(name, sorted(names))
                raise RecipeError("{name} has no field {name_2!r}{near}", name=cls.__name__, name_2=name, near=near)
        needed = [f.name for f in fields(cls) if f.default is _MISSING and f.default_factory is _MISSING]
        absent = [name for name in needed if name not in given]
        if absent:
            raise RecipeError("{name} lacks the fields {absent}", name=cls.__name__, absent=absent)
        return cls(**given)
    if isinstance(data, list):
        return tuple(load(v) for v in cast(list[Any], data))
    return data


def dumps(part: Part) -> str:
    """A part as indented JSON text, Chinese left readable."""
    return json.dumps(dump(part), ensure_ascii=False, indent=1)


def loads(text: str) -> Any:
    """The part in some JSON text. Raises RecipeError where it is not JSON, or as ``load`` does."""
    try:
        return load(json.loads(text))
    except json.JSONDecodeError as error:
        raise RecipeError("this is not JSON: {error}", error=error) from None
    except RecursionError:
        raise RecipeError("nested too deep for a recipe") from None


def changed(part: P, settings: Iterable[str], example: str) -> P:
    """The part with each "path=value" of a command line set. Raises RecipeError that shows ``example``."""
    for setting in settings:
        path, equals, value = setting.partition("=")
        if not equals:
            raise RecipeError(
                "--set is {setting!r}; expected path=value, for instance {example}", setting=setting, example=example
            )
        part = cast(P, override(part, path.strip(), value.strip()))
    return part


def override(part: Part, path: str, value: Any) -> Part:
    """The part with one field set by its path, as ``--set stages.1.lr=5e-6`` does.

    ``value`` may be text: it is read as JSON where that gives a value of the right type. Raises RecipeError for a path
    that leads nowhere.
    """
    return cast(Part, _override(part, path.split("."), value, path))


_MISSING = dataclasses.MISSING


def _override(node: Any, steps: list[str], value: Any, path: str) -> Any:
    if not steps:
        return value
    head, rest = steps[0], steps[1:]
    if isinstance(node, Part):
        names = [f.name for f in fields(node)]
        if head not in names:
            near = meant(head, names)
            raise RecipeError("{path}: no field {head!r}{near}", path=path, head=head, near=near)
        if not rest:
            value = _read(value, _hints(type(node))[head])
        return dataclasses.replace(node, **{head: _override(getattr(node, head), rest, value, path)})
    if isinstance(node, tuple):
        items = cast("tuple[Any, ...]", node)
        names = [str(i) for i in range(len(items))] + [
            str(vars(i).get("name", "")) if isinstance(i, Part) else "" for i in items
        ]
        if head not in names or not head:
            near = meant(head, [n for n in names if n])
            raise RecipeError("{path}: no item {head!r}{near}", path=path, head=head, near=near)
        at = names.index(head) % len(items)
        return (*items[:at], _override(items[at], rest, value, path), *items[at + 1 :])
    raise RecipeError("{path}: there is nothing below {head!r}", path=path, head=head)


def _read(value: Any, hint: Any) -> Any:
    if not isinstance(value, str) or fits(value, hint):
        return value
    try:
        read = load(json.loads(value))
    except json.JSONDecodeError:
        return value
    return read


def _class_of(kind: Any) -> type[Part]:
    name = earlier_names.PARTS.get(str(kind), str(kind))
    if name not in PART_NAMES:
        near = meant(name.rpartition(":")[2], PART_NAMES)
        raise RecipeError(
            "unknown part {kind!r}{near}; a recipe file may name parts of bimo only, write a .py recipe for your own",
            kind=kind,
            near=near,
        )
    module, _, cls = PART_NAMES[name].partition(":")
    return cast("type[Part]", getattr(importlib.import_module(module), cls))


def _field_of_now(kind: str, field: str, value: Any) -> tuple[str, Any]:
    """A field of a saved part and its value as they are called now."""
    field = earlier_names.FIELDS.get(kind, {}).get(field, field)
    values = earlier_names.VALUES.get((kind, field), {})
    return field, values.get(value, value) if isinstance(value, str) else value


_hints_of: dict[type, dict[str, Any]] = {}


def _hints(cls: type) -> dict[str, Any]:
    if cls not in _hints_of:
        _hints_of[cls] = typing.get_type_hints(cls)
    return _hints_of[cls]


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type: enough of typing for plain data (an int fits a float, not a bool)."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, h) for h in inside)
    if origin is typing.Literal:
        return value in inside
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        items = cast("tuple[Any, ...]", value)
        if len(inside) == 2 and inside[1] is Ellipsis:
            return all(fits(v, inside[0]) for v in items)
        return len(items) == len(inside) and all(fits(v, h) for v, h in zip(items, inside, strict=True))
    if origin is not None and issubclass(origin, Mapping):
        table = cast(Mapping[Any, Any], value)
        return isinstance(value, Mapping) and all(fits(k, inside[0]) and fits(v, inside[1]) for k, v in table.items())
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is None:
        return value is None
    return isinstance(value, hint)


def _readable(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")


def _tiny(value: Any) -> Any:
    if isinstance(value, Part):
        return value.tiny()
    if isinstance(value, tuple):
        return tuple(_tiny(v) for v in cast("tuple[Any, ...]", value))
    return value
