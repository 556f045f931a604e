"""What stages will want of the data, looked for before the first step of the first: all that is missing, at once."""

from __future__ import annotations

import fnmatch
import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

from bimo.core.checkpoint_io import unfilled
from bimo.core.errors import BimoError, DataError, RecipeError, TrainingError, say
from bimo.core.part import Part
from bimo.core.recipe import Recipe, Stage
from bimo.data.loader import Pictures
from bimo.diffusion.system import System
from bimo.training.checks import REMEDY, UNSUITED, Reading, readings, sampled, too_much
from bimo.training.objectives.rewards import Judges
from bimo.training.optimizers import chosen
from bimo.training.train_inputs import Prospect, Vocabulary, refusals


def sized(recipe: Recipe, pictures: Pictures) -> Recipe:
    """The recipe with the system's own size for stages that want pictures of one and say none, where the data has
    several sizes, or one that the system cannot see. Said once for all of them.
    """
    seen = {size for size in pictures.sizes if all(size)}
    unit = _unit(recipe)
    if not seen or (len(seen) == 1 and not any(side % unit for side in next(iter(seen)))):
        return recipe
    open_ = [s for s in recipe.stages if _sees_pictures(s) and s.size is None and not s.buckets]
    if not open_:
        return recipe
    size = recipe.request.size
    stages = tuple(replace(s, size=size) if s in open_ else s for s in recipe.stages)
    found = say(f"{len(seen)} 种", f"{len(seen)} sizes") if len(seen) > 1 else f"{'x'.join(map(str, next(iter(seen))))}"
    print(
        say(
            f"图片的大小有{found}：{len(open_)} 个没写 size 的阶段按 {size[0]}x{size[1]} 学，"
            "中心裁切（换一个：--size 宽x高）",
            f"pictures are of {found}: stages that say no size ({len(open_)}) learn them at {size[0]}x{size[1]}, "
            "cut at the centre (another one: --size WIDTHxHEIGHT)",
        )
    )
    return replace(recipe, stages=stages)


def check_recipe(recipe: Recipe) -> None:
    """Raises RecipeError for a recipe that has nothing to learn."""
    if not recipe.stages:
        raise RecipeError(
            f"{recipe.name} 没有训练阶段，什么也不会学；要微调，请加 --tune lora（或 --tune full），"
            "或写一个带阶段的配方 ./mine.py:名字，再用 --start 从它的权重开始",
            f"{recipe.name} has no stages, so nothing would be learnt; to fine-tune it add --tune lora (or --tune "
            "full), or write a recipe with stages, ./mine.py:name, and begin from its weights by --start",
        )


def check_stages(
    system: System,
    stages: Sequence[tuple[int, Stage]],
    pictures: Pictures,
    vocabulary: Vocabulary,
    teacher: System | None,
    judges: Judges | None,
) -> None:
    """Raises an error that lists what each of the stages that are to come, by their numbers, lacks: of the kind of
    what is lacking, where that is one, else TrainingError.
    """
    found: dict[tuple[type[BimoError], str, str], list[int]] = {}
    read: dict[str, list[Reading]] = {}
    for number, stage in stages:
        prospect = Prospect(system, stage, pictures, vocabulary, teacher, judges or Judges())
        for lack in (*lacks(prospect), *_of_words(prospect, read)):
            found.setdefault((type(lack), lack.zh, lack.en), []).append(number)
    if not found:
        return
    names = {number: stage.name for number, stage in stages}
    without = sorted({number for numbers in found.values() for number in numbers})
    zh = "；".join(f"{_several(numbers, names)}：{zh}" for (_, zh, _), numbers in found.items())
    en = "; ".join(f"{_several(numbers, names)}: {en}" for (_, _, en), numbers in found.items())
    if len(without) < len(names):
        less = " ".join(f"--skip {shlex.quote(names[number])}" for number in without)
        zh, en = f"{zh}；或者略过它们：{less}", f"{en}; or leave them out: {less}"
    kinds = {kind for kind, _, _ in found}
    kind = kinds.pop() if len(kinds) == 1 else TrainingError
    raise kind(f"还没有开始：{zh}", f"nothing was begun yet: {en}")


def lacks(prospect: Prospect) -> Iterator[BimoError]:
    """What a stage lacks."""
    stage, system, pictures = prospect.stage, prospect.system, prospect.pictures
    objective: Any = stage.objective
    yield from _of_names(stage, system)
    if not stage.train and stage.adapter is None:
        yield RecipeError(
            "train 是空的，又没有 adapter，什么也不会学",
            "train is empty and there is no adapter: nothing would be learnt",
        )
    if _sees_pictures(stage):
        if not _drawn(pictures):
            yield DataError(
                "这份数据只有文字没有图片；请再给一份有图片的 --data",
                "these data are texts without pictures; give a --data with pictures besides",
            )
            return
        unit = _unit(system.recipe)
        wrong = [
            size for size in (*((stage.size,) if stage.size else ()), *stage.buckets) if any(s % unit for s in size)
        ]
        if wrong:
            yield RecipeError(
                f"大小 {wrong[0][0]}x{wrong[0][1]} 的边长不是 {unit} 的倍数",
                f"sides of the size {wrong[0][0]}x{wrong[0][1]} are no multiples of {unit}",
            )
        yield from _of_hints(stage, system, pictures)
    if hasattr(objective, "lacks"):
        yield from objective.lacks(prospect)


