"""Distils a text encoder from another on parallel text: the first stage of AltCLIP and of SkyCLIP."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from bimo.core.errors import BimoError, DataError, RecipeError, TrainingError
from bimo.core.messages import say
from bimo.core.part import Part
from bimo.core.recipe import Stage
from bimo.data.loader import Pictures
from bimo.diffusion.system import System
from bimo.diffusion.text_encoder import TextEncoder
from bimo.training.objectives.objective import Objective
from bimo.training.train_inputs import Prospect, TrainInputs, Vocabulary, refusals

#: The state of a text encoder that represents a sentence: of the first token, of the last token, or the pooled output.
Place = Literal["first", "last", "pooled"]
PAST = -100


class Writer(nn.Module):
    """A small causal decoder that predicts token ids [B, L] from another text's states [B, K, width]."""

    def __init__(self, vocab: int, width: int, layers: int, heads: int, length: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocab, width)
        self.places = nn.Embedding(length, width)
        layer = nn.TransformerDecoderLayer(width, heads, 4 * width, 0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerDecoder(layer, layers, nn.LayerNorm(width))
        nn.init.normal_(self.words.weight, std=0.02)
        nn.init.normal_(self.places.weight, std=0.02)

    def forward(self, ids: Tensor, states: Tensor, unseen: Tensor) -> Tensor:
        """Logits [B, L, vocab] of the token after each id; ``unseen`` [B, K] bool marks padding."""
        count = ids.shape[1]
        later = torch.ones(count, count, dtype=torch.bool).triu(1)
        hidden = self.words(ids) + self.places.weight[:count]
        hidden = self.layers(hidden, states, tgt_mask=later, memory_key_padding_mask=unseen)
        return hidden @ self.words.weight.T


@dataclass(frozen=True, kw_only=True)
class Distil(Objective):
    """Trains a student text encoder to give a sentence, in each of ``languages``, the state that a frozen ``teacher``
    gives it in the teacher's own language; the captions of one picture are the sentence in its languages.

    The student's state at ``student`` is compared with the teacher's at ``at``, by the weighted sum of mean squared
    error, mean absolute error and 1 - cosine. AltCLIP (arXiv:2211.06679, section 3.2): the first token with the
    teacher's last, squared. SkyCLIP: all three, in both languages, and with ``decoder`` a second task: from the
    student's states of the teacher's language a small causal decoder predicts the sentence in the other languages, so
    that every state carries information at any length (its form was not published: this one is an analogy).
    """

    captions: ClassVar = "selected"

    teacher: Part
    text_encoder: int = 0
    student: Place = "first"
    at: Place = "last"
    squared: float = 1.0
    absolute: float = 0.0
    cosine: float = 0.0
    decoder: float = 0.0
    decoder_layers: int = 3
    decoder_heads: int = 8
    language: str = "en"
    languages: tuple[str, ...] = ("zh", "en")
    sees: str = "texts"

    def tiny(self) -> Self:
        """A tiny teacher; one layer with two heads in the decoder."""
        return replace(super().tiny(), decoder_layers=1, decoder_heads=2)

    def pictures(self, system: System, pictures: Pictures, folder: Path) -> Pictures:
        """The pictures with captions in the teacher's language and in all others. Raises DataError if there are
        none.
        """
        wanted = {self.language, *self.languages}
        groups = [group for group in pictures.groups if all(wanted <= set(pictures.languages[row]) for row in group)]
        if not groups:
            listed = ", ".join(sorted(wanted))
            raise DataError(
                "no picture has captions in all of {listed}; a teacher needs the same sentence in each language",
                listed=listed,
            )
        left = len(pictures.groups) - len(groups)
        if left:
            print(say("{left} pictures lack a caption of some language", left=left))
        return pictures.of(groups)

    def extra(self, system: System, vocabulary: Vocabulary) -> nn.Module | None:
        """The decoder as ``distil.writer``, if there is one."""
        if not self.decoder:
            return None
        part: Any = system.recipe.text_encoders[self.text_encoder]
        writer = Writer(part.vocab, part.width, self.decoder_layers, self.decoder_heads, part.length)
        return nn.ModuleDict({"writer": writer})

    def problems(self, prospect: Prospect) -> Iterator[BimoError]:
        """A missing teacher, and missing languages."""
        yield from refusals(lambda: self.pictures(prospect.system, prospect.pictures, Path()))
        yield from refusals(lambda: self._fitting(prospect.stage, prospect.teacher))

    def loss(self, inputs: TrainInputs) -> Tensor:
        """The mean over the languages, plus the second task. Raises TrainingError without a fitting teacher."""
        teacher = self._fitting(inputs.stage, inputs.teacher)
        student = inputs.system.text_encoders[self.text_encoder]
        sentences = [self._chosen(inputs, row, self.language) for row in range(inputs.total_rows)]
        with torch.no_grad():
            wanted = state(teacher, inputs.own(sentences), self.at)
        losses: list[Tensor] = []
        for language in self.languages:
            texts = sentences
            if language != self.language:
                texts = [self._chosen(inputs, row, language) for row in range(len(sentences))]
            losses.append(self._distance(state(student, inputs.own(texts), self.student), wanted))
            if self.decoder and language != self.language:
                losses[-1] = losses[-1] + self.decoder * self._written(inputs, student, sentences, texts)
        return torch.stack(losses).mean()

    def _fitting(self, stage: Stage, teacher: System | None) -> TextEncoder:
        if teacher is None:
            raise TrainingError(
                "stage {name!r} learns from a teacher; name one with --teacher (text encoder: {teacher})",
                name=stage.name,
                teacher=self.teacher,
            )
        encoder = teacher.recipe.text_encoders[0]
        if encoder != self.teacher:
            raise TrainingError(
                "the teacher's text encoder is {found}; the recipe wants {teacher}", found=encoder, teacher=self.teacher
            )
        return teacher.text_encoders[0]

    def _chosen(self, inputs: TrainInputs, row: int, language: str) -> str:
        captions = inputs.captions[row][language]
        # On the generator's device, the CPU: no synchronisation.
        home = inputs.generator.device
        return captions[int(torch.randint(len(captions), (1,), generator=inputs.generator, device=home))]

    def _distance(self, states: Tensor, wanted: Tensor) -> Tensor:
        if states.shape != wanted.shape:
            raise RecipeError(
                "the student's state is {shape} wide, the teacher's {shape_2}; project the student's to the teacher's",
                shape=states.shape[-1],
                shape_2=wanted.shape[-1],
            )
        loss = self.squared * functional.mse_loss(states, wanted) + self.absolute * functional.l1_loss(states, wanted)
        return loss + self.cosine * (1 - functional.cosine_similarity(states, wanted, dim=1)).mean()

    def _written(
        self, inputs: TrainInputs, student: TextEncoder, sentences: Sequence[str], texts: Sequence[str]
    ) -> Tensor:
        writer = cast(nn.ModuleDict, inputs.extra)["writer"]
        every = _lengths(student, texts)
        lengths, sentences = inputs.own(every), inputs.own(sentences)
        ids = cast(Tensor, cast(Any, student).ids(inputs.own(texts))[0])
        count = int(lengths.max())
        wanted = ids[:, 1:count].masked_fill(torch.arange(1, count) >= lengths[:, None], PAST)
        states = student.encode(sentences).tokens
        unseen = torch.arange(states.shape[1]) >= _lengths(student, sentences)[:, None]
        logits = writer(ids[:, : count - 1], states, unseen)
        loss = functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=PAST)
        # Every token of the step has the same weight, not every process.
        return loss * ((lengths - 1).float().mean() / (every - 1).float().mean())


def state(encoder: TextEncoder, texts: Sequence[str], place: Place) -> Tensor:
    """The states [B, D] of texts at a place. Raises RecipeError for a text encoder without a pooled output."""
    encoding = encoder.encode(texts)
    if place == "first":
        return encoding.tokens[:, 0]
    if place == "last":
        return encoding.tokens[torch.arange(len(texts)), _lengths(encoder, texts) - 1]
    if encoding.pooled is None:
        raise RecipeError("this text encoder pools nothing")
    return encoding.pooled


def _lengths(encoder: TextEncoder, texts: Sequence[str]) -> Tensor:
    """The number of tokens of each text, [B]."""
    budgets = [encoder.budget(text) for text in texts]
    return torch.tensor([min(budget.used, budget.limit) for budget in budgets])
