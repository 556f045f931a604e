"""What is left out of a step's rows, so that guidance can do without it: words, text towers, hints, or all of them."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bimo.core.errors import RecipeError
from bimo.core.part import nearest
from bimo.core.recipe import Stage
from bimo.diffusion.conditioner import Conditioner


@dataclass(frozen=True)
class Dropout:
    """What rows do without, each [B] bool: the words of all towers, of each tower, hints by name."""

    captions: Tensor
    encoders: tuple[Tensor, ...]
    conditions: Mapping[str, Tensor]


class ConditioningDropout:
    """A stage's shares of what is left out, for a number of text towers and the hints of the levels it asks.

    Raises RecipeError for a share that is none, for shares that are not one a tower, and for hints that are not there
    or are never left out.
    """

    def __init__(self, stage: Stage, towers: int, hints: Sequence[Conditioner] = ()) -> None:
        self.stage, self.towers = stage, towers
        names = dict.fromkeys(each.key for each in hints if each.droppable)
        self.hints = self._shares_of(list(names))
        self._check()

    def of(self, lots: Sequence[int], generator: torch.Generator) -> Dropout:
        """What is left out of a batch of so many rows a lot: a lot does without it together."""
        stage, every = self.stage, torch.tensor(lots)

        def drawn() -> Tensor:
            return torch.rand(len(lots), generator=generator)

        words = drawn() < stage.caption_dropout
        towers = [drawn() < share for share in stage.encoder_dropout] or [torch.zeros_like(words)] * self.towers
        hints = {name: drawn() < share if share else torch.zeros_like(words) for name, share in self.hints.items()}
        if stage.joint_dropout or stage.joint_keep:
            together = drawn()
            none, kept = together < stage.joint_dropout, together < 1 - stage.joint_keep
            words = words & kept | none
            towers = [gone & kept | none for gone in towers]
            hints = {name: gone & kept | none for name, gone in hints.items()}
        towers = [gone | words for gone in towers]
        # What no tower is told is dropped, whichever way.
        words = torch.stack(towers).all(0) if towers else words
        rows = [gone.repeat_interleave(every) for gone in (words, *towers)]
        return Dropout(rows[0], tuple(rows[1:]), {n: gone.repeat_interleave(every) for n, gone in hints.items()})

    def _shares_of(self, names: Sequence[str]) -> dict[str, float]:
        """The share of every hint by its name, 0 where no glob matches it."""
        shares = dict.fromkeys(names, 0.0)
        for glob, share in self.stage.condition_dropout:
            matched = fnmatch.filter(names, glob)
            if not matched:
                near = ", ".join(nearest(glob, names) or names)
                raise RecipeError(
                    "condition_dropout of stage {name!r}: {glob!r} matches no condition that can be left out; here are "
                    "[{near}]",
                    name=self.stage.name,
                    glob=glob,
                    near=near,
                )
            shares |= dict.fromkeys(matched, share)
        return shares

    def _check(self) -> None:
        stage = self.stage
        if stage.encoder_dropout and len(stage.encoder_dropout) != self.towers:
            raise RecipeError(
                "encoder_dropout has {count} shares for {towers} text towers; one each is expected",
                count=len(stage.encoder_dropout),
                towers=self.towers,
            )
        shares = (
            stage.caption_dropout,
            *stage.encoder_dropout,
            *self.hints.values(),
            stage.joint_dropout,
            stage.joint_keep,
        )
        wrong = [share for share in shares if not 0 <= share <= 1]
        if stage.joint_dropout + stage.joint_keep > 1:
            wrong.append(stage.joint_dropout + stage.joint_keep)
        if wrong:
            raise RecipeError(
                "a share of what stage {name!r} leaves out is {wrong:g}; expected is 0 to 1, as of joint_dropout "
                "and joint_keep together",
                name=stage.name,
                wrong=wrong[0],
            )
