"""Measures of one model's pictures of a suite, per picture, and their means with intervals; those of text are in
``suite_text``.

A picture's value is None if a measure does not apply to it. Pictures of the same prompt are not independent, so the
bootstrap resamples prompts, not pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bimo.curation.steps import ModelStep, Pair, Scorer, Tools
from bimo.evaluation.intervals import Interval, bootstrap, share, wilson
from bimo.evaluation.judges.judge import Answer
from bimo.evaluation.metrics import similarity
from bimo.evaluation.progress import OnProgress
from bimo.evaluation.suite_drawings import Drawing, open_picture
from bimo.evaluation.suites.suite import Check, Prompt

BATCH = 16


@dataclass
class MeasuredPicture:
    """A picture with its prompt and the results of all measures. The image itself is read on demand."""

    prompt: Prompt
    drawing: Drawing
    path: Path
    values: dict[str, float | bool | None] = field(default_factory=dict[str, "float | bool | None"])
    read: tuple[str, ...] = ()
    answers: dict[str, list[tuple[Check, Answer]]] = field(default_factory=dict[str, "list[tuple[Check, Answer]]"])

    def image(self) -> Image.Image:
        """Reads the image. Raises ValueError if that is not possible any more."""
        image = open_picture(self.path)
        if image is None:
            raise ValueError(f"{self.path} cannot be read")
        return image


@dataclass(frozen=True)
class Number:
    """The "share" or "mean" of a measure over a group and a language ("" for all), with its interval."""

    measure: str
    group: str
    language: str
    unit: str
    interval: Interval

    @property
    def name(self) -> str:
        """ "dishes.zh.clip-zh similarity"."""
        return ".".join(part for part in (self.group, self.language, self.measure) if part)


def numbers(pictures: Sequence[MeasuredPicture], measure: str) -> list[Number]:
    """The numbers of a measure over all pictures of each language, and over each of their groups."""
    results: list[Number] = []
    for language in ("zh", "en"):
        in_language = [
            picture
            for picture in pictures
            if picture.prompt.language == language and picture.values.get(measure) is not None
        ]
        groups = list(dict.fromkeys(picture.prompt.group for picture in in_language))
        for group in ("", *(groups if len(groups) > 1 else ())):
            in_group = [picture for picture in in_language if group in ("", picture.prompt.group)]
            if in_group:
                results.append(_number(in_group, measure, group, language))
    return results


def _number(pictures: Sequence[MeasuredPicture], measure: str, group: str, language: str) -> Number:
    values: dict[str, list[float]] = {}
    kinds = {type(picture.values[measure]) for picture in pictures}
    for picture in pictures:
        value = picture.values[measure]
        assert value is not None
        values.setdefault(picture.prompt.key, []).append(float(value))
    means = [sum(scores) / len(scores) for scores in values.values()]
    if kinds == {bool}:
        single = all(len(scores) == 1 for scores in values.values())
        interval = share([value == 1 for value in means]) if single else bootstrap(means)
        return Number(measure, group, language, "share", interval)
    return Number(measure, group, language, "mean", bootstrap(means))


Vectors = NDArray[np.float32]


def picture_vectors(
    pictures: Sequence[MeasuredPicture], scorer: Scorer, on_progress: OnProgress, title: str
) -> Vectors:
    """CLIP embeddings [N, D] of pictures, in batches."""
    rows: list[Vectors] = []
    for first in range(0, len(pictures), BATCH):
        part = pictures[first : first + BATCH]
        rows.append(scorer.pictures([scorer.fitted(picture.image()) for picture in part]))
        on_progress(title, first + len(part), len(pictures))
    return np.concatenate(rows)


def measure_clip(pictures: Sequence[MeasuredPicture], vectors: Vectors, scorer: Scorer, language: str) -> None:
    """Sets CLIP similarity and CLIP-R with the prompts in the text encoder's language; for prompts in the other
    language their translation is used, if the suite has it.
    """
    prompts_in_language = {
        picture.prompt.pair or picture.prompt.key: picture.prompt.text
        for picture in pictures
        if picture.prompt.language == language
    }
    texts = {
        row: prompts_in_language.get(picture.prompt.pair or picture.prompt.key) for row, picture in enumerate(pictures)
    }
    rows = [row for row, text in texts.items() if text is not None]
    if not rows:
        return
    words = scorer.words([str(texts[row]) for row in rows])
    cosines = similarity.own_similarity(vectors[rows], words)
    right = similarity.clip_r(vectors[rows], words, [str(texts[row]) for row in rows])
    for row, cosine, first in zip(rows, cosines, right, strict=True):
        pictures[row].values[f"clip-{language} similarity"] = cosine
        pictures[row].values[f"clip-{language} r"] = first


def measure_agreement(pictures: Sequence[MeasuredPicture], vectors: Vectors, by: str) -> None:
    """Sets the similarity of pictures with the same seed: of a prompt and its translation, of a prompt and its other
    spellings, and, as a baseline, of a prompt and an unrelated one.
    """
    row_of = {(picture.prompt.key, picture.drawing.seed): row for row, picture in enumerate(pictures)}
    keys = list(dict.fromkeys(picture.prompt.key for picture in pictures if picture.prompt.language == "zh"))
    pairs: dict[str, list[tuple[int, int]]] = {"languages": [], "spellings": [], "others": []}
    for row, picture in enumerate(pictures):
        prompt, seed = picture.prompt, picture.drawing.seed
        if prompt.language == "en" and (other := row_of.get((prompt.pair, seed))) is not None:
            pairs["languages"].append((other, row))
        if prompt.variant_of and (other := row_of.get((prompt.variant_of, seed))) is not None:
            pairs["spellings"].append((row, other))
        if prompt.language == "zh" and not prompt.variant_of and len(keys) > 1:
            unrelated = row_of.get((keys[(keys.index(prompt.key) + len(keys) // 2) % len(keys)], seed))
            if unrelated is not None and unrelated != row:
                pairs["others"].append((row, unrelated))
    for kind, row_pairs in pairs.items():
        for (row, _), cosine in zip(row_pairs, similarity.pairs_alike(vectors, row_pairs), strict=True):
            pictures[row].values[f"alike, {kind} ({by})"] = cosine


def measure_spread(pictures: Sequence[MeasuredPicture], vectors: Vectors, by: str) -> None:
    """Sets the diversity of a prompt's pictures, on the first picture of each prompt with two or more."""
    spreads = similarity.spread(vectors, [picture.prompt.key for picture in pictures])
    for picture in pictures:
        if picture.prompt.key in spreads:
            picture.values[f"apart, seeds ({by})"] = spreads.pop(picture.prompt.key)


