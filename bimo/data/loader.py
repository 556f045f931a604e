"""Training data from shards: pixels at the sizes of a stage, captions and labels, all read on demand."""

# numpy's arrays are typed in part.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import copy
import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bimo.core import colour
from bimo.core.errors import DataError, RequestError
from bimo.core.messages import say
from bimo.core.part import dumps
from bimo.core.stage_data import Augmentation
from bimo.data import shards
from bimo.data.augment import is_flipped, varied
from bimo.data.pixels import PixelReader
from bimo.data.rows import Column, RowIndex, undecodable
from bimo.diffusion.image_inputs import middle

if TYPE_CHECKING:
    from PIL import Image

#: The version of the preprocessing: latents of another version are encoded again.
VERSION = 2
AS_IT_IS = Augmentation()
#: The map of a picture's alpha channel. Pictures without one are opaque.
ALPHA = "alpha"
#: Maps that weight the loss by pixel: the alpha channel, and a mask file. Without them all pixels count.
MASKS = (ALPHA, "masklabel")
#: Width and height in pixels.
Size = tuple[int, int]


def buckets(area: int, step: int = 64, ratio: float = 2.0) -> tuple[Size, ...]:
    """All sizes of at most ``area`` pixels whose sides are multiples of ``step``, the largest of each width, with the
    longer side at most ``ratio`` times the shorter: aspect buckets as SDXL's (arXiv:2307.01952, appendix I).
    """
    sizes: dict[Size, None] = {}
    for width in range(step, int(math.sqrt(area * ratio)) + 1, step):
        height = area // width // step * step
        if height and max(width, height) <= ratio * min(width, height):
            sizes |= {(width, height): None, (height, width): None}
    return tuple(sorted(sizes))


def fitted_size(size: Size, choices: Sequence[Size]) -> Size:
    """The size with the aspect ratio nearest to that of a picture: the first of equals."""
    shape = math.log(size[0] / size[1])
    return min(choices, key=lambda choice: abs(math.log(choice[0] / choice[1]) - shape))


def cut(size: Size, wanted: Size) -> tuple[Size, int, int]:
    """(size to resize to, left, top) for a centre crop to a size."""
    scale = max(wanted[0] / size[0], wanted[1] / size[1])
    width, height = (max(round(side * scale), least) for side, least in zip(size, wanted, strict=True))
    return (width, height), (width - wanted[0]) // 2, (height - wanted[1]) // 2


