"""Pictures that look the same to a scorer: the vectors that are kept, and which of those alike stays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bimo.core.errors import DataError, RecipeError
from bimo.core.part import dump, load
from bimo.curation.dedup.embedding_dedup import EmbeddingDuplicates, ImageEmbedding
from bimo.curation.steps import Change, ModelStep, Pair, TableStep, Tools


class Eye:
    """Sees the colour of a picture."""

    digest = "eye"

    def fitted(self, picture: Image.Image) -> Image.Image:
        return picture

    def words(self, texts: Sequence[str]) -> np.ndarray:
        raise NotImplementedError

    def pictures(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        rows = np.array([np.asarray(picture, np.float32)[0, 0] for picture in pictures])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class Rows:
    """A table in memory."""

    def __init__(self, **columns: Sequence[Any]) -> None:
        self.columns = {name: np.array(values, object) for name, values in columns.items()}
        self.numbers = np.arange(len(next(iter(columns.values())))) * 10

    def column(self, name: str) -> np.ndarray:
        if name not in self.columns:
            raise DataError("no {name}", name=name)
        return self.columns[name]

    def captions(self) -> Iterator[tuple[int, tuple[str, ...]]]:
        return iter(())


def table(colours: Sequence[tuple[int, int, int]], widths: Sequence[int] | None = None) -> Rows:
    pairs = [Pair(row, Image.new("RGB", (4, 4), colour), ()) for row, colour in enumerate(colours)]
    scores = ImageEmbedding(scorer="eye").open(Tools(scorer=lambda name: Eye()))(pairs)
    count = len(colours)
    return Rows(look=[row["look"] for row in scores], width=widths or [4] * count, height=[4] * count)


def gone(changes: Iterator[Change]) -> dict[int, int]:
    return {change.number: int((change.labels or {})["looks_like"]) for change in changes}


def test_they_are_steps_and_dump() -> None:
    looks, alike = ImageEmbedding(scorer="eye"), EmbeddingDuplicates(above=0.9)
    assert isinstance(looks, ModelStep)
    assert isinstance(alike, TableStep)
    assert load(dump(looks)) == looks
    assert load(dump(alike)) == alike
    assert looks.measuring(Tools(scorer=lambda name: Eye())) == "Looks/2 eye"
    assert looks.judge({}) is None
    with pytest.raises(RecipeError):
        EmbeddingDuplicates(above=1.0)


def test_the_best_of_those_alike_stays() -> None:
    red, nearly, green = (200, 0, 0), (200, 30, 0), (0, 200, 0)
    changes = list(EmbeddingDuplicates(above=0.95).select(table([red, green, nearly])))
    assert gone(iter(changes)) == {20: 0}
    verdict = changes[0].verdict
    assert verdict is not None
    # Kept as bytes, a cosine is right to two digits.
    assert verdict.value == pytest.approx(200 / (200**2 + 30**2) ** 0.5, abs=5e-3)
    assert verdict.threshold == 0.95
    assert gone(EmbeddingDuplicates(above=0.95).select(table([red, green, nearly], [4, 4, 9]))) == {0: 20}
    assert gone(EmbeddingDuplicates(above=0.995).select(table([red, green, nearly]))) == {}


def test_a_chain_does_not_make_one_of_unlike_pictures() -> None:
    turned = [(round(250 * np.cos(a)), round(250 * np.sin(a)), 0) for a in (0.0, 0.3, 0.6, 0.9)]
    # Neighbours have a cosine of 0.955; those two apart 0.825.
    assert gone(EmbeddingDuplicates(above=0.94).select(table(turned))) == {10: 0, 30: 20}


def test_all_pairs_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    from bimo.curation.dedup import embedding_dedup

    noise = np.random.default_rng(0)
    colours = [tuple(int(v) for v in row) for row in noise.integers(1, 255, (60, 3))]
    rows = table(colours)  # type: ignore[arg-type]
    found = gone(EmbeddingDuplicates(above=0.99).select(rows))
    vectors = embedding_dedup._decoded(rows.column("look"))
    expected: dict[int, int] = {}
    for row in range(60):
        if row * 10 not in expected:
            near = np.flatnonzero(vectors @ vectors[row] > 0.99)
            expected |= {int(p) * 10: row * 10 for p in near if p > row and int(p) * 10 not in expected}
    assert found == expected
    assert 10 < len(found) < 60
    monkeypatch.setattr(embedding_dedup, "BATCH", 7)
    assert gone(EmbeddingDuplicates(above=0.99).select(rows)) == expected


def test_no_rows_and_mixed_vectors() -> None:
    assert list(EmbeddingDuplicates().select(Rows(look=[], width=[], height=[]))) == []
    with pytest.raises(DataError):
        list(EmbeddingDuplicates().select(Rows(look=["AAAA", "AAAAAAAA"], width=[1, 1], height=[1, 1])))
