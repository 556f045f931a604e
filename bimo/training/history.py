"""The initial recipe and data of a run and their changes by step: RUN/history.json."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from bimo.core.errors import TrainingError
from bimo.core.files import write_whole
from bimo.core.messages import Message, say
from bimo.core.part import KIND, dump
from bimo.core.recipe import Recipe
from bimo.data.loader import Pictures
from bimo.diffusion.conditioner import Conditioner
from bimo.training.adapters.adapter import adapter_of
from bimo.training.objectives.objective import objective_of

HISTORY_FILE = "history.json"
#: Fields of a recipe for display only, which do not affect training.
DISPLAY_ONLY = ("title", "paper", "licence", "languages", "prompts")
#: Fields that cannot change during a stage: its name, what is trained by which optimiser, and what is held out.
FIXED = ("name", "level", "train", "optimiser", "fused_backward", "adapter", "validation")
#: Fields that can change at any time, as they do not affect what is trained.
FREE = ("sample_every", "save_every", "keep_last", "trackers", "log_every")
FEW = 6

#: Path -> (before, after).
Changes = dict[str, tuple[Any, Any]]


@dataclass
class Place:
    """The position of a run: its stage, and the steps of it that are done."""

    stage: int = 0
    step: int = 0


@dataclass(frozen=True)
class DataSummary:
    """The data of a run: its ``digest``, and how many rows have a picture and how many are text only."""

    digest: str
    pictures: int
    texts: int

    def __str__(self) -> str:
        if not self.texts:
            return say("{pictures} pictures", pictures=self.pictures)
        return say("{pictures} pictures and {texts} texts", pictures=self.pictures, texts=self.texts)


def summarize_data(pictures: Pictures, recipe: Recipe) -> DataSummary:
    """Describes data in a line; maps that the stages read count by names and sizes, since hashing their contents would
    take too long.
    """
    drawn = sum(all(size) for size in pictures.sizes)
    digest = pictures.digest
    for name in sorted(_maps(recipe)):
        own = hashlib.sha256(digest.encode())
        for home, key in zip(pictures.homes, pictures.keys, strict=True):
            path = home / "maps" / name / f"{key}.png"
            own.update(f"{name} {key} {path.stat().st_size if path.is_file() else -1}\n".encode())
        digest = own.hexdigest()
    return DataSummary(digest, drawn, len(pictures) - drawn)


def _maps(recipe: Recipe) -> set[str]:
    """The maps that the stages of a recipe read."""
    names: set[str] = set()
    for stage in recipe.stages:
        names.update(objective_of(stage).maps)
        for level in objective_of(stage).levels(stage):
            conditioners = cast("tuple[Conditioner, ...]", recipe.level(level).conditioners)
            names.update(name for each in conditioners for name in each.maps)
        if (adapter := adapter_of(stage)) is not None:
            names.update(adapter.maps)
    return names


@dataclass(frozen=True)
class Change:
    """A change of settings or data from a ``step`` of a ``stage`` on."""

    number: int
    stage: str
    step: int
    settings: Mapping[str, tuple[Any, Any]]
    data: tuple[DataSummary, DataSummary] | None = None

    def lines(self) -> list[str]:
        """The changes, one a line."""
        changes = [f"{path}: {_short(old)} → {_short(new)}" for path, (old, new) in self.settings.items()]
        if self.data is not None:
            changes.append(say("data: {data} → {data_2}", data=self.data[0], data_2=self.data[1]))
        return changes


@dataclass(frozen=True)
class History:
    """The current data of a run, None if an older version recorded none, and its changes in order."""

    data: DataSummary | None = None
    changes: tuple[Change, ...] = ()

    def with_change(self, change: Change) -> History:
        """The history with one more change; it replaces an unused one at the same position and paths."""
        changes = self.changes
        if changes and replace(changes[-1], settings={}, data=None) == replace(change, settings={}, data=None):
            same = changes[-1].settings.keys() == change.settings.keys()
            if same and (changes[-1].data is None) == (change.data is None):
                changes = changes[:-1]
        return replace(self, changes=(*changes, change))

    def write(self, out: Path) -> None:
        """Writes history.json."""
        record = {
            "data": None if self.data is None else asdict(self.data),
            "changes": [asdict(change) for change in self.changes],
        }
        write_whole(out / HISTORY_FILE, json.dumps(record, ensure_ascii=False, indent=1).encode())


def read_history(out: Path) -> History:
    """The history of a run, empty if there is none. Raises TrainingError if it is damaged."""
    path = out / HISTORY_FILE
    if not path.is_file():
        return History()
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        changes = [
            Change(
                one["number"],
                one["stage"],
                one["step"],
                {name: (old, new) for name, (old, new) in one["settings"].items()},
                None if one["data"] is None else (DataSummary(**one["data"][0]), DataSummary(**one["data"][1])),
            )
            for one in record["changes"]
        ]
        return History(None if record["data"] is None else DataSummary(**record["data"]), tuple(changes))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(
            "cannot read {path} ({error}); without it the run goes on, but not knowing whether its data is the same",
            path=path,
            error=error,
        ) from None


def differences(before: Any, after: Any, path: str = "") -> Changes:
    """The fields in which two recipes differ, by their paths as in ``--set``. Reworded notes are no difference, as they
    do not affect training.
    """
    return _differences(dump(before), dump(after), path)


def _differences(before: Any, after: Any, path: str) -> Changes:
    inside = f"{path}." if path else ""
    changes: Changes = {}
    if isinstance(before, dict) and isinstance(after, dict) and before.get(KIND) == after.get(KIND):  # pyright: ignore[reportUnknownMemberType]
        mine, yours = cast("dict[str, Any]", before), cast("dict[str, Any]", after)
        for name in (name for name in dict.fromkeys((*mine, *yours)) if name != "note"):
            changes |= _differences(mine.get(name), yours.get(name), f"{inside}{name}")
        return changes
    if isinstance(before, list) and isinstance(after, list):
        first, second = cast("list[Any]", before), cast("list[Any]", after)
        if len(first) == len(second) or path == "stages":
            for place in range(max(len(first), len(second))):
                one, other = (some[place] if place < len(some) else None for some in (first, second))
                changes |= _differences(one, other, f"{inside}{place}")
            return changes
    return changes if before == after else {path: (before, after)}


def same_recipe(before: Recipe, recipe: Recipe, place: Place, out: Path, from_here: bool) -> Changes:
    """The changes of a run at the position ``place``; none if the recipe is the same.

    Raises TrainingError for another recipe, for changes without permission, and for changes that are impossible at this
    position.
    """
    changes = {path: value for path, value in differences(before, recipe).items() if not _is_free(path)}
    if not changes:
        return {}
    listed = _listed(changes)
    strange = [path for path in changes if path.split(".")[0] not in (*DISPLAY_ONLY, "stages")]
    if strange:
        raise TrainingError(
            "{out} holds the run of another recipe (what differs: {listed}); take another folder, or delete it first",
            out=out,
            listed=listed,
        )
    if not from_here:
        at = position(before, place)
        if not _can_change(changes, before, place, out):
            raise TrainingError(
                "the run in {out} is of another recipe (what differs: {listed}); it stands at {at}: leave the "
                "changes out, or take another folder and begin it with these weights by --start {out} "
                "(bimo finetune: -m {out})",
                out=out,
                listed=listed,
                at=at,
            )
        raise TrainingError(
            "the run in {out} is of another recipe (what differs: {listed}); it stands at {at}: add "
            "--from-here to have the new settings from there on, leave the changes out to go on as it was, "
            "or take another folder",
            out=out,
            listed=listed,
            at=at,
        )
    for path in changes:
        _check_path(path, before, place, out)
    now = recipe.stages[place.stage] if place.stage < len(recipe.stages) else None
    if now is not None and place.step > now.steps:
        raise TrainingError(
            "{out} stands at {standing}, so {steps} steps are past; let steps be {step} or more",
            out=out,
            standing=position(before, place),
            steps=now.steps,
            step=place.step,
        )
    return changes


def _is_free(path: str) -> bool:
    names = path.split(".")
    return len(names) > 2 and names[0] == "stages" and names[2] in FREE


def _can_change(changes: Changes, recipe: Recipe, place: Place, out: Path) -> bool:
    try:
        for path in changes:
            _check_path(path, recipe, place, out)
    except TrainingError:
        return False
    return True


def _check_path(path: str, recipe: Recipe, place: Place, out: Path) -> None:
    head, *rest = path.split(".")
    if head != "stages":
        return
    number = int(rest[0])
    name = recipe.stages[number].name if number < len(recipe.stages) else ""
    if number < place.stage:
        raise TrainingError(
            "{path} cannot be changed: stage {name!r} of {out} is done; only stages that are not can be",
            path=path,
            name=name,
            out=out,
        )
    if number > place.stage or not place.step or not name:
        return
    field = rest[1] if len(rest) > 1 else ""
    if not field or field in FIXED or rest[1:] == ["objective"]:
        raise TrainingError(
            "{path} cannot be changed: {step} steps of stage {name!r} are done, and it is no other stage "
            "half way; begin in another folder from the weights as they are, by --start {out} "
            "(bimo finetune: -m {out})",
            path=path,
            step=place.step,
            name=name,
            out=out,
        )


def same_data(
    history: History, now: DataSummary, out: Path, accepted: bool, done: bool = False
) -> tuple[DataSummary, DataSummary] | None:
    """The data before and now, None if it is the same or was never recorded.

    Raises TrainingError if it changed and that was not ``accepted``, or the run is ``done`` and learns nothing more.
    """
    before = history.data
    if before is None or before.digest == now.digest:
        return None
    if done:
        raise TrainingError(
            "the run in {out} is done, with {before}, and learns nothing of other data; to learn {now} take another "
            "folder, and begin it with these weights by --start {out} (bimo finetune: -m {out}) if they are to be kept",
            out=out,
            before=before,
            now=now,
        )
    if accepted:
        return before, now
    alike = (before.pictures, before.texts) == (now.pictures, now.texts)
    near = Message(", as many, of other content or order") if alike else ""
    raise TrainingError(
        "the data was exchanged since the run in {out} began: it had {before}, now there are "
        "{now}{near}; give the data of before, or add --accept-new-data to go on with the new one, "
        "which is put on record",
        out=out,
        before=before,
        now=now,
        near=near,
    )


def position(recipe: Recipe, place: Place) -> str:
    """The position of a run in words."""
    if place.stage >= len(recipe.stages):
        return say("its end, with all stages done")
    name = recipe.stages[place.stage].name
    return say("step {step} of stage {stage}, {name!r}", step=place.step, stage=place.stage + 1, name=name)


def _listed(changes: Changes) -> str:
    lines = [f"{path} {_short(old)} → {_short(new)}" for path, (old, new) in changes.items()]
    more = len(lines) - FEW
    return ", ".join(lines[:FEW]) + (say(" and {more} more", more=more) if more > 0 else "")


def _short(value: Any) -> str:
    """A value as ``--set`` takes it; of a part its name alone."""
    if value is None:
        return say("none")
    if isinstance(value, Mapping):
        table = cast("Mapping[str, Any]", value)
        return str(table.get(KIND, "")).rpartition(":")[2]
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def describe_changes(history: History) -> Sequence[tuple[str, Sequence[str]]]:
    """(position, change) of every change, for display."""
    return [
        (
            say(
                "from step {step} of stage {number}, {stage!r}",
                step=change.step,
                number=change.number + 1,
                stage=change.stage,
            ),
            change.lines(),
        )
        for change in history.changes
    ]
