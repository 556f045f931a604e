"""What people type, drawn and looked at: sheets of the 300 prompts of `typed.tsv` by kind, and what share of the
pictures is not a smear to somebody who looks.

Whether a picture shows what was asked no judge here can say of verses, idioms and cities: a person does, in the table
that is written beside the sheets. `alike` helps to find where a model answers different prompts with one picture.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bimo.core.errors import DataError
from bimo.core.files import write_whole
from bimo.data.sheets import sheet
from bimo.engine.engine import Engine
from bimo.evaluation.intervals import Interval, wilson
from bimo.xiaomo.tables import read_table

TABLE = "looked.tsv"
COLUMNS = ("number", "kind", "prompt", "alike", "seen")
#: Of a prompt of which the model learned no word: it is refused and not drawn.
REFUSED = "refused"
#: What may stand in the last column: what was asked, something else, nothing that one could name, or no picture.
ANSWERS = ("yes", "no", "smear", REFUSED)
#: Pictures are compared at so many pixels a side.
SMALL = 32
#: Width and height of a picture on a sheet.
SHOWN = (192, 192)
ACROSS = 8


@dataclass(frozen=True)
class Typed:
    """A prompt, and which kind of prompt it is."""

    kind: str
    prompt: str


def typed() -> list[Typed]:
    """The prompts in the order of the table."""
    return [Typed(row["kind"], row["prompt"]) for row in read_table("", "typed.tsv")]


@dataclass(frozen=True)
class Shares:
    """Of all prompts of a kind: those drawn as no smear, those drawn as what was asked, and those refused."""

    clear: Interval
    right: Interval
    refused: Interval


def draw_typed(
    engine_for: Callable[[str], Engine],
    out: Path,
    prompts: Sequence[Typed],
    seed: int = 1,
    tell: Callable[[str], None] | None = None,
) -> Path:
    """Draws each prompt once by its engine, a sheet a kind into ``out``, and the table to be filled in, whose path it
    answers. A prompt of which the engine's model learned no word is refused and left white. A table that is there
    already keeps its answers.
    """
    images: list[Image.Image] = []
    refused: set[int] = set()
    for number, one in enumerate(prompts):
        engine = engine_for(one.prompt)
        prepared = engine.prepare({"text": one.prompt, "seed": seed})
        if prepared.nothing_known:
            refused.add(number)
            images.append(Image.new("RGB", prepared.request.size or (SMALL, SMALL), "white"))
        else:
            images.append(engine.draw(prepared)[0].image.convert("RGB"))
        if tell is not None and number % 20 == 19:
            tell(f"{number + 1}/{len(prompts)}")
    for kind in dict.fromkeys(one.kind for one in prompts):
        numbers = [number for number, one in enumerate(prompts) if one.kind == kind]
        titles = [f"{number + 1} {prompts[number].prompt}" for number in numbers]
        sheet([images[number].resize(SHOWN) for number in numbers], titles, out / f"{kind}.png", ACROSS)
    path = out / TABLE
    answers = {(kind, prompt): seen for kind, prompt, seen in _answers(path)} if path.is_file() else {}
    rows: list[list[str]] = []
    for number, (one, near) in enumerate(zip(prompts, alike(images), strict=True)):
        seen = REFUSED if number in refused else answers.get((one.kind, one.prompt), "").replace(REFUSED, "")
        rows.append([str(number + 1), one.kind, one.prompt, f"{near:.3f}", seen])
    write_whole(path, _written([list(COLUMNS), *rows]).encode())
    return path


def alike(images: Sequence[Image.Image]) -> list[float]:
    """How near each picture is to the nearest of the others: their mean difference of 0..1 at 32 x 32, in colour. Of a
    model that answers everything alike these are small.
    """
    small = [np.asarray(image.convert("RGB").resize((SMALL, SMALL)), np.float32) / 255 for image in images]
    stack = np.stack(small).reshape(len(small), -1)
    found: list[float] = []
    for number, one in enumerate(stack):
        others = np.delete(stack, number, axis=0)
        found.append(float(np.abs(others - one).mean(1).min()) if len(others) else 1.0)
    return found


def counted(path: Path) -> Mapping[str, Shares]:
    """The shares of a filled-in table, by kind and in all ("all"), each with its interval. Raises DataError where an
    answer is missing or is none.
    """
    seen_of: dict[str, Counter[str]] = {}
    for number, (kind, prompt, seen) in enumerate(_answers(path), 1):
        if seen not in ANSWERS:
            raise DataError(
                "row {number} of {path} ({prompt}) says {seen!r}; write yes, no, smear or refused",
                number=number,
                path=path,
                prompt=prompt,
                seen=seen,
            )
        for name in (kind, "all"):
            seen_of.setdefault(name, Counter())[seen] += 1
    return {
        name: Shares(*(wilson(count, seen.total()) for count in (seen["yes"] + seen["no"], seen["yes"], seen[REFUSED])))
        for name, seen in seen_of.items()
    }


def _answers(path: Path) -> list[tuple[str, str, str]]:
    """(kind, prompt, answer) of each row."""
    try:
        table = csv.DictReader(io.StringIO(path.read_text("utf-8-sig")), delimiter="\t")
        rows = [dict.fromkeys(COLUMNS, "") | row for row in table]
        if not set(COLUMNS) <= set(table.fieldnames or ()):
            raise KeyError(", ".join(COLUMNS))
        return [(row["kind"], row["prompt"], (row["seen"] or "").strip()) for row in rows]
    except (OSError, KeyError, UnicodeDecodeError) as error:
        raise DataError(
            "{path} is no table of what was seen ({error}); have it drawn again", path=path, error=error
        ) from None


def _written(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter="\t", lineterminator="\n").writerows(rows)
    return text.getvalue()
