"""Similarity of texts and pictures by a system with a text and an image encoder, such as Taiyi-CLIP; ranking of
pictures.

The result of a row depends neither on its neighbours nor on the number of CPU cores: rows are encoded in batches of
constant size, each by one thread, several at once. It may depend on the type of CPU.
"""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from bimo.core.errors import RecipeError
from bimo.core.picture import Picture
from bimo.diffusion.system import System
from bimo.diffusion.text_encoder import TextEncoder
from bimo.models.text_encoders.bert import TRIM, BertTextEncoder

if TYPE_CHECKING:
    from PIL import Image

#: Rows in a batch: with fewer, weights are loaded more often than needed; with more, cores would be idle at the end.
ROWS = 8
#: The least speed-up by bfloat16 that is worth its rounding.
WORTH = 1.5
#: Texts and pictures -> [texts, pictures], higher for better matches.
Similarity = Callable[[Sequence[str], "Sequence[Image.Image]"], Tensor]
Row = TypeVar("Row")


def similarity(system: System, texts: Sequence[str], pictures: Sequence[Image.Image]) -> Tensor:
    """The cosine similarity of every text with every picture, [texts, pictures].

    The range differs between scorers: compare scores of one system only. Raises RecipeError for a system without an
    image encoder or without pooled text.
    """
    words, seen = word_vectors(system, texts), picture_vectors(system, pictures)
    return words @ seen.T


def word_vectors(system: System, texts: Sequence[str]) -> Tensor:
    """[B, D] float32, normalised. Raises RecipeError as ``similarity``."""
    _demand(system)
    encoder = system.text_encoders[-1]
    # Batches have texts that are padded to the same length as each would be alone.
    lots: dict[int, list[int]] = defaultdict(list)
    for place, text in enumerate(texts):
        lots[_quarters(encoder, text)].append(place)

    def pooled(lot: Sequence[str]) -> Tensor:
        pooled = encoder.encode(lot).pooled
        if pooled is None:
            raise RecipeError("the text encoder of {name} pools nothing; it cannot score", name=system.recipe.name)
        return pooled

    places = [place for lot in lots.values() for place in lot]
    vectors = _through(pooled, [[texts[place] for place in lot] for lot in lots.values()])
    return torch.empty_like(vectors).index_copy_(0, torch.tensor(places, device=vectors.device), vectors)


def picture_vectors(system: System, pictures: Sequence[Image.Image]) -> Tensor:
    """[B, D] float32, normalised. Raises RecipeError as ``similarity``."""
    vision = _demand(system)
    return _through(lambda lot: vision(vision.seen(lot)), [pictures])


def square(system: System, picture: Image.Image) -> Image.Image:
    """The image encoder's input for a picture; its embedding is that of the picture. Raises RecipeError as above."""
    return _demand(system).fitted(picture)


def fastest() -> float:
    """The speed-up of bfloat16 over float32 for a layer of ViT-B's size on this machine: in CPU seconds of one thread,
    so that other processes have no influence.
    """
    dtypes = (torch.float32, torch.bfloat16)
    seconds = dict.fromkeys(dtypes, float("inf"))

    def timed() -> None:
        x, weight = torch.ones(ROWS * 50, 768), torch.ones(3072, 768)
        for _ in range(6):
            for dtype in dtypes:
                a, b = x.to(dtype), weight.to(dtype)
                began = time.thread_time()
                functional.linear(a, b)
                seconds[dtype] = min(seconds[dtype], time.thread_time() - began)

    with _alone(1) as thread:
        thread.submit(timed).result()
    return seconds[torch.float32] / max(seconds[torch.bfloat16], 1e-9)


def ranked(pictures: Sequence[Picture], similarity: Similarity) -> list[tuple[Picture, float]]:
    """Pictures of one request with their scores, the best first; equal scores keep their order.

    VisCPM-Paint draws four and keeps the first. The text is that of the request as the user wrote it.
    """
    if not pictures:
        return []
    scores: list[float] = similarity([pictures[0].request.text], [picture.image for picture in pictures])[0].tolist()
    return sorted(zip(pictures, scores, strict=True), key=lambda pair: -pair[1])


def _through(encoder: Callable[[Sequence[Row]], Tensor], lots: Sequence[Sequence[Row]]) -> Tensor:
    """The normalised vectors [B, D] of all rows, in batches."""

    def found(rows: Sequence[Row]) -> Tensor:
        with torch.inference_mode():
            # Padded to the constant size: the result of a matrix product may depend on the number of rows.
            vectors = encoder([*rows, *[rows[0]] * (ROWS - len(rows))])
            return functional.normalize(vectors[: len(rows)].float(), dim=1)

    jobs = [lot[first : first + ROWS] for lot in lots for first in range(0, len(lot), ROWS)]
    with _alone(torch.get_num_threads()) as threads:
        return torch.cat(list(threads.map(found, jobs)))


@contextmanager
def _alone(count: int) -> Generator[ThreadPoolExecutor]:
    """Threads that each compute on a single core.

    Setting a thread's number of cores sets that of every thread that has not read it yet, including the main one: so it
    is read before, and restored afterwards.
    """
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(count, "encoder", torch.set_num_threads, (1,)) as threads:
            yield threads
    finally:
        torch.set_num_threads(before)


def _quarters(encoder: TextEncoder, text: str) -> int:
    """The padded length of a text that is encoded alone, in steps of its trimming; 0 for a constant length."""
    if not isinstance(encoder, BertTextEncoder) or encoder.part.padding != "trimmed" or not encoder.part.masked:
        return 0
    budget = encoder.budget(text)
    return -(-min(budget.used, budget.limit) // TRIM)


def _demand(system: System) -> Any:
    if system.vision is None:
        raise RecipeError(
            "{name} has no image encoder; score with a system such as taiyi-clip", name=system.recipe.name
        )
    return system.vision
