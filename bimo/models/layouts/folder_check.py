"""What a folder in diffusers' layout lacks to be drawn: its classes one by one, the recipe that it is, its files."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from bimo.core.errors import BimoError, RecipeError, WeightsError
from bimo.core.messages import Listed, Message
from bimo.models.layouts.diffusers_folder import Folder, Reading, reading_of
from bimo.models.layouts.export import forms
from bimo.models.layouts.pipelines import FAMILIES, family_of
from bimo.models.layouts.weight_files import files_of

SCHEDULER = "scheduler"
#: Libraries whose classes an index may name and whose installed version can be asked for one.
LIBRARIES = ("diffusers", "transformers")
#: The components by which families are told apart.
TELLING = ("unet", "transformer", "text_encoder", "text_encoder_2")
#: A library and the classes of it that a reader takes in a component's place.
Wanted = tuple[str, tuple[str, ...]]


class State(StrEnum):
    """What is known of a component."""

    read = "read"
    beside = "beside"
    unread = "unread"
    not_installed = "not installed"
    other = "other"
    absent = "absent"


#: Those of them without which nothing is drawn.
LACKING = (State.unread, State.not_installed, State.other, State.absent)


@dataclass(frozen=True)
class Component:
    """A component of an index by its library and class, "" where the index has none; ``why`` is said of its state."""

    name: str
    library: str
    cls: str
    state: State
    why: Message

    @property
    def lacking(self) -> bool:
        """Whether it is what the folder cannot be drawn for."""
        return self.state in LACKING


@dataclass(frozen=True)
class FolderCheck:
    """A folder's pipeline, the recipe it would be ("" for none), its components and the error of reading it.

    ``nearest`` is the pipeline that is read here and has most of its classes, "" where none has its denoiser or a text
    encoder.
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
        """What it cannot be drawn for."""
        return [component for component in self.components if component.lacking]

    @property
    def exit_status(self) -> int:
        """0 where it would be drawn, else that of the error that loading it would end with."""
        if self.error is not None:
            return self.error.exit_status
        return WeightsError.exit_status if self.lacking else 0

    @property
    def sentence(self) -> Message:
        """All of it in one sentence."""
        told: dict[str, Any] = {"folder": self.path, "pipeline": self.pipeline, "recipe": self.recipe}
        told |= {"note": self.note, "missing": Listed(component.name for component in self.lacking)}
        if self.error is None:
            if not self.lacking:
                return Message(
                    "{folder} is whole: all classes of its {pipeline} are known, and it is drawn as the recipe "
                    "{recipe} ({note})",
                    **told,
                )
            return Message(
                "all classes of {folder} are known, and it would be the recipe {recipe} ({note}), but files are "
                "missing of: {missing}; download the folder whole",
                **told,
            )
        told |= {"known": len(self.components) - len(self.lacking), "count": len(self.components)}
        told |= {"error": self.error.message, "near": ""}
        if not self.lacking:
            return Message(
                "all {count} classes of {folder} are known, but it is not drawn: {error}",
                **told,
            )
        if self.nearest not in ("", self.pipeline):
            told["near"] = Message("; most like it is a {nearest}", nearest=self.nearest)
        return Message(
            "no recipe draws {folder}, a {pipeline}: {known} of its {count} classes are known; missing are: "
            "{missing}{near}",
            **told,
        )


def check(path: Path) -> FolderCheck:
    """What a folder is and lacks, by its index, its configs and the names of its files; no weights are read.

    Raises WeightsError for a folder without an index.
    """
    folder = Folder.at(path)
    trials = {family: _trial(folder, family) for family in FAMILIES}
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
class _Trial(Folder):
    """A folder that a family's reader may read for what it asks of it: another class than it reads is written down, and
    taken for the one that it does.
    """

    asked: dict[str, Wanted] = field(default_factory=dict[str, Wanted])

    def demand(self, component: str, library: str, classes: Sequence[str]) -> str:
        """The class of a component, or the first that would do."""
        self.asked[component] = (library, tuple(classes))
        found, cls = self.classes.get(component, ("", ""))
        return cls if found == library and cls in classes else classes[0]


def _trial(folder: Folder, family: str) -> _Trial:
    """What the reader of a family asks of a folder, as far as it came, and what the family is written as."""
    trial = _Trial(folder.path, family, folder.classes, folder.index)
    module: Any = importlib.import_module(FAMILIES[family])
    # The reader of another family may fail at its configs in any way; what it asked until then is what is wanted.
    with contextlib.suppress(Exception):
        module.reading(trial)
    for form in module.FORMS:
        if form.pipeline == family:
            trial.asked.setdefault(form.component, ("diffusers", (form.denoiser,)))
            for name, cls in zip(("text_encoder", "text_encoder_2"), form.text_encoders, strict=False):
                trial.asked.setdefault(name, ("transformers", (cls,)))
    return trial


def _of_reading(folder: Folder, reading: Reading) -> list[Component]:
    """The components of a folder that is read: those that are needed have their files, or lack them."""
    needed = {filling.component for filling in reading.fillings}
    aside = {*reading.tokenizers, *reading.configs}
    made: list[Component] = []
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
        made.append(_component(name, library, cls, state, wanted))
    return made


def _of_trials(folder: Folder, trials: Mapping[str, _Trial], own: _Trial | None) -> list[Component]:
    """The components of a folder that is not read, by what any family reads; ``own`` is what its family asks for."""
    known = {(library, cls) for trial in trials.values() for library, every in trial.asked.values() for cls in every}
    known |= {("transformers", cls) for form in forms() for cls in form.text_encoders}
    known |= {("diffusers", form.denoiser) for form in forms()}
    asked = own.asked if own else {}
    made: list[Component] = []
    for name, (library, cls) in folder.classes.items():
        wanted = asked.get(name)
        if (library, cls) in known or (name == SCHEDULER and _installed(library, cls)):
            state = State.read if wanted is None or _is(wanted, library, cls) else State.other
        else:
            state = State.unread if _installed(library, cls) else State.not_installed
        made.append(_component(name, library, cls, state, _classes(wanted)))
    absent = [name for name in asked if name not in folder.classes]
    made += [_component(name, "", "", State.absent, _classes(asked[name])) for name in absent]
    return made


def _nearest(folder: Folder, trials: Mapping[str, _Trial]) -> str:
    """The family with most of a folder's classes, its denoiser or a text encoder among them; "" for none."""
    best, most = "", 0
    for family, trial in trials.items():
        shared = {name for name, wanted in trial.asked.items() if _is(wanted, *folder.classes.get(name, ("", "")))}
        if shared & set(TELLING) and len(shared) > most:
            best, most = family, len(shared)
    return best


def _is(wanted: Wanted, library: str, cls: str) -> bool:
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
