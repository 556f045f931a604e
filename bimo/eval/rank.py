"""The best of several drawings: pictures put in the order of how well their words fit them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from bimo.core.types import Picture

if TYPE_CHECKING:
    from PIL import Image

#: Texts and pictures -> [texts, pictures], higher where they fit better, as ``ChineseClipScorer.similarity``.
Similarity = Callable[[Sequence[str], "Sequence[Image.Image]"], Tensor]


def ranked(pictures: Sequence[Picture], similarity: Similarity) -> list[tuple[Picture, float]]:
    """Pictures of one request with their scores, the best first; those that score alike stay in their order.

    VisCPM-Paint draws four and keeps the first. The words are those of the request, as the user wrote them.
    """
    if not pictures:
        return []
    scores: list[float] = similarity([pictures[0].request.text], [picture.image for picture in pictures])[0].tolist()
    return sorted(zip(pictures, scores, strict=True), key=lambda pair: -pair[1])