class Pictures:
    """All rows of some folders of shards. ``digest`` identifies the content, so that caches never pair wrong rows.

    Columns are read from the shards on demand: ``homes`` are the folders of rows, in which their files are found by
    their ``keys``; ``contents`` identify rows by their pictures' bytes, or their texts, whatever their path and name.
    ``captions`` and their ``languages`` go row by row, several each. Texts without a picture have the size (0, 0).

    ``groups`` are the rows that are trained on together, one each unless a stage's objective wants pairs or leaves some
    out; rows of a folder are repeated in an epoch by its entry in ``repeats``, once by default. ``cache`` is the folder
    of the row index and of some decoded pixels, by default next to the first folder's shards.
    """

    def __init__(self, *folders: Path, cache: Path | None = None, repeats: Sequence[int] = ()) -> None:
        digests = [shards.read_index(folder).digest for folder in folders]
        self.folders, self.cache = folders, cache
        self.digest = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
        _remove_old_pixels(self.cache_folder)
        self._index = index = RowIndex(folders, self.digest, self.cache_folder)
        count = len(index)
        self.keys: Sequence[str] = Column(count, index.key)
        self.homes: Sequence[Path] = Column(count, index.home)
        self.contents: Sequence[str] = Column(count, lambda row: index.rows[row]["content"].tobytes().hex())
        self.captions: Sequence[tuple[str, ...]] = Column(
            count, lambda row: tuple(c["text"] for c in index.record(row)["captions"])
        )
        self.languages: Sequence[tuple[str, ...]] = Column(
            count, lambda row: tuple(c.get("lang", "") for c in index.record(row)["captions"])
        )
        self.labels: Sequence[Mapping[str, Any]] = Column(count, lambda row: index.record(row)["labels"])
        self.sizes: Sequence[Size] = _sizes(index.rows["size"])
        self.groups: Sequence[tuple[int, ...]] = Column(count, lambda row: (row,))
        if any(times != 1 for times in repeats):
            # Other repeats are other data; caches of the rows themselves stay valid.
            self.digest = hashlib.sha256(f"{self.digest} {tuple(repeats)}".encode()).hexdigest()
            self.groups = picked(self.groups, np.arange(count).repeat(_times(index, folders, repeats)))
        #: [N, numbers of a pose], NaN for a row without one; None if no row has one.
        self.poses: Tensor | None = None
        if len(rows := index.rows["posed"].nonzero()[0]):
            poses = torch.tensor([index.record(row)["pose"] for row in rows.tolist()], dtype=torch.float32)
            self.poses = torch.full((count, poses.shape[1]), math.nan)
            self.poses[rows] = poses

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def cache_folder(self) -> Path:
        """The folder of the row index and of decoded pixels."""
        return self.cache or self.folders[0] / ".cache"

    def drawn(self) -> Pictures:
        """The groups whose rows all have a picture. Raises DataError if there are none."""
        has_picture = self.has_picture()
        numbers = np.fromiter((n for n, group in enumerate(self.groups) if all(has_picture[list(group)])), np.int64)
        if not len(numbers):
            raise DataError(
                "these data are texts without pictures, and this stage learns from pictures; give some besides, "
                "built by bimo data folder or bimo curate"
            )
        if len(numbers) == len(self.groups):
            return self
        return self.of(picked(self.groups, numbers))

    def has_picture(self) -> npt.NDArray[np.bool_]:
        """[N]: which rows have a picture and are not texts only."""
        return (self._index.rows["size"] > 0)[:, 0]

    def of(self, groups: Sequence[tuple[int, ...]], captions: Sequence[tuple[str, ...]] | None = None) -> Pictures:
        """The same pictures in other groups, and with other ``captions`` if some are given."""
        made = copy.copy(self)
        made.groups = groups
        if captions is not None:
            made.captions = captions
            made.languages = Column(len(captions), lambda row: ("",) * len(captions[row]))
        return made

    def fitted(
        self,
        size: Size | None = None,
        buckets: Sequence[Size] = (),
        augment: Augmentation = AS_IT_IS,
        unvaried: npt.NDArray[np.bool_] | None = None,
    ) -> Fitted:
        """The pictures at one size, at the nearest of several, or at their own, in as many variants as ``augment``
        says; those of rows that are ``unvaried`` [N] are equal. Rows of a group have one size.

        Raises DataError if no size is given and they differ, and for texts without pictures.
        """
        has_picture = self.has_picture()
        bare = next((row for group in self.groups for row in group if not has_picture[row]), None)
        if bare is not None:
            raise DataError(
                "{bare} is text without a picture, and this stage learns from pictures; build its data by bimo "
                "data folder or bimo curate",
                bare=self.keys[bare],
            )
        sizes = np.array(self._index.rows["size"], np.int64)
        if buckets or size:
            own, places = np.unique(sizes, axis=0, return_inverse=True)
            wanted = [((fitted_size((w, h), buckets) if buckets else size) if w and h else (w, h)) for w, h in own]
            sizes = np.array(wanted, np.int64)[places.reshape(-1)]
        if self.groups and len(self.groups[0]) > 1:
            for group in self.groups:
                sizes[list(group[1:])] = sizes[group[0]]
        drawn = has_picture.nonzero()[0]
        others = drawn[(sizes[drawn] != sizes[drawn[:1]]).any(axis=1)]
        if not buckets and len(others):
            first, other = int(drawn[0]), int(others[0])
            raise DataError(
                "{keys} is of size {sizes}, {keys_2} of {sizes_2}; give the stage of the recipe a size (or buckets)",
                keys=self.keys[other],
                sizes=_sizes(sizes)[other],
                keys_2=self.keys[first],
                sizes_2=_sizes(sizes)[first],
            )
        return Fitted(self, sizes, augment, unvaried)

    def picture(self, row: int) -> Image.Image:
        """A row's picture in RGB, converted to sRGB by its profile. Raises DataError if it cannot be decoded."""
        from PIL import Image

        try:
            with Image.open(io.BytesIO(self._index.image(row))) as picture:
                picture.load()
                return colour.opaque(picture)[0]
        except (OSError, RequestError) as error:
            raise undecodable(self.keys[row], error) from None


