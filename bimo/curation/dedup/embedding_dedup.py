"""Duplicates by image embeddings: edits that no hash of frequencies finds, such as mirroring or a tight crop."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bimo.core.errors import DataError, RecipeError
from bimo.curation.dedup.duplicates import best_first
from bimo.curation.steps import Change, Pair, ScorerStep, Scores, Table, TableStep, Tools, Verdict

if TYPE_CHECKING:
    pass

COLUMN = "look"
#: Embeddings of length 1 are stored as int8, this value standing for 1.
SCALE = 127
#: Pictures in a block that is compared with all others.
BATCH = 1024


@dataclass(frozen=True, kw_only=True)
class ImageEmbedding(ScorerStep):
    """Stores the embedding of each picture by ``scorer``, a system's name or folder, for ``EmbeddingDuplicates``."""

    says: ClassVar[tuple[str, str]] = ("图像向量", "the picture's vector")
    score: ClassVar[str] = COLUMN

    def measuring(self, tools: Tools) -> str:
        """The version of what is measured, and the weights of the scorer."""
        return f"Looks/2 {tools.scorer(self.scorer).digest}"

    def open(self, tools: Tools) -> Callable[[Sequence[Pair]], list[Scores]]:
        """Loads the scorer."""
        scorer = tools.scorer(self.scorer)

        def measured(pairs: Sequence[Pair]) -> list[Scores]:
            vectors = scorer.pictures([pair.picture for pair in pairs])
            whole = np.clip(np.rint(vectors * SCALE), -SCALE, SCALE).astype(np.int8)
            return [{COLUMN: base64.b64encode(row.tobytes()).decode()} for row in whole]

        return measured

    def judge(self, scores: Scores) -> Verdict | None:
        """None: it drops nothing."""
        return None


@dataclass(frozen=True, kw_only=True)
class EmbeddingDuplicates(TableStep):
    """Keeps the best of pictures whose embeddings, stored by ``ImageEmbedding`` before, have a cosine of more than
    ``above``.

    Rows are taken from the best to the worst, as by ``Duplicates``; each is dropped that is like one kept before.
    Typical cosines differ between models, and two photos of the same kind of thing are closer than they look: try it on
    a part of the set first. All rows are compared with all, so that twice the rows take four times as long. Raises
    RecipeError for a cosine beyond -1..1.
    """

    says: ClassVar[tuple[str, str]] = ("与另一张图看起来一样", "looks like another picture")

    above: float = 0.95
    prefer: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not -1 <= self.above < 1:
            raise RecipeError("above of Alike is {above}; expected a cosine, -1 to 1", above=self.above)

    def select(self, table: Table) -> Iterator[Change]:
        """Drops duplicates, labelled ``looks_like`` with the number of the row that is kept. Raises DataError where
        embeddings of several widths are mixed.
        """
        import faiss

        order = best_first(table, self.prefer)
        if not len(order):
            return
        vectors = _decoded(table.column(COLUMN)[order])
        numbers = table.numbers[order]
        index: Any = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        dropped = np.zeros(len(order), bool)
        for start in range(0, len(order), BATCH):
            rows = start + np.flatnonzero(~dropped[start : start + BATCH])
            limits, cosines, places = index.range_search(vectors[rows], self.above)
            for at, row in enumerate(rows.tolist()):
                if dropped[row]:
                    continue
                # All better rows that are like this one were dropped, or this one would have been.
                for place, cosine in zip(
                    places[limits[at] : limits[at + 1]].tolist(), cosines[limits[at] : limits[at + 1]], strict=True
                ):
                    if place > row and not dropped[place]:
                        dropped[place] = True
                        verdict = Verdict(round(float(cosine), 4), self.above)
                        yield Change(
                            int(numbers[place]), verdict=verdict, repeats=0, labels={"looks_like": int(numbers[row])}
                        )


def _decoded(column: np.ndarray) -> np.ndarray:
    """Texts [N] -> vectors [N, D] float32, each of length 1."""
    rows = [np.frombuffer(base64.b64decode(text), np.int8) for text in column]
    if len({len(row) for row in rows}) > 1:
        raise DataError("Alike: vectors of several lengths; have one Looks before it")
    vectors = np.stack(rows).astype(np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
