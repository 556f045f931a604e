"""What a stage learns from, step by step: which rows, their captions, pixels or latents, encoded once."""

# torch leaves parts of its interface untyped; what crosses it here is named where it is kept.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from bimo.core.errors import TrainingError
from bimo.core.hashing import digest_tensors
from bimo.core.messages import say
from bimo.core.part import dumps
from bimo.core.tensors import Batch, Share
from bimo.data.loader import Fitted, Pictures, Size
from bimo.training.conditioning_dropout import ConditioningDropout
from bimo.training.distributed.devices import default_device, to_device
from bimo.training.distributed.processes import ALONE, Processes
from bimo.training.encoding_cache import Encode, cached_encoder
from bimo.training.logging import counted, save_whole
from bimo.training.train_inputs import TrainInputs

ENCODE_BATCH = 64
#: What a batch of encoding holds at most, so that large pictures go through one by one.
ENCODE_PIXELS = ENCODE_BATCH * 128 * 128


class BatchSampler:
    """The rows of every batch of a stage: epochs in shuffled order, a lot never parted, a batch never of two sizes.

    With one size what is left of an epoch after its last full batch is left out; with several a batch that a size
    cannot fill takes rows of that size twice, so that no picture is never seen.
    """

    def __init__(self, lots: Sequence[tuple[int, ...]], sizes: Sequence[Size], batch: int, seed: int) -> None:
        self.lots, self.seed = lots, seed
        self.count = max(1, batch // len(lots[0]))
        groups: dict[Size, list[int]] = {}
        for number, lot in enumerate(lots):
            groups.setdefault(sizes[lot[0]], []).append(number)
        self.sizes = sorted(groups)
        self.groups = [groups[size] for size in self.sizes]
        whole = len(self.groups) == 1
        self.per_epoch = max(1, len(lots) // self.count if whole else sum(map(self._batches, self.groups)))
        self._kept: tuple[int, list[list[int]]] = (-1, [])

    def groups_of(self, number: int) -> list[tuple[int, ...]]:
        """The lots of a batch by its number, counted through all epochs."""
        epoch, at = divmod(number, self.per_epoch)
        if self._kept[0] != epoch:
            self._kept = (epoch, self._epoch(epoch))
        return [self.lots[lot] for lot in self._kept[1][at]]

    def _epoch(self, epoch: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        orders = [[g[i] for i in torch.randperm(len(g), generator=generator).tolist()] for g in self.groups]
        if len(orders) == 1:
            return [orders[0][at * self.count : (at + 1) * self.count] for at in range(self.per_epoch)]
        batches: list[list[int]] = []
        for order in orders:
            full = self._batches(order) * self.count
            again = (order * (full // len(order) + 1))[:full]
            batches += [again[at : at + self.count] for at in range(0, full, self.count)]
        return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]

    def _batches(self, group: Sequence[int]) -> int:
        return -(-len(group) // self.count)


@dataclass(frozen=True)
class Latents:
    """Pictures in a level's space: a tensor [n, *shape] a size, and each row's place in that of its size; where they
    are to be sampled [n, 2, *shape], mean and deviation.
    """

    tensors: dict[str, Tensor]
    places: list[tuple[str, int]]
    sampled: bool

    def rows(self, rows: Sequence[int], generator: torch.Generator, share: Share) -> Tensor:
        """[B, *shape] of a share of rows of one size, drawn by ``generator`` where they are sampled."""
        name = self.places[rows[0]][0]
        found = self.tensors[name][[self.places[row][1] for row in share.of(rows)]].float()
        if not self.sampled:
            return found
        mean, deviation = found.unbind(1)
        return mean + deviation * share.of(torch.randn((len(rows), *mean.shape[1:]), generator=generator))


class TrainLoader:
    """The lessons of a stage. ``out`` is the folder of the run, where what is encoded is kept."""

    def __init__(
        self,
        blank: TrainInputs,
        sees: str,
        levels: Sequence[str],
        pictures: Pictures,
        out: Path,
        seed: int,
        processes: Processes = ALONE,
    ) -> None:
        pictures = pictures if sees == "texts" else _with_pictures(pictures)
        self.blank, self.sees, self.level, self.pictures, self.out = blank, sees, next(iter(levels), ""), pictures, out
        self.processes = processes
        stage = blank.stage
        self.fitted: Fitted | None = None if sees == "texts" else pictures.fitted(stage.size, stage.buckets)
        sizes = pictures.sizes if self.fitted is None else self.fitted.sizes
        sizes = sizes if stage.buckets and self.fitted is not None else [(0, 0)] * len(pictures)
        learnt, held_out = _parted(pictures, stage.validation)
        self.order = BatchSampler(learnt, sizes, stage.batch, seed)
        self.held_out = BatchSampler(held_out, sizes, stage.batch, seed) if held_out else None
        self.hints = [hint for name in levels for hint in blank.system.level(name).conditioners]
        #: What stands before every prompt that a denoiser is told stands before the captions that teach it.
        self.prefix = blank.system.recipe.request.prefix if sees == "latents" else ""
        self.dropping = ConditioningDropout(stage, len(blank.system.text_encoders), self.hints)
        self._latents: Latents | None = None
        self._encode: Encode | None = None

    def inputs(self, number: int, generator: torch.Generator, order: BatchSampler | None = None) -> TrainInputs:
        """The lesson of a batch by its number; all that is random in it comes from ``generator``. ``order`` may be
        ``held_out``.
        """
        lots = (order or self.order).groups_of(number)
        rows = [row for lot in lots for row in lot]
        pictures = self.pictures
        # What goes together has its captions chosen, and dropped, together.
        every = [len(lot) for lot in lots]
        dropped = self.dropping.of(every, generator)
        picks = torch.rand(len(lots), generator=generator).repeat_interleave(torch.tensor(every)).tolist()
        captions = [pictures.captions[row] or ("",) for row in rows]
        chosen = [some[int(p * len(some))] for some, p in zip(captions, picks, strict=True)]
        share = self.processes.share(every)
        lesson = replace(
            self.blank,
            share=share,
            generator=generator,
            labels=[pictures.labels[row] for row in rows],
            texts=_emptied(chosen, dropped.captions),
            captions=[_by_language(pictures, row) for row in rows],
        )
        if self.fitted is None:
            return lesson
        own = share.of(rows)
        if self.sees == "pixels":
            return replace(lesson, pixels=to_device(self.fitted.pixels(own), self.processes.device))
        latents, encode = self._latents or self.prepared(), self._encode
        said = [self.prefix + text for text in chosen]
        encodings = cast(Encode, encode)([share.of(_emptied(said, gone)) for gone in dropped.encoders])
        scalars = {"size_ids": self.fitted.size_ids[own]}
        if pictures.poses is not None:
            scalars["pose"] = pictures.poses[own]
        for name in _read_by(self.hints, "labels"):
            if all(name in pictures.labels[row] for row in rows):
                scalars[name] = torch.tensor([[float(pictures.labels[row][name])] for row in own])
        maps = {name: self.fitted.maps(name, own) for name in _read_by(self.hints, "maps")}
        # Pixels are loaded only if a conditioner needs them.
        pixels = self.fitted.pixels(own) if self.hints else None
        x = latents.rows(rows, generator, share)
        without = {name: share.of(gone) for name, gone in dropped.conditions.items()}
        batch = Batch(x, encodings, scalars, share.of(dropped.captions), generator, pixels, maps, without, share)
        return replace(lesson, batch=to_device(batch, self.processes.device))

    def prepared(self) -> Latents:
        """Has everything encoded that is encoded once, as the first lesson would have it; answers the latents."""
        # What is kept serves stages of every precision.
        with torch.autocast(self.processes.device.type, enabled=False):
            self._latents = self._encoded_once()
            self._encode = self._asked()
        return self._latents

    def _asked(self) -> Encode:
        """How the text towers are asked: once for all what is frozen of them."""
        system, pictures, stage = self.blank.system, self.pictures, self.blank.stage
        texts = {self.prefix + text for lot in pictures.lots for row in lot for text in pictures.captions[row]}
        asked = stage.steps * stage.accumulate * stage.batch
        return cached_encoder(system, texts, asked, self.out, writes=self.processes.is_main_process)

    def _encoded_once(self) -> Latents:
        """All pictures in the level's space, half precision: encoded once, kept by data and encoder."""
        fitted = cast(Fitted, self.fitted)
        system = self.blank.system
        space = system.space(self.level)
        part = system.recipe.level(self.level).space
        while isinstance(part, str):
            part = system.recipe.level(part).space
        sampled = self.blank.stage.sample_latents and hasattr(space, "posterior")
        name = hashlib.sha256(f"{fitted.digest} {dumps(part)}{' sampled' if sampled else ''}".encode())
        name.update(digest_tensors(cast(nn.Module, space).state_dict()).encode())
        path = self.out / "cache" / f"latents-{name.hexdigest()[:24]}.pt"
        groups: dict[str, list[int]] = {}
        places: list[tuple[str, int]] = []
        for row, (width, height) in enumerate(fitted.sizes):
            group = groups.setdefault(f"{width}x{height}", [])
            places.append((f"{width}x{height}", len(group)))
            group.append(row)
        if not path.is_file():
            drawn = {size: rows for size, rows in groups.items() if all(fitted.sizes[rows[0]])}
            every = {size: torch.cat(list(self._encoded(space, rows, size, sampled))) for size, rows in drawn.items()}
            path.parent.mkdir(exist_ok=True)
            save_whole(every, path)
        return Latents(torch.load(path, weights_only=True, mmap=True), places, sampled)

    def _encoded(self, space: Any, rows: Sequence[int], size: str, sampled: bool) -> Iterable[Tensor]:
        fitted = cast(Fitted, self.fitted)
        width, height = fitted.sizes[rows[0]]
        count = max(1, min(ENCODE_BATCH, ENCODE_PIXELS // (width * height)))
        modes = space.training
        space.eval()
        title = say("encoding pictures {size}", size=size)
        with torch.inference_mode():
            for first in counted(range(0, len(rows), count), title):
                pixels = to_device(fitted.pixels(rows[first : first + count]), self.processes.device)
                with default_device(self.processes.device):
                    x = torch.stack(space.posterior(pixels), dim=1) if sampled else space.encode(pixels)
                yield x.half().contiguous().cpu()
        space.train(modes)


def _emptied(texts: Sequence[str], gone: Tensor) -> list[str]:
    return ["" if out else text for text, out in zip(texts, gone.tolist(), strict=True)]


def _parted(pictures: Pictures, share: float) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Lots to learn and lots held out: what a picture is says which, not its number, so that more data moves none of
    them and no copy of a picture that is held out is learnt.

    Raises TrainingError where one of the two would be empty.
    """
    if not share:
        return pictures.lots, []
    parted: tuple[list[tuple[int, ...]], list[tuple[int, ...]]] = ([], [])
    for lot in pictures.lots:
        place = int.from_bytes(hashlib.sha256(pictures.contents[lot[0]].encode()).digest()[:7], "big") / (1 << 56)
        parted[place < share].append(lot)
    if not parted[0] or not parted[1]:
        raise TrainingError(
            "{count} lots cannot be parted by validation={share}; add data or change the share",
            count=len(pictures.lots),
            share=share,
        )
    return parted


def _with_pictures(pictures: Pictures) -> Pictures:
    """Those that have one, the rest counted."""
    kept = pictures.drawn()
    left = len(pictures.lots) - len(kept.lots)
    if left:
        print(say("{left} rows have no picture; this stage leaves them out", left=left))
    return kept


def _read_by(hints: Sequence[object], kind: str) -> list[str]:
    """The names of the "labels" or "maps" of the data that hints read."""
    return sorted({str(name) for hint in hints for name in getattr(hint, kind, ())})


def _by_language(pictures: Pictures, row: int) -> dict[str, tuple[str, ...]]:
    pairs = list(zip(pictures.languages[row], pictures.captions[row], strict=True))
    return {language: tuple(t for other, t in pairs if other == language) for language, _ in pairs}
