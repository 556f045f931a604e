"""How well words fit pictures by a system with a text and an image encoder, such as Taiyi-CLIP; the best of several.

What a row gets does not depend on its neighbours, nor on the number of processors: rows go through an encoder so many
at a time, however few there are, each lot by one thread, several lots at once. It may depend on the kind of processor.
"""

# torch leaves parts of its interface untyped; what crosses it here is named where it is used.
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

#: Rows that go through an encoder at a time: with fewer, weights are fetched more often than they are used; more would
#: leave processors without work at the end of a batch.
ROWS = 8
#: From how many times the speed on bfloat16 is worth what it rounds away.
WORTH = 1.5
#: Texts and pictures -> [texts, pictures], higher where they fit better.
Similarity = Callable[[Sequence[str], "Sequence[Image.Image]"], Tensor]
Row = TypeVar("Row")


def similarity(system: System, texts: Sequence[str], pictures: Sequence[Image.Image]) -> Tensor:
    """The cosine of every text with every picture, [texts, pictures].

    What is high differs from scorer to scorer: compare scores of one system, never of two. Raises RecipeError for a
    system without an image encoder or without pooled words.
    """
    words, seen = word_vectors(system, texts), picture_vectors(system, pictures)
    return words @ seen.T


def word_vectors(system: System, texts: Sequence[str]) -> Tensor:
    """[B, D] float32, each of length 1. Raises RecipeError as ``similarity``."""
    _demand(system)
    encoder = system.text_encoders[-1]
    # Together go those that the encoder makes as long as each would be alone.
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
    """[B, D] float32, each of length 1. Raises RecipeError as ``similarity``."""
    vision = _demand(system)
    return _through(lambda lot: vision(vision.seen(lot)), [pictures])


def square(system: System, picture: Image.Image) -> Image.Image:
    """What the image encoder sees of a picture; its vector is that of the picture. Raises RecipeError as above."""
    return _demand(system).fitted(picture)


def fastest() -> float:
    """How many times as fast a layer of ViT-B's size is in bfloat16 as in float32 here: by processor seconds of one
    thread, so that other work on the machine does not decide.
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
    """Pictures of one request with their scores, the best first; those that score alike stay in their order.

    VisCPM-Paint draws four and keeps the first. The words are those of the request, as the user wrote them.
    """
    if not pictures:
        return []
    scores: list[float] = similarity([pictures[0].request.text], [picture.image for picture in pictures])[0].tolist()
    return sorted(zip(pictures, scores, strict=True), key=lambda pair: -pair[1])


def _through(encoder: Callable[[Sequence[Row]], Tensor], lots: Sequence[Sequence[Row]]) -> Tensor:
    """The vectors [B, D] of all rows, lot after lot, each of length 1; no two lots go through the encoder together."""

    def found(rows: Sequence[Row]) -> Tensor:
        with torch.inference_mode():
            # As many rows as ever: what a product is cut into must not depend on how many there are.
            vectors = encoder([*rows, *[rows[0]] * (ROWS - len(rows))])
            return functional.normalize(vectors[: len(rows)].float(), dim=1)

    jobs = [lot[first : first + ROWS] for lot in lots for first in range(0, len(lot), ROWS)]
    with _alone(torch.get_num_threads()) as threads:
        return torch.cat(list(threads.map(found, jobs)))


@contextmanager
def _alone(count: int) -> Generator[ThreadPoolExecutor]:
    """So many threads, each of which reckons by itself.

    What a thread says of its number of threads becomes that of every thread that has not asked yet, the main one too:
    so that is asked before, and said again after.
    """
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(count, "encoder", torch.set_num_threads, (1,)) as threads:
            yield threads
    finally:
        torch.set_num_threads(before)


def _quarters(encoder: TextEncoder, text: str) -> int:
    """How long a text is made that goes through an encoder alone, in steps of its trimming; 0 where all are as long."""
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
