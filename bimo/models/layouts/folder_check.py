"""What a folder in diffusers' layout lacks to be loaded: its classes one by one, its recipe, its files."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from bimo.core.errors import BimoError, RecipeError, RequestError, WeightsError
from bimo.core.messages import Listed, Message
from bimo.models.layouts.diffusers_folder import INDEX_FILE, Folder, Reading, reading_of
from bimo.models.layouts.export import forms
from bimo.models.layouts.pipelines import FAMILIES, family_of
from bimo.models.layouts.weight_files import files_of

SCHEDULER = "scheduler"
#: Libraries whose installed version is asked for the classes in an index.
LIBRARIES = ("diffusers", "transformers")
#: The components that distinguish families.
DISTINCTIVE = ("unet", "transformer", "text_encoder", "text_encoder_2")
#: A library and its classes that a reader supports for a component.
Wanted = tuple[str, tuple[str, ...]]


class State(StrEnum):
    """The support of a component."""

    read = "read"
    beside = "beside"
    unread = "unread"
    not_installed = "not installed"
    other = "other"
    absent = "absent"


#: The states in which a folder cannot be loaded.
LACKING = (State.unread, State.not_installed, State.other, State.absent)


@dataclass(frozen=True)
class Component:
    """A component of an index with its library and class, "" if the index lacks it; ``why`` explains its state."""

    name: str
    library: str
    cls: str
    state: State
    why: Message

    @property
    def lacking(self) -> bool:
        """Whether the folder cannot be loaded because of it."""
        return self.state in LACKING


@dataclass(frozen=True)
class FolderCheck:
    """A folder's pipeline, its recipe ("" for none), its components and the error of reading it.

    ``nearest`` is the supported pipeline with most of its classes, "" if none shares its denoiser or a text encoder.
    """

    path: Path
    pipeline: str
    recipe: str
    note: str
    nearest: str
    components: tuple[Component, ...]
    error: BimoError | None

    @property
    def lacking(self) -> list[Component]:
        """The components because of which it cannot be loaded."""
        return [component for component in self.components if component.lacking]

    @property
    def exit_status(self) -> int:
        """0 if it can be loaded, else the exit status of the error on loading."""
        if self.error is not None:
            return self.error.exit_status
        return WeightsError.exit_status if self.lacking else 0

    @property
    def sentence(self) -> Message:
        """The result in one sentence."""
        values: dict[str, Any] = {"folder": self.path, "pipeline": self.pipeline, "recipe": self.recipe}
        values |= {"note": self.note, "missing": Listed(component.name for component in self.lacking)}
        if self.error is None:
            if not self.lacking:
                return Message(
                    "{folder} is whole: all classes of its {pipeline} are known, and it is drawn as the recipe "
                    "{recipe} ({note})",
                    **values,
                )
            return Message(
                "all classes of {folder} are known, and it would be the recipe {recipe} ({note}), but files are "
                "missing of: {missing}; download the folder whole",
                **values,
            )
        values |= {"known": len(self.components) - len(self.lacking), "count": len(self.components)}
        values |= {"error": self.error.message, "near": ""}
        if not self.lacking:
            return Message(
                "all {count} classes of {folder} are known, but it is not drawn: {error}",
                **values,
            )
        if self.nearest not in ("", self.pipeline):
            values["near"] = Message("; most like it is a {nearest}", nearest=self.nearest)
        return Message(
            "no recipe draws {folder}, a {pipeline}: {known} of its {count} classes are known; missing are: "
            "{missing}{near}",
            **values,
        )


def check(path: Path) -> FolderCheck:
    """What a folder is and lacks, by its index, its configs and the names of its files; no weights are read.

    Raises RequestError for what is no folder, WeightsError for a folder without an index.
    """
    if path.is_file():
        raise RequestError(
            "{path} is a file, and what is checked is a folder in diffusers' layout; a single file is told when it is "
            "loaded: -m {path}",
            path=path,
        )
    if not path.is_dir():
        raise RequestError("there is no folder {path}; name the one that {index} is in", path=path, index=INDEX_FILE)
    if not (path / INDEX_FILE).is_file():
        raise WeightsError(
            "{path} has no {index}: it is no folder in diffusers' layout, or was not downloaded whole; name the folder "
            "that {index} is in",
            path=path,
            index=INDEX_FILE,
        )
    folder = Folder.at(path)
    trials = {family: _demands(folder, family) for family in FAMILIES}
    reading: Reading | None = None
    error: BimoError | None = None
    try:
        reading = reading_of(path)
    except (RecipeError, WeightsError) as raised:
        error = raised
    if reading is not None:
        components = _of_reading(folder, reading)
    else:
        own = family_of(folder.pipeline)
        components = _of_trials(folder, trials, trials[own] if own else None)
    return FolderCheck(
        path,
        folder.pipeline,
        reading.recipe.name if reading else "",
        reading.recipe.note if reading else "",
        _nearest(folder, trials),
        tuple(components),
        error,
    )


@dataclass(frozen=True)
class _RecordingFolder(Folder):
    """A folder that records which classes a family's reader demands, and answers with one that it supports."""

    asked: dict[str, Wanted] = field(default_factory=dict[str, Wanted])

    def demand(self, component: str, library: str, classes: Sequence[str]) -> str:
        """The class of a component, or the first supported one."""
        self.asked[component] = (library, tuple(classes))
        own_library, cls = self.classes.get(component, ("", ""))
        return cls if own_library == library and cls in classes else classes[0]


