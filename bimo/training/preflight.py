"""Checks the needs of all stages against the data before the first step, and reports everything that is missing at
once.
"""

from __future__ import annotations

import fnmatch
import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

from bimo.core.errors import BimoError, DataError, RecipeError, TrainingError
from bimo.core.messages import Listed, Message, say
from bimo.core.module_weights import unfilled
from bimo.core.part import Part
from bimo.core.recipe import Recipe, Stage
from bimo.core.stage_data import CaptionEdits
from bimo.data.loader import ALPHA, MASKS, Pictures
from bimo.diffusion.system import System
from bimo.training.adapters.adapter import adapter_of
from bimo.training.checks import REMEDY, UNSUITED, Reading, readings, sampled, too_much
from bimo.training.objectives.objective import objective_of
from bimo.training.objectives.rewards import Judges
from bimo.training.optimizer_classes import check_optimiser
from bimo.training.optimizers import chosen
from bimo.training.trackers import check_trackers
from bimo.training.train_inputs import Prospect, Vocabulary, refusals


def sized(recipe: Recipe, pictures: Pictures) -> Recipe:
    """The recipe with the system's own size for stages without one, if the data has several sizes or an unsupported
    one. Reported once for all of them.
    """
    sizes = {size for size in pictures.sizes if all(size)}
    unit = size_unit(recipe)
    if not sizes or (len(sizes) == 1 and not any(side % unit for side in next(iter(sizes)))):
        return recipe
    open_ = [s for s in recipe.stages if _sees_pictures(s) and s.size is None and not s.buckets]
    if not open_:
        return recipe
    size = recipe.request.size
    stages = tuple(replace(s, size=size) if s in open_ else s for s in recipe.stages)
    description = (
        say("{count} sizes", count=len(sizes)) if len(sizes) > 1 else f"{'x'.join(map(str, next(iter(sizes))))}"
    )
    print(
        say(
            "pictures are of {found}: stages that say no size ({count}) learn them at {size}x{size_2}, cut "
            "at the centre (another one: --size WIDTHxHEIGHT)",
            found=description,
            count=len(open_),
            size=size[0],
            size_2=size[1],
        )
    )
    return replace(recipe, stages=stages)


def check_recipe(recipe: Recipe) -> None:
    """Raises RecipeError for a recipe that trains nothing."""
    if not recipe.stages:
        raise RecipeError(
            "{name} has no stages, so nothing would be learnt; to fine-tune it add --tune lora (or --tune "
            "full), or write a recipe with stages, ./mine.py:name, and begin from its weights by --start",
            name=recipe.name,
        )


def check_stages(
    system: System,
    stages: Sequence[tuple[int, Stage]],
    pictures: Pictures,
    vocabulary: Vocabulary,
    teacher: System | None,
    judges: Judges | None,
) -> None:
    """Raises an error that lists what each of the remaining stages, by number, lacks: of the type of these errors if
    they share one, else TrainingError.
    """
    numbers_of: dict[tuple[type[BimoError], str], list[int]] = {}
    problem_of: dict[tuple[type[BimoError], str], BimoError] = {}
    read: dict[str, list[Reading]] = {}
    for number, stage in stages:
        prospect = Prospect(system, stage, pictures, vocabulary, teacher, judges or Judges())
        for problem in (*problems(prospect), *_unreadable_captions(prospect, read)):
            problem_of.setdefault((type(problem), problem.en), problem)
            numbers_of.setdefault((type(problem), problem.en), []).append(number)
    if not numbers_of:
        return
    names = {number: stage.name for number, stage in stages}
    without = sorted({number for numbers in numbers_of.values() for number in numbers})
    lacking: Message = Listed(
        (
            Message("{stages}: {problem}", stages=_several(numbers, names), problem=problem_of[key])
            for key, numbers in numbers_of.items()
        ),
        ";",
    )
    if len(without) < len(names):
        skips = " ".join(f"--skip {shlex.quote(names[number])}" for number in without)
        lacking = Message("{lacking}; or leave them out: {skips}", lacking=lacking, skips=skips)
    kinds = {kind for kind, _ in numbers_of}
    kind = kinds.pop() if len(kinds) == 1 else TrainingError
    raise kind(Message("nothing was begun yet: {lacking}", lacking=lacking))


def problems(prospect: Prospect) -> Iterator[BimoError]:
    """What a stage lacks: data, a teacher, layers that its globs name."""
    stage, system, pictures = prospect.stage, prospect.system, prospect.pictures
    objective = objective_of(stage)
    yield from _unmatched_globs(stage, system)
    yield from refusals(partial(check_optimiser, stage))
    yield from refusals(partial(check_trackers, stage))
    yield from _unvarying_rows(prospect)
    if not stage.train and stage.adapter is None:
        yield RecipeError("train is empty and there is no adapter: nothing would be learnt")
    if _sees_pictures(stage):
        if not _drawn(pictures):
            yield DataError("these data are texts without pictures; give a --data with pictures besides")
            return
        unit = size_unit(system.recipe)
        wrong = [
            size for size in (*((stage.size,) if stage.size else ()), *stage.buckets) if any(s % unit for s in size)
        ]
        if wrong:
            yield RecipeError(
                "sides of the size {wrong}x{wrong_2} are no multiples of {unit}",
                wrong=wrong[0][0],
                wrong_2=wrong[0][1],
                unit=unit,
            )
        yield from _missing_labels(stage, system, pictures)
    yield from objective.problems(prospect)


