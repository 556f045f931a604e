"""GLM-Image's autoregressive prior: GLM-4-9B with tokens of pictures among its words."""

# transformers leaves parts of its interface untyped; what crosses it here is named where it is used.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from bimo.core.errors import RecipeError
from bimo.core.part import Part
from bimo.core.tensors import Conditioning, StepState
from bimo.diffusion.denoiser import StatefulDenoiser
from bimo.models.text_encoders.language_model import as_lists

#: The numbers that the prior is told besides words, integers on the processor: the grids that it writes, [R, 2 n], what
#: stands behind the prompt, [R, L], and of each picture before the prompt its ids [R, n] and its grid [R, 2].
GRIDS, TOLD, PICTURE, PICTURE_GRID = "prior.grids", "prior.told", "prior.picture.", "prior.picture_grid."


@dataclass(frozen=True, kw_only=True)
class GlmImagePrior(Part):
    """The language model of GLM-Image's prior, and its head over ``vision_vocab_size`` tokens; the defaults are the
    published model's, the names those of transformers' GlmImageTextConfig. ``config`` are further fields of that.

    A picture stands between the tokens ``image_start`` and ``image_end``.
    """

    vocab_size: int = 168064
    hidden_size: int = 4096
    intermediate_size: int = 13696
    num_hidden_layers: int = 40
    num_attention_heads: int = 32
    num_key_value_heads: int = 2
    max_position_embeddings: int = 131072
    vision_vocab_size: int = 16512
    image_start: int = 16384
    image_end: int = 16385
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def build(self) -> GlmImagePriorDenoiser:
        """The module."""
        return GlmImagePriorDenoiser(self)

    def tiny(self) -> Self:
        """Width 16, two layers of two heads of 8; 32 tokens of pictures and two marks, and a test's words."""
        rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": (2, 1, 1)}
        small = {"vocab_size": 1024, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
        small |= {"num_attention_heads": 2, "num_key_value_heads": 1, "vision_vocab_size": 40}
        config = {**self.config, "rope_parameters": rope}
        return replace(self, **small, image_start=32, image_end=33, config=config)


@dataclass
class _Read:
    """What was read of one row: the ids before the picture that is written, the places [3, L + N] of all tokens, the
    keys and values of the first ``count`` of them.
    """

    before: list[int]
    places: Tensor
    cache: Any
    count: int = 0


class GlmImagePriorDenoiser(StatefulDenoiser):
    """x [R, N] ids, t [R] places in them and conditioning -> the logits [R, V] of the tokens there, by those before.
    Published names are below ``model.`` and ``lm_head.``.

    The rows of a call are read one after the other: each has keys and values of its own, as many as it has tokens.
    """

    def __init__(self, part: GlmImagePrior) -> None:
        super().__init__()
        from transformers.models.glm_image.configuration_glm_image import GlmImageTextConfig
        from transformers.models.glm_image.modeling_glm_image import GlmImageTextModel

        self.part = part
        names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        names += ("num_key_value_heads", "max_position_embeddings", "vision_vocab_size")
        sizes: dict[str, Any] = {name: getattr(part, name) for name in names}
        more: dict[str, Any] = {name: as_lists(value) for name, value in part.config.items()}
        # No row is padded, and what ends a picture is the sampler's to heed.
        more |= {"pad_token_id": 0, "eos_token_id": None}
        self.model: Any = GlmImageTextModel(GlmImageTextConfig(**sizes, **more))
        self.lm_head = nn.Linear(part.hidden_size, part.vision_vocab_size, bias=False)

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """The logits, by all tokens before read anew."""
        return self.with_states(x, t, conditioning, [StepState()])

    def with_states(self, x: Tensor, t: Tensor, conditioning: Conditioning, states: Sequence[StepState]) -> Tensor:
        """The logits, by the keys and values that were kept of the tokens before. Raises RecipeError without the grids
        that the prior is to write.
        """
        if TOLD not in conditioning.scalars:
            raise RecipeError("{name} needs the condition {scale!r}", name="GlmImagePrior", scale=TOLD)
        rows = len(x) // len(states)
        written: list[list[int]] = x.tolist()
        logits: list[Tensor] = []
        for row, place in enumerate(t.long().tolist()):
            kept = states[row // rows].kept
            # Another count of rows gives these other meanings.
            key = rows, row % rows
            before = self._before(conditioning, row)
            if key not in kept or kept[key].before != before or kept[key].count > len(before) + place:
                kept[key] = self._begun(conditioning, row, before)
            logits.append(self._next(kept[key], written[row][:place]))
        return torch.cat(logits)

    def _before(self, conditioning: Conditioning, row: int) -> list[int]:
        """The ids that a row begins with: its pictures, its prompt, what is to be written."""
        ids: list[int] = []
        for name in _pictures(conditioning):
            ids += [self.part.image_start, *conditioning.scalars[name][row].tolist(), self.part.image_end]
        words = conditioning.streams[0]
        mask = [True] * words.tokens.shape[1] if words.mask is None else words.mask[row].tolist()
        ids += [id_ for id_, real in zip(words.tokens[row, :, 0].tolist(), mask, strict=True) if real]
        return [*ids, *conditioning.scalars[TOLD][row].tolist()]

    def _begun(self, conditioning: Conditioning, row: int, before: list[int]) -> _Read:
        from transformers import DynamicCache

        scalars = conditioning.scalars
        seen = [scalars[name.replace(PICTURE, PICTURE_GRID)][row].tolist() for name in _pictures(conditioning)]
        flat: list[int] = scalars[GRIDS][row].tolist()
        grids = list(zip(flat[::2], flat[1::2], strict=True))
        places = torch.tensor(places_of([(r, c) for r, c in seen], len(before), grids), device="cpu").T
        return _Read(before, places, DynamicCache(config=self.model.config))

    def _next(self, read: _Read, written: list[int]) -> Tensor:
        """The logits [1, V] behind what was written so far."""
        device = next(self.parameters()).device
        new = [*read.before, *written][read.count :]
        places = read.places[:, read.count : read.count + len(new)]
        states = self.model(
            input_ids=torch.tensor([new], device=device),
            position_ids=places[:, None].to(device),
            past_key_values=read.cache,
            use_cache=True,
        ).last_hidden_state
        read.count += len(new)
        return self.lm_head(states[:, -1])


def places_of(
    seen: Sequence[tuple[int, int]], length: int, grids: Sequence[tuple[int, int]]
) -> list[tuple[int, int, int]]:
    """The time, row and column of each token: ``length`` that are read, first those of pictures of (rows, columns),
    each between two marks; then those of the grids that are written, the last one first. What follows a picture goes on
    behind its longer side (M-RoPE, arXiv:2409.12191 section 2.1).
    """
    places: list[tuple[int, int, int]] = []
    at = 0

    def read(count: int) -> None:
        nonlocal at
        places.extend((place, place, place) for place in range(at, at + count))
        at += count

    def pictured(rows: int, columns: int) -> None:
        nonlocal at
        places.extend((at, at + row, at + column) for row in range(rows) for column in range(columns))
        at += max(rows, columns)

    for rows, columns in seen:
        read(1)
        pictured(rows, columns)
        read(1)
    read(length - len(places))
    for rows, columns in reversed(grids):
        pictured(rows, columns)
    return places


def _pictures(conditioning: Conditioning) -> list[str]:
    return [name for name in conditioning.scalars if name.startswith(PICTURE)]
