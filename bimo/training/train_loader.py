"""The batches of a stage: rows, captions, pixels or latents; frozen modules encode once."""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import fnmatch
import hashlib
import tempfile
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from bimo.core.errors import RecipeError, TrainingError
from bimo.core.hashing import bytes_of, digest_tensors
from bimo.core.messages import say
from bimo.core.part import dumps, nearest
from bimo.core.tensors import Batch, Share, TextEncoding
from bimo.data.loader import Fitted, Pictures, Size, picked
from bimo.data.rows import Column
from bimo.diffusion.image_inputs import to_image
from bimo.engine.devices import default_device, to_device
from bimo.training.batch_sampler import BatchSampler
from bimo.training.caption_edits import edited
from bimo.training.conditioning_dropout import ConditioningDropout
from bimo.training.distributed.processes import ALONE, Processes
from bimo.training.encoding_cache import Encode, cached_encoder, encoded
from bimo.training.logging import counted, save_whole
from bimo.training.train_inputs import TrainInputs
from bimo.training.unvaried import unvaried

#: The most pixels that are encoded in a batch: of an autoencoder as Stable Diffusion's each takes some two kilobytes at
#: its widest, and a run must not need more for that than for its steps.
ENCODE_PIXELS = 512 * 512


def encoded_at_once(size: Size, batch: int) -> int:
    """How many pictures of (width, height) are encoded in a batch: no more than a step of ``batch`` has, so that memory
    is at no time above that of a loop that encodes at every step.
    """
    return max(1, min(batch, ENCODE_PIXELS // (size[0] * size[1])))


@dataclass(frozen=True)
class Latents:
    """Pictures in a level's space: a tensor [n, *shape] for each size, and each row's index [N] in that of its size;
    for sampled posteriors [n, 2, *shape], mean and standard deviation.
    """

    tensors: dict[str, Tensor]
    sizes: Sequence[Size]
    places: Tensor
    sampled: bool

    def rows(self, rows: Sequence[int], generator: torch.Generator, share: Share) -> Tensor:
        """[B, *shape] of a share of rows of one size; posteriors are sampled with ``generator``."""
        latents = self.tensors[_size_name(self.sizes[rows[0]])][self.places[list(share.of(rows))]].float()
        if not self.sampled:
            return latents
        mean, deviation = latents.unbind(1)
        return mean + deviation * share.of(torch.randn((len(rows), *mean.shape[1:]), generator=generator))


class TrainLoader:
    """The batches of a stage. ``out`` is the folder of the run, in which encodings are cached."""

    def __init__(
        self,
        blank: TrainInputs,
        sees: str,
        levels: Sequence[str],
        pictures: Pictures,
        out: Path,
        seed: int,
        processes: Processes = ALONE,
        masks: Sequence[str] = (),
    ) -> None:
        """``masks`` are maps of the pictures that an objective reads itself."""
        pictures = pictures if sees == "texts" else _with_pictures(pictures)
        self.blank, self.sees, self.level, self.pictures, self.out = blank, sees, next(iter(levels), ""), pictures, out
        self.processes = processes
        stage = blank.stage
        self.fitted: Fitted | None = None if sees == "texts" else self._fitted(pictures)
        sizes = pictures.sizes if self.fitted is None else self.fitted.sizes
        if not stage.buckets or self.fitted is None:
            sizes = Column(len(pictures), lambda row: (0, 0))
        train, held_out = _split(pictures, stage.validation)
        train = _repeated(pictures, train, stage.repeats)
        self.order = BatchSampler(train, sizes, stage.batch, seed)
        self.held_out = BatchSampler(held_out, sizes, stage.batch, seed) if held_out else None
        self.conditioners = [c for name in levels for c in blank.system.level(name).conditioners]
        #: A system's prompt prefix is used in training as well.
        self.prefix = blank.system.recipe.request.prefix if sees == "latents" else ""
        self.dropping = ConditioningDropout(stage, len(blank.system.text_encoders), self.conditioners)
        self._masks = masks
        self._latents: Latents | None = None
        self._encode: Encode | None = None

    def inputs(self, number: int, generator: torch.Generator, order: BatchSampler | None = None) -> TrainInputs:
        """The inputs of a batch by its number; all randomness comes from ``generator``. ``order`` may be
        ``held_out``.
        """
        order = order or self.order
        groups = order.groups_of(number)
        rows = [row for group in groups for row in group]
        pictures = self.pictures
        # Rows of a group share the choice and dropout of captions.
        group_sizes = [len(group) for group in groups]
        dropped = self.dropping.of(group_sizes, generator)
        picks = torch.rand(len(groups), generator=generator).repeat_interleave(torch.tensor(group_sizes)).tolist()
        captions = [pictures.captions[row] or ("",) for row in rows]
        chosen = [some[int(p * len(some))] for some, p in zip(captions, picks, strict=True)]
        chosen = self._edited(chosen, group_sizes, generator)
        share = self.processes.share(group_sizes)
        inputs = replace(
            self.blank,
            share=share,
            generator=generator,
            labels=[pictures.labels[row] for row in rows],
            texts=_emptied(chosen, dropped.captions),
            captions=[_by_language(pictures, row) for row in rows],
        )
        if self.fitted is None:
            return inputs
        variant_rows = self._variants(rows, group_sizes, generator)
        own, drawn = share.of(rows), share.of(variant_rows)
        # Pixels are loaded beside latents only if a conditioner needs them.
        wanted = self.sees == "pixels" or any(conditioner.pixels for conditioner in self.conditioners)
        pixels = self._pixels(self.fitted, drawn, order, number) if wanted else None
        if self.sees == "pixels":
            return replace(inputs, pixels=to_device(pixels, self.processes.device))
        latents = self._latents or self.prepared()
        scalars = {"size_ids": self.fitted.size_ids(drawn)}
        if pictures.poses is not None:
            scalars["pose"] = pictures.poses[own]
        for name in sorted({name for conditioner in self.conditioners for name in conditioner.labels}):
            if all(name in pictures.labels[row] for row in rows):
                scalars[name] = torch.tensor([[float(pictures.labels[row][name])] for row in own])
        smooth = {name for conditioner in self.conditioners if conditioner.smooth_maps for name in conditioner.maps}
        map_names = sorted({name for conditioner in self.conditioners for name in conditioner.maps} | set(self._masks))
        maps = {name: self.fitted.maps(name, drawn, name in smooth) for name in map_names}
        prompts = [self.prefix + text for text in chosen]
        prompts_by_encoder = [share.of(_emptied(prompts, gone)) for gone in dropped.encoders]
        encodings = self._encodings(prompts_by_encoder, maps)
        x = latents.rows(variant_rows, generator, share)
        without = {name: share.of(gone) for name, gone in dropped.conditions.items()}
        gone, labels = share.of(dropped.captions), [pictures.labels[row] for row in own]
        batch = Batch(x, encodings, scalars, gone, generator, pixels, maps, without, share, labels)
        return replace(inputs, batch=to_device(batch, self.processes.device))

    def _pixels(self, fitted: Fitted, rows: Sequence[int], order: BatchSampler, number: int) -> Tensor:
        """[B, 3, H, W] of this process's rows of a batch; the next batch is decoded during the step."""
        pixels = fitted.pixels(rows)
        if fitted.variants > 1:  # the variants of the next batch are drawn in its own step
            return pixels
        groups = order.groups_of(number + 1)
        share = self.processes.share([len(group) for group in groups])
        fitted.prefetch(share.of([row for group in groups for row in group]))
        return pixels

    def _fitted(self, pictures: Pictures) -> Fitted:
        """The pictures at the stage's sizes, in augmented variants except for those that must not be varied."""
        stage, augment, stays = self.blank.stage, self.blank.stage.augment, None
        if augment.count > 1 and not augment.anyway:
            with self.processes.main_process_first():
                stays = unvaried(pictures, self.out)
        return pictures.fitted(stage.size, stage.buckets, augment, stays)

    def _edited(self, captions: Sequence[str], group_sizes: Sequence[int], generator: torch.Generator) -> list[str]:
        """The captions of this step; those of a group are edited alike."""
        edits = self.blank.stage.captions
        seeds = [0] * len(captions)
        if edits.varies:
            drawn = torch.randint(1 << 62, (len(group_sizes),), generator=generator)
            seeds = drawn.repeat_interleave(torch.tensor(group_sizes)).tolist()
        return [edited(text, edits, seed) for text, seed in zip(captions, seeds, strict=True)]

    def _variants(self, rows: Sequence[int], group_sizes: Sequence[int], generator: torch.Generator) -> Sequence[int]:
        """The rows of ``fitted`` that represent rows in this step: one variant of each, the same for all of a group."""
        count = 1 if self.fitted is None else self.fitted.variants
        if count == 1:
            return rows
        drawn = torch.randint(count, (len(group_sizes),), generator=generator)
        variants = drawn.repeat_interleave(torch.tensor(group_sizes)).tolist()
        return [row + variant * len(self.pictures) for row, variant in zip(rows, variants, strict=True)]

    def prepared(self) -> Latents:
        """Encodes everything that is encoded once, as for the first batch; returns the latents."""
        # The cache is shared by stages of every precision.
        with torch.autocast(self.processes.device.type, enabled=False):
            self._latents = self._encoded_once()
            self._encode = self._text_encoder()
        return self._latents

    @property
    def runs_encoders(self) -> bool:
        """Whether steps ask the text encoders, whose answers are not all cached."""
        return self._encode is not None and not self._encode.cached

    @property
    def _encoder_maps(self) -> list[str]:
        """The maps that text encoders see with each caption."""
        if not any(encoder.reads_pictures for encoder in self.blank.system.text_encoders):
            return []
        return list(dict.fromkeys(name for each in self.conditioners for name in each.shown if name in each.maps))

    def _encodings(self, texts: Sequence[Sequence[str]], maps: Mapping[str, Tensor]) -> tuple[TextEncoding, ...]:
        """Encodes the texts of the rows, one list for each text encoder, with their pictures."""
        names = self._encoder_maps
        if not names:
            return cast(Encode, self._encode)(texts)
        rows = len(texts[0])
        pictures = [[to_image(maps[name][row]) for name in names] for row in range(rows)]
        encoders = self.blank.system.text_encoders
        return tuple(encoded(encoder, own, pictures) for encoder, own in zip(encoders, texts, strict=True))

    def _text_encoder(self) -> Encode:
        """The encoding function for captions: frozen parts of text encoders come from the cache."""
        system, pictures, stage = self.blank.system, self.pictures, self.blank.stage
        if self._encoder_maps:
            print(
                say(
                    "the text encoder of stage {name!r} looks at a picture with each caption, so each step encodes its "
                    "words",
                    name=stage.name,
                )
            )
            return cached_encoder(system, (), 0, self.out, writes=self.processes.is_main_process)
        edits = stage.captions
        if edits.varies:
            print(
                say(
                    "captions of stage {name!r} vary from step to step, so each step encodes its words", name=stage.name
                )
            )
            return cached_encoder(system, (), 0, self.out, writes=self.processes.is_main_process)
        texts = (
            self.prefix + edited(text, edits, 0)
            for group in pictures.groups
            for row in group
            for text in pictures.captions[row]
        )
        samples = stage.steps * stage.accumulate * stage.batch
        return cached_encoder(system, texts, samples, self.out, writes=self.processes.is_main_process)

    def _encoded_once(self) -> Latents:
        """All pictures in the level's space in half precision, encoded once and cached by data and encoder."""
        fitted = cast(Fitted, self.fitted)
        system = self.blank.system
        space = system.space(self.level)
        part = system.recipe.level(self.level).space
        while isinstance(part, str):
            part = system.recipe.level(part).space
        sampled = self.blank.stage.sample_latents and space.has_posterior
        name = hashlib.sha256(f"{fitted.digest} {dumps(part)}{' sampled' if sampled else ''}".encode())
        name.update(digest_tensors(cast(nn.Module, space).state_dict()).encode())
        path = self.out / "cache" / f"latents-{name.hexdigest()[:24]}.pt"
        places = torch.empty(len(fitted.sizes), dtype=torch.int64)
        rows_of: dict[Size, array[int]] = {}
        for row, size in enumerate(fitted.sizes):
            rows = rows_of.setdefault(size, array("q"))
            places[row] = len(rows)
            rows.append(row)
        if not path.is_file():
            path.parent.mkdir(exist_ok=True)
            drawn = {size: rows for size, rows in rows_of.items() if all(size)}
            with ExitStack() as files:
                every = {
                    _size_name(size): _on_disk(files, path.parent, self._encoded(space, rows, size, sampled), len(rows))
                    for size, rows in drawn.items()
                }
                save_whole(every, path)
        return Latents(torch.load(path, weights_only=True, mmap=True), fitted.sizes, places, sampled)

    def _encoded(self, space: Any, rows: Sequence[int], size: Size, sampled: bool) -> Iterator[Tensor]:
        """[B, *shape] of all rows of a size in half precision, or [B, 2, *shape], batch by batch."""
        fitted = cast(Fitted, self.fitted)
        count = encoded_at_once(size, self.blank.stage.batch)
        modes = space.training
        space.eval()
        title = say("encoding pictures {size}", size=_size_name(size))
        with torch.inference_mode():
            for first in counted(range(0, len(rows), count), title):
                pixels = fitted.pixels(rows[first : first + count], keep=bool(self.conditioners))
                fitted.prefetch(rows[first + count : first + 2 * count])
                pixels = to_device(pixels, self.processes.device)
                with default_device(self.processes.device):
                    x = torch.stack(space.posterior(pixels), dim=1) if sampled else space.encode(pixels)
                yield x.half().contiguous().cpu()
        space.train(modes)


def _size_name(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _on_disk(files: ExitStack, folder: Path, batches: Iterator[Tensor], count: int) -> Tensor:
    """[count, ...] from batches [B, ...], written to an unnamed file and memory-mapped: latents of a large data set do
    not fit in memory.
    """
    file = files.enter_context(tempfile.TemporaryFile(dir=folder))  # noqa: SIM115
    shape: tuple[int, ...] = ()
    for batch in batches:
        shape = tuple(batch.shape[1:])
        file.write(bytes_of(batch))
    file.flush()
    return torch.from_numpy(np.memmap(file, np.float16, "r+", shape=(count, *shape)))


def _emptied(texts: Sequence[str], gone: Tensor) -> list[str]:
    return ["" if out else text for text, out in zip(texts, gone.tolist(), strict=True)]


def _split(pictures: Pictures, share: float) -> tuple[Sequence[tuple[int, ...]], Sequence[tuple[int, ...]]]:
    """(training groups, validation groups), split by the hash of a picture's content and not by its index: more data
    moves none of them, and no copy of a validation picture is trained on.

    Raises TrainingError if one of the two is empty.
    """
    if not share:
        return pictures.groups, []
    held_out = np.empty(len(pictures.groups), bool)
    for number, group in enumerate(pictures.groups):
        digest = hashlib.sha256(pictures.contents[group[0]].encode()).digest()
        held_out[number] = int.from_bytes(digest[:7], "big") / (1 << 56) < share
    if held_out.all() or not held_out.any():
        raise TrainingError(
            "{count} groups of rows cannot be split by validation={share}; add data or change the share",
            count=len(pictures.groups),
            share=share,
        )
    return picked(pictures.groups, (~held_out).nonzero()[0]), picked(pictures.groups, held_out.nonzero()[0])


def _repeated(
    pictures: Pictures, groups: Sequence[tuple[int, ...]], repeats: Sequence[tuple[str, int]]
) -> Sequence[tuple[int, ...]]:
    """Repeats groups by (glob over "FOLDER/KEY" of their first row, count), the last match wins; once without a match.
    Raises RecipeError for a glob that matches nothing, and if nothing is left.
    """
    if not repeats:
        return groups
    names = [f"{pictures.homes[group[0]].name}/{pictures.keys[group[0]]}" for group in groups]
    counts = [1] * len(names)
    for glob, count in repeats:
        matched = [place for place, name in enumerate(names) if fnmatch.fnmatchcase(name, glob)]
        if not matched:
            near = ", ".join(nearest(glob, dict.fromkeys(names)) or names[:3])
            raise RecipeError("{glob!r} of repeats matches no row; some are {near}", glob=glob, near=near)
        for place in matched:
            counts[place] = count
    repeated = [group for group, count in zip(groups, counts, strict=True) for _ in range(count)]
    if not repeated:
        raise RecipeError("repeats leave nothing to learn: every row is taken 0 times")
    return repeated


def _with_pictures(pictures: Pictures) -> Pictures:
    """The groups whose rows all have a picture; the others are counted."""
    with_pictures = pictures.drawn()
    left = len(pictures.groups) - len(with_pictures.groups)
    if left:
        print(say("{left} rows have no picture; this stage leaves them out", left=left))
    return with_pictures


def _by_language(pictures: Pictures, row: int) -> dict[str, tuple[str, ...]]:
    pairs = list(zip(pictures.languages[row], pictures.captions[row], strict=True))
    return {language: tuple(t for other, t in pairs if other == language) for language, _ in pairs}
