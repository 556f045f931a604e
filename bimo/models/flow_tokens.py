"""Shared by flow-matching transformers with a language model: the single text stream, and x as tokens of 2x2 positions.

Each predicts noise - x at t = 1000 s, whatever its own sign and time convention; x stays [R, C, h, w], packed inside.
"""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from torch import Tensor

from bimo.core.errors import RecipeError
from bimo.core.tensors import Conditioning, TextEncoding

Key = TypeVar("Key")

LAST = 1000.0
#: The prefix of reference pictures in a conditioning: x of a picture to be edited, or of another reference, whose
#: tokens follow those of the picture that is drawn.
REFERENCE = "reference."
#: The scalar [R, N] of a conditioning that says how many tokens of the text stand before each of N reference pictures,
#: where these stand among the text's; as `bimo.diffusion.text_encoder.TextEncoder.picture_places` has it.
PLACES = "picture_places"
#: The prefix of what is seen of reference pictures in a conditioning: features [R, C, h, w] of an image encoder.
SEEN = "seen."


def text_of(conditioning: Conditioning, name: str) -> TextEncoding:
    """The single text stream. Raises RecipeError if there are more, or for spatial conditions, which are not
    supported.
    """
    if len(conditioning.streams) != 1:
        count = len(conditioning.streams)
        raise RecipeError("{name} reads one text encoder, not {count}", name=name, count=count)
    if conditioning.spatial is not None:
        raise RecipeError("{name} reads no spatial conditions", name=name)
    return conditioning.streams[0]


def packed(x: Tensor) -> Tensor:
    """[R, C, h, w] -> [R, h/2 w/2, 4 C]: each token is 2x2 positions, channels first."""
    height, width = x.shape[-2:]
    return (
        x.unflatten(-1, (width // 2, 2))
        .unflatten(-3, (height // 2, 2))
        .permute(0, 2, 4, 1, 3, 5)
        .flatten(3)
        .flatten(1, 2)
    )


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """[R, h/2 w/2, 4 C] -> [R, C, h, w]."""
    grid = tokens.unflatten(1, (height // 2, width // 2)).unflatten(-1, (-1, 2, 2))
    return grid.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def references_of(conditioning: Conditioning) -> list[Tensor]:
    """The reference pictures [R, C, h', w'], in order; each may have its own size."""
    return [value for name, value in conditioning.pictures.items() if name.startswith(REFERENCE)]


def rows_by(keys: Iterable[Key]) -> list[tuple[Key, list[int]]]:
    """The rows that have each key, such as the length of their texts: those that can be processed together."""
    rows: dict[Key, list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    return list(rows.items())