def measure_copies(
    pictures: Sequence[MeasuredPicture], training_hashes: NDArray[np.uint64], names: Sequence[str]
) -> Mapping[str, str]:
    """Sets whether a picture is a near-copy of a training picture; returns drawn file -> training file."""
    copies = similarity.near_copies(
        similarity.perceptual_hashes([picture.image() for picture in pictures]), training_hashes
    )
    for row, picture in enumerate(pictures):
        picture.values["near copy"] = row in copies
    return {pictures[row].drawing.file: names[other] for row, other in copies.items()}


def measure_steps(
    pictures: Sequence[MeasuredPicture], steps: Sequence[ModelStep], tools: Tools, on_progress: OnProgress, title: str
) -> list[str]:
    """Sets the columns of curation's model steps (NSFW, aesthetic score, any classifier), and for each step whether it
    would drop the picture. Returns the identities of the steps.
    """
    for step in steps:
        measured = step.open(tools)
        for first in range(0, len(pictures), BATCH):
            part = pictures[first : first + BATCH]
            pairs = [Pair(n, picture.image(), (picture.prompt.text,)) for n, picture in enumerate(part)]
            for picture, scores in zip(part, measured(pairs), strict=True):
                picture.values |= {name: float(v) for name, v in scores.items() if isinstance(v, (int, float))}
                picture.values[f"{step.score_name()}, beyond its line"] = step.judge(scores) is not None
            on_progress(title, first + len(part), len(pictures))
    return [step.measuring(tools) for step in steps]


def share_of(value: float, n: int) -> Interval:
    """The Wilson interval of a proportion of ``n``."""
    return wilson(round(value * n), n)


def by_length(pictures: Sequence[MeasuredPicture], measure: str, parts: int = 4) -> list[tuple[int, int, Interval]]:
    """(shortest, longest, mean) of a measure over quantiles of the prompts' length in characters."""
    rows = sorted(
        (len(picture.prompt.text), picture.prompt.key, float(value))
        for picture in pictures
        if picture.prompt.language == "zh" and (value := picture.values.get(measure)) is not None
    )
    keys = list(dict.fromkeys(key for _, key, _ in rows))
    buckets: list[tuple[int, int, Interval]] = []
    for part in range(parts):
        bucket_keys = set(keys[part * len(keys) // parts : (part + 1) * len(keys) // parts])
        values = [(length, value) for length, key, value in rows if key in bucket_keys]
        if values:
            buckets.append((values[0][0], values[-1][0], bootstrap([value for _, value in values])))
    return buckets


def settle(
    pictures: Sequence[MeasuredPicture], name: str, answers_of: Callable[[MeasuredPicture], list[tuple[Check, Answer]]]
) -> None:
    """Sets a judge's answers, the fraction of a picture's checks that are right, and whether all of them are."""
    for picture in pictures:
        picture.answers[name] = answers_of(picture)
        verdicts = [answer.right for _, answer in picture.answers[name] if answer.right is not None]
        picture.values[f"checks ({name})"] = sum(verdicts) / len(verdicts) if verdicts else None
        picture.values[f"all checks ({name})"] = all(verdicts) if verdicts else None