def _demands(folder: Folder, family: str) -> _RecordingFolder:
    """The demands of a family's reader on a folder, as far as it got, and the classes that the family
    is exported with.
    """
    trial = _RecordingFolder(folder.path, family, folder.classes, folder.index)
    module: Any = importlib.import_module(FAMILIES[family])
    # The reader of another family may fail at the configs in any way; what it demanded before that counts.
    with contextlib.suppress(Exception):
        module.reading(trial)
    for form in module.FORMS:
        if form.pipeline == family:
            trial.asked.setdefault(form.component, ("diffusers", (form.denoiser,)))
            for name, cls in zip(("text_encoder", "text_encoder_2"), form.text_encoders, strict=False):
                trial.asked.setdefault(name, ("transformers", (cls,)))
    return trial


def _of_reading(folder: Folder, reading: Reading) -> list[Component]:
    """The components of a folder that can be read; required ones without files are absent."""
    needed = {filling.component for filling in reading.fillings}
    aside = {*reading.tokenizers, *reading.configs}
    components: list[Component] = []
    for name, (library, cls) in folder.classes.items():
        wanted: object = None
        if name in needed:
            try:
                files_of(folder.path / name)
            except WeightsError as error:
                wanted = error.message
        elif name in aside and not _has_files(folder.path / name):
            wanted = Message("there are no files in {folder}", folder=folder.path / name)
        used = name in needed or name in aside or name == SCHEDULER
        state = State.absent if wanted else State.read if used else State.beside
        components.append(_component(name, library, cls, state, wanted))
    return components


def _of_trials(folder: Folder, trials: Mapping[str, _RecordingFolder], own: _RecordingFolder | None) -> list[Component]:
    """The components of a folder that cannot be read, by the demands of all families; ``own`` are those
    of its family.
    """
    known = {(library, cls) for trial in trials.values() for library, every in trial.asked.values() for cls in every}
    known |= {("transformers", cls) for form in forms() for cls in form.text_encoders}
    known |= {("diffusers", form.denoiser) for form in forms()}
    demanded = own.asked if own else {}
    components: list[Component] = []
    for name, (library, cls) in folder.classes.items():
        wanted = demanded.get(name)
        if (library, cls) in known or (name == SCHEDULER and _installed(library, cls)):
            state = State.read if wanted is None or _matches(wanted, library, cls) else State.other
        else:
            state = State.unread if _installed(library, cls) else State.not_installed
        components.append(_component(name, library, cls, state, _classes(wanted)))
    absent = [name for name in demanded if name not in folder.classes]
    components += [_component(name, "", "", State.absent, _classes(demanded[name])) for name in absent]
    return components


def _nearest(folder: Folder, trials: Mapping[str, _RecordingFolder]) -> str:
    """The family with most of a folder's classes, including its denoiser or a text encoder; "" for none."""
    best, most = "", 0
    for family, trial in trials.items():
        shared = {name for name, wanted in trial.asked.items() if _matches(wanted, *folder.classes.get(name, ("", "")))}
        if shared & set(DISTINCTIVE) and len(shared) > most:
            best, most = family, len(shared)
    return best


def _matches(wanted: Wanted, library: str, cls: str) -> bool:
    return library == wanted[0] and cls in wanted[1]


def _classes(wanted: Wanted | None) -> Listed:
    library, every = wanted or ("", ())
    return Listed((f"{library}.{cls}" for cls in every), between="or")


def _component(name: str, library: str, cls: str, state: State, wanted: object = None) -> Component:
    why = {
        State.read: Message("read here"),
        State.beside: Message("not needed"),
        State.unread: Message("the installed {library} has it, no recipe here reads it", library=library),
        State.not_installed: Message(
            "neither read here nor installed: of a newer {library}, or code of the folder", library=library
        ),
        State.other: Message("its pipeline is read with {wanted}", wanted=wanted),
        State.absent: Message("missing: {wanted}", wanted=wanted),
    }
    return Component(name, library, cls, state, why[state])


def _installed(library: str, cls: str) -> bool:
    return library in LIBRARIES and hasattr(importlib.import_module(library), cls)


def _has_files(folder: Path) -> bool:
    return folder.is_dir() and any(path.is_file() for path in folder.iterdir())