class Fitted:
    """Pictures at the ``sizes`` of a stage, decoded on demand.

    Of N pictures in V variants there are N V rows: the v-th variant of row r, from 0, is row r + v N.
    """

    def __init__(
        self,
        pictures: Pictures,
        sizes: npt.NDArray[np.int64],
        augment: Augmentation = AS_IT_IS,
        unvaried: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        self.variants = augment.count
        self.sizes: Sequence[Size] = _sizes(np.tile(sizes, (self.variants, 1)) if self.variants > 1 else sizes)
        self._pictures, self._augment = pictures, augment
        self._unvaried = np.zeros(len(sizes), np.bool_) if unvaried is None else unvaried
        self.digest = _digest(pictures.digest, sizes)
        if self.variants > 1:
            settings = f"{self.digest} {dumps(augment)} {self._unvaried.tobytes().hex()}"
            self.digest = hashlib.sha256(settings.encode()).hexdigest()
        self._reader = PixelReader(len(self.sizes), self._decoded, self._shape, pictures.cache_folder)

    def variant_of(self, row: int) -> tuple[int, int]:
        """(row of the data, its variant) of a row."""
        variant, own = divmod(row, len(self._pictures))
        return own, 0 if self._unvaried[own] else variant

    def size_ids(self, rows: Sequence[int]) -> Tensor:
        """[B, 6] of rows: original height and width, top and left of the crop, target height and width."""
        ids: list[tuple[int, ...]] = []
        for row in rows:
            own, wanted = self._pictures.sizes[self.variant_of(row)[0]], self.sizes[row]
            _, left, top = cut(own, wanted)
            ids.append((own[1], own[0], top, left, wanted[1], wanted[0]))
        return torch.tensor(ids, dtype=torch.float32)

    def prefetch(self, rows: Sequence[int]) -> None:
        """Starts decoding the rows of the next batch."""
        self._reader.prefetch(rows)

    def pixels(self, rows: Sequence[int], keep: bool = True) -> Tensor:
        """[B, 3, H, W] in [-1, 1] of rows of one size, channels last in memory. ``keep`` caches them for later use."""
        pixels = self._reader.read(rows, keep)
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)

    def maps(self, name: str, rows: Sequence[int], smooth: bool = False) -> Tensor:
        """[B, 3, H, W] in [-1, 1] of rows of one size: maps/NAME/KEY.png next to the shards of each row, cropped as the
        pictures are; the same key in another folder is another picture. ``smooth`` resizes them as photographs.

        Raises DataError if a picture has none.
        """
        from PIL import Image

        width, height = self.sizes[rows[0]]
        picked = np.empty((len(rows), height, width, 3), dtype=np.uint8)
        for place, row in enumerate(rows):
            own, variant = self.variant_of(row)
            home, key = self._pictures.homes[own], self._pictures.keys[own]
            path = home / "maps" / name / f"{key}.png"
            if name in MASKS and not path.is_file():
                picked[place] = 255
                continue
            if not path.is_file():
                raise DataError(
                    "the picture {keys} of {homes} has no {name} map; expected {path}",
                    keys=key,
                    homes=home,
                    name=name,
                    path=path,
                )
            with Image.open(path) as map_:
                inner = middle(map_.convert("RGB"), (width, height))
                resized_to, left, top = cut(inner.size, (width, height))
                # Labels use the nearest pixel: they have no mean.
                resized = inner.resize(resized_to, Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST)
                pixels = np.asarray(resized.crop((left, top, left + width, top + height)))
                picked[place] = pixels[:, ::-1] if is_flipped(self._augment, variant) else pixels
        return torch.from_numpy(picked).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)

    def _shape(self, row: int) -> tuple[int, int, int]:
        width, height = self.sizes[row]
        return height, width, 3

    def _decoded(self, row: int) -> npt.NDArray[np.uint8]:
        """[H, W, 3] of a row, resized to cover its size and cropped at its centre."""
        from PIL import Image

        own, variant = self.variant_of(row)
        picture, wanted = self._pictures.picture(own), self.sizes[row]
        if picture.size != wanted:
            picture = middle(picture, wanted)
            resized_to, left, top = cut(picture.size, wanted)
            picture = picture.resize(resized_to, Image.Resampling.LANCZOS)
            picture = picture.crop((left, top, left + wanted[0], top + wanted[1]))
        return np.asarray(varied(picture, self._augment, self._pictures.contents[own], variant))


def picked(groups: Sequence[tuple[int, ...]], numbers: npt.NDArray[np.int64]) -> Sequence[tuple[int, ...]]:
    """The groups of some numbers."""
    return Column(len(numbers), lambda place: groups[int(numbers[place])])


def _times(index: RowIndex, folders: Sequence[Path], repeats: Sequence[int]) -> npt.NDArray[np.int64]:
    """[N]: how often each row occurs in an epoch."""
    counts = [shards.read_index(folder).count for folder in folders]
    times = np.repeat(np.asarray(repeats, np.int64), counts)
    assert len(times) == len(index)
    return times


def _sizes(sizes: npt.NDArray[Any]) -> Sequence[Size]:
    """(width, height) of rows, of an array [N, 2]."""
    return Column(len(sizes), lambda row: (int(sizes[row, 0]), int(sizes[row, 1])))


def _digest(digest: str, sizes: npt.NDArray[np.int64]) -> str:
    """A digest of some data's pixels at some sizes, equal to that of earlier versions, so that cached latents stay
    valid.
    """
    plan = hashlib.sha256(f"{digest} [".encode())
    for start in range(0, len(sizes), 4096):
        listed = ", ".join(f"({width}, {height})" for width, height in sizes[start : start + 4096].tolist())
        plan.update(f"{', ' if start else ''}{listed}".encode())
    plan.update(f"] {VERSION}".encode())
    return plan.hexdigest()


def _remove_old_pixels(cache: Path) -> None:
    """Removes the decoded copies of whole data sets that earlier versions cached."""
    removed = 0
    for path in cache.glob("pixels-*.u8"):
        with suppress(OSError):  # of another process or a read-only disk: unused, and harmless
            size = path.stat().st_size
            path.unlink()
            removed += size
    if removed:
        print(
            say(
                "removed {size} MB of decoded pixels of an earlier version from {cache}: pictures are decoded as they "
                "are learnt",
                size=removed >> 20,
                cache=cache,
            )
        )