def _unreadable_captions(prospect: Prospect, read: dict[str, list[Reading]]) -> Iterator[BimoError]:
    """Captions that the text encoders read badly, for objectives that use all captions unchanged; ``read`` caches the
    results by the prefix of the captions.
    """
    stage, objective = prospect.stage, objective_of(prospect.stage)
    if objective.captions != "all" or not prospect.system.text_encoders:
        return
    sees = objective.sees
    rows = prospect.pictures if sees == "texts" or not _drawn(prospect.pictures) else prospect.pictures.drawn()
    captions = sampled(rows)
    prefix = prospect.system.recipe.request.prefix if sees == "latents" else ""
    if prefix not in read:
        read[prefix] = readings(prospect.system.text_encoders, captions, prefix)
    if listed := too_much(stage, captions, read[prefix]):
        yield TrainingError(
            "the captions {unsuited}: {listed}; {remedy}",
            unsuited=UNSUITED,
            listed=listed,
            remedy=REMEDY,
        )


def _unmatched_globs(stage: Stage, system: System) -> Iterator[BimoError]:
    """Globs that match nothing in the system. Modules for training only exist when their stage starts."""
    own = f"{objective_of(stage).prefix()}."
    names = [name for name, _ in system.named_parameters()]
    for glob in stage.train:
        if not glob.startswith(own):
            yield from refusals(partial(chosen, names, (glob,)))
    adapter = adapter_of(stage)
    for glob in () if adapter is None else adapter.layers():
        layers = [name.removesuffix(".weight") for name in names if name.endswith(".weight")]
        if not fnmatch.filter(layers, glob):
            yield RecipeError("{glob!r} of the adapter matches no layer", glob=glob)


def _unvarying_rows(prospect: Prospect) -> Iterator[BimoError]:
    """Variations of the rows that an objective ignores, or that would make labels wrong."""
    stage, objective = prospect.stage, objective_of(prospect.stage)
    variations = {
        "captions": stage.captions != CaptionEdits(),
        "augment": stage.augment.count > 1,
        "repeats": bool(stage.repeats),
    }
    requested = [name for name, wanted in variations.items() if wanted]
    if requested and not (objective.varies_rows and objective.sees == "latents"):
        yield RecipeError(
            "{fields} do nothing in {objective}, which does not learn from pictures of the data with their captions; "
            "leave them out",
            fields=", ".join(requested),
            objective=type(objective).__name__,
        )
    if stage.augment.flip and prospect.pictures.poses is not None:
        yield RecipeError(
            "flip of augment: the data says where things are in its pictures, so it stays off; leave it out"
        )


def _missing_labels(stage: Stage, system: System, pictures: Pictures) -> Iterator[BimoError]:
    """Labels and maps of the pictures that the conditioners of the stage's levels need and the data lacks."""
    objective = objective_of(stage)
    if objective.sees != "latents":
        return
    names = dict.fromkeys(objective.levels(stage))
    conditioners = [each for name in names for each in system.level(name).conditioners]
    labels = {name for each in conditioners for name in each.labels}
    maps = {name for each in conditioners for name in each.maps} | set(objective.maps)
    if (adapter := adapter_of(stage)) is not None:
        maps.update(adapter.maps)
    drawn = [row for row, size in enumerate(pictures.sizes) if all(size)]
    for name in sorted(labels):
        without = sum(not isinstance(pictures.labels[row].get(name), (int, float)) for row in drawn)
        if without:
            yield DataError(
                "{without} of {count} pictures have no label {name!r}; score every one and build the data again",
                without=without,
                count=len(drawn),
                name=name,
            )
    for name in sorted(maps):
        without = sum(not _map(pictures, name, row) for row in drawn)
        if name == ALPHA and without == len(drawn):
            yield DataError(
                "none of {count} pictures has an alpha channel, so a mask of it would leave nothing out; leave it out, "
                "or give pictures in which what does not count is transparent (PNG, WebP)",
                count=len(drawn),
            )
        elif name in MASKS and without == len(drawn):
            yield DataError(
                "none of {count} pictures has a mask beside it, so nothing would be left out; leave it out, or put "
                "cat-{name}.png beside cat.jpg, white where it counts",
                count=len(drawn),
                name=name,
            )
        elif name in MASKS:
            counts = {"count": len(drawn) - without, "whole": len(drawn)}
            alpha = say("{count} of {whole} pictures have an alpha channel; of the others all counts", **counts)
            beside = say("{count} of {whole} pictures have a mask beside them; of the others all counts", **counts)
            print(alpha if name == ALPHA else beside)
        elif without:
            yield DataError(
                "{without} of {count} pictures have no {name} map (a png of their key below maps/{name}/)",
                without=without,
                count=len(drawn),
                name=name,
            )


def _drawn(pictures: Pictures) -> bool:
    return any(all(size) for size in pictures.sizes)


def _map(pictures: Pictures, name: str, row: int) -> bool:
    return (pictures.homes[row] / "maps" / name / f"{pictures.keys[row]}.png").is_file()


def _sees_pictures(stage: Stage) -> bool:
    return objective_of(stage).sees != "texts"


def size_unit(recipe: Recipe) -> int:
    """Sides of a picture must be multiples of this."""
    with unfilled():  # the weights of a space are not needed to know its downsampling factor
        spaces: list[Any] = [cast(Any, level.space).build() for level in recipe.levels if isinstance(level.space, Part)]
    return math.lcm(recipe.request.multiple, *(int(space.factor) for space in spaces))


def _several(numbers: Sequence[int], names: dict[int, str]) -> str:
    return ", ".join(f"stages.{number} {names[number]!r}" for number in numbers)
