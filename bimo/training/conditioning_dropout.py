"""Conditioning dropout for classifier-free guidance: captions, text encoders, conditioners, or all of them together."""

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
    """The dropout masks of a batch, each [B] bool: of captions for all text encoders, for each one, of conditioners by
    name.
    """

    captions: Tensor
    encoders: tuple[Tensor, ...]
    conditions: Mapping[str, Tensor]


class ConditioningDropout:
    """The dropout of a stage, for ``encoder_count`` text encoders and the ``conditioners`` of its levels.

    Raises RecipeError for a probability outside [0, 1], for a number of probabilities other than that of text encoders,
    and for conditioners that do not exist or cannot be dropped.
    """

    def __init__(self, stage: Stage, encoder_count: int, conditioners: Sequence[Conditioner] = ()) -> None:
        self.stage, self.encoder_count = stage, encoder_count
        names = dict.fromkeys(each.key for each in conditioners if each.droppable)
        self.condition_shares = self._shares_of(list(names))
        self._check()

    def of(self, group_sizes: Sequence[int], generator: torch.Generator) -> Dropout:
        """The masks of a batch with groups of these sizes: rows of a group share their draws."""
        stage, every = self.stage, torch.tensor(group_sizes)

        def drawn() -> Tensor:
            return torch.rand(len(group_sizes), generator=generator)

        captions = drawn() < stage.caption_dropout
        encoders = [drawn() < share for share in stage.encoder_dropout] or [
            torch.zeros_like(captions)
        ] * self.encoder_count
        conditions = {
            name: drawn() < share if share else torch.zeros_like(captions)
            for name, share in self.condition_shares.items()
        }
        if stage.joint_dropout or stage.joint_keep:
            together = drawn()
            none, jointly_kept = together < stage.joint_dropout, together < 1 - stage.joint_keep
            captions = captions & jointly_kept | none
            encoders = [gone & jointly_kept | none for gone in encoders]
            conditions = {name: gone & jointly_kept | none for name, gone in conditions.items()}
        encoders = [gone | captions for gone in encoders]
        # A caption that every text encoder drops counts as dropped.
        captions = torch.stack(encoders).all(0) if encoders else captions
        rows = [gone.repeat_interleave(every) for gone in (captions, *encoders)]
        return Dropout(rows[0], tuple(rows[1:]), {n: gone.repeat_interleave(every) for n, gone in conditions.items()})

    def _shares_of(self, names: Sequence[str]) -> dict[str, float]:
        """The probability of every conditioner by name, 0 if no glob matches it."""
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
        if stage.encoder_dropout and len(stage.encoder_dropout) != self.encoder_count:
            raise RecipeError(
                "encoder_dropout has {count} shares for {encoders} text encoders; one each is expected",
                count=len(stage.encoder_dropout),
                encoders=self.encoder_count,
            )
        shares = (
            stage.caption_dropout,
            *stage.encoder_dropout,
            *self.condition_shares.values(),
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