def _of_words(prospect: Prospect, read: dict[str, list[Reading]]) -> Iterator[BimoError]:
    """Captions that the towers hardly read, of objectives that learn from all captions as they are; ``read`` keeps what
    was read, by what stands before each.
    """
    stage, objective = prospect.stage, prospect.stage.objective
    if hasattr(objective, "lacks") or not getattr(objective, "reads_words", True) or not prospect.system.text_encoders:
        return
    sees = getattr(objective, "sees", "")
    rows = prospect.pictures if sees == "texts" or not _drawn(prospect.pictures) else prospect.pictures.drawn()
    captions = sampled(rows)
    prefix = prospect.system.recipe.request.prefix if sees == "latents" else ""
    if prefix not in read:
        read[prefix] = readings(prospect.system.text_encoders, captions, prefix)
    if listed := too_much(stage, captions, read[prefix]):
        yield TrainingError(
            f"{UNSUITED[0]}：{listed}；{REMEDY[0]}", f"the captions {UNSUITED[1]}: {listed}; {REMEDY[1]}"
        )


def _of_names(stage: Stage, system: System) -> Iterator[BimoError]:
    """Globs that match nothing of the system. What only training needs is known when its stage begins."""
    own = f"{type(stage.objective).__name__.lower()}."
    names = [name for name, _ in system.named_parameters()]
    for glob in stage.train:
        if not glob.startswith(own):
            yield from refusals(partial(chosen, names, (glob,)))
    for glob in cast("tuple[str, ...]", getattr(stage.adapter, "targets", ())):
        layers = [name.removesuffix(".weight") for name in names if name.endswith(".weight")]
        if not fnmatch.filter(layers, glob):
            yield RecipeError(f"adapter 的 {glob!r} 没有对应任何层", f"{glob!r} of the adapter matches no layer")


def _of_hints(stage: Stage, system: System, pictures: Pictures) -> Iterator[BimoError]:
    """Labels and maps that the hints of the stage's levels read of every picture."""
    if getattr(stage.objective, "sees", "") != "latents":
        return
    level = stage.level or str(getattr(stage.objective, "level", ""))
    names = dict.fromkeys((level, *getattr(stage.objective, "also", ()))) if level else ()
    hints = [hint for name in names for hint in system.level(name).conditioners]
    kinds: dict[str, set[str]] = {kind: {n for h in hints for n in getattr(h, kind, ())} for kind in ("labels", "maps")}
    adapter: Any = stage.adapter
    if getattr(adapter, "seen", "") == "map":
        kinds["maps"].add(adapter.name)
    drawn = [row for row, size in enumerate(pictures.sizes) if all(size)]
    for name in sorted(kinds["labels"]):
        without = sum(not isinstance(pictures.labels[row].get(name), (int, float)) for row in drawn)
        if without:
            yield DataError(
                f"{len(drawn)} 张图片里有 {without} 张没有标签 {name!r}；请给每张图片打好分再做数据",
                f"{without} of {len(drawn)} pictures have no label {name!r}; score every one and build the data again",
            )
    for name in sorted(kinds["maps"]):
        without = sum(not _map(pictures, name, row) for row in drawn)
        if without:
            yield DataError(
                f"{len(drawn)} 张图片里有 {without} 张没有 {name} 图（maps/{name}/ 下以图片命名的 png）",
                f"{without} of {len(drawn)} pictures have no {name} map (a png of their key below maps/{name}/)",
            )


def _drawn(pictures: Pictures) -> bool:
    return any(all(size) for size in pictures.sizes)


def _map(pictures: Pictures, name: str, row: int) -> bool:
    return (pictures.homes[row] / "maps" / name / f"{pictures.keys[row]}.png").is_file()


def _sees_pictures(stage: Stage) -> bool:
    return getattr(stage.objective, "sees", "texts") != "texts"


def _unit(recipe: Recipe) -> int:
    """What sides of a picture must be multiples of."""
    with unfilled():  # what a space is made of is not needed to know how much it shrinks a side
        spaces: list[Any] = [cast(Any, level.space).build() for level in recipe.levels if isinstance(level.space, Part)]
    return math.lcm(recipe.request.multiple, *(int(space.factor) for space in spaces))


def _several(numbers: Sequence[int], names: dict[int, str]) -> str:
    return ", ".join(f"stages.{number} {names[number]!r}" for number in numbers)
