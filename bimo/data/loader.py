"""Shards as training wants them: pixels decoded once at the sizes of a stage, captions and labels in memory."""

# numpy's arrays are typed in part.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import copy
import errno
import hashlib
import io
import math
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from bimo.core import colour
from bimo.core.errors import DataError, RequestError
from bimo.data import shards
from bimo.diffusion.image_inputs import middle

if TYPE_CHECKING:
    from PIL import Image

#: How pixels are made of a picture: decoded ones of another version are decoded again.
VERSION = 2
#: Width and height in pixels.
Size = tuple[int, int]


def buckets(area: int, step: int = 64, ratio: float = 2.0) -> tuple[Size, ...]:
    """All sizes of at most ``area`` pixels whose sides are multiples of ``step``, the largest of each width, with the
    longer side at most ``ratio`` times the shorter: aspect buckets as SDXL's (arXiv:2307.01952, appendix I).
    """
    found: dict[Size, None] = {}
    for width in range(step, int(math.sqrt(area * ratio)) + 1, step):
        height = area // width // step * step
        if height and max(width, height) <= ratio * min(width, height):
            found |= {(width, height): None, (height, width): None}
    return tuple(sorted(found))


def fitted_size(size: Size, choices: Sequence[Size]) -> Size:
    """The one of some sizes whose shape is nearest to that of a picture: the first of equals."""
    shape = math.log(size[0] / size[1])
    return min(choices, key=lambda choice: abs(math.log(choice[0] / choice[1]) - shape))


def cut(size: Size, wanted: Size) -> tuple[Size, int, int]:
    """(size to resize to, left, top) with which a picture covers a size: its shape stays, its middle is kept."""
    scale = max(wanted[0] / size[0], wanted[1] / size[1])
    width, height = (max(round(side * scale), least) for side, least in zip(size, wanted, strict=True))
    return (width, height), (width - wanted[0]) // 2, (height - wanted[1]) // 2


class Pictures:
    """All rows of some folders of shards. ``digest`` names the content, so caches never pair wrong rows.

    ``homes`` are the folders that rows are of, in which what belongs to them is looked for by their ``keys``;
    ``contents`` name what rows are by their pictures' bytes, or their texts, wherever they lie and however they are
    called. ``cache`` is where decoded pixels are kept, beside the first folder's shards where it is None.

    ``captions`` and their ``languages`` go row by row, several each; ``lots`` are the rows that are learnt together,
    one each unless a stage's objective wants pairs or leaves some out. Texts without a picture are of no size, (0, 0).
    """

    def __init__(self, *folders: Path, cache: Path | None = None) -> None:
        digests = [shards.read_index(folder).digest for folder in folders]
        self.folders, self.cache = folders, cache
        self.digest = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
        self.keys: list[str] = []
        self.homes: list[Path] = []
        self.contents: list[str] = []
        self.captions: list[tuple[str, ...]] = []
        self.languages: list[tuple[str, ...]] = []
        self.labels: list[Mapping[str, Any]] = []
        self.sizes: list[Size] = []
        poses: list[Sequence[float]] = []
        for home, key, image, row in self._read():
            self.keys.append(key)
            self.homes.append(home)
            self.contents.append(_content(image, row))
            self.captions.append(tuple(c["text"] for c in row["captions"]))
            self.languages.append(tuple(c.get("lang", "") for c in row["captions"]))
            self.labels.append(row["labels"])
            self.sizes.append(_size(image, key))
            poses.append(row.get("pose") or ())
        if not self.keys:
            listed = ", ".join(map(str, folders))
            raise DataError("there is not one picture in {listed}", listed=listed)
        #: [N, numbers of a pose], NaN for a row that declares none; None where no row does.
        self.poses: Tensor | None = None
        if count := max(map(len, poses)):
            self.poses = torch.tensor([pose or (math.nan,) * count for pose in poses], dtype=torch.float32)
        self.lots: list[tuple[int, ...]] = [(row,) for row in range(len(self.keys))]

    def __len__(self) -> int:
        return len(self.keys)

    def drawn(self) -> Pictures:
        """Those lots of which every row has a picture. Raises DataError where none has."""
        lots = [lot for lot in self.lots if all(all(self.sizes[row]) for row in lot)]
        if not lots:
            raise DataError(
                "these data are texts without pictures, and this stage learns from pictures; give some besides, "
                "built by bimo data folder or bimo curate"
            )
        return self if len(lots) == len(self.lots) else self.of(lots)

    def of(self, lots: Sequence[tuple[int, ...]], captions: Sequence[tuple[str, ...]] | None = None) -> Pictures:
        """The same pictures to be learnt in other lots, and with other captions where some are given."""
        made = copy.copy(self)
        made.lots = list(lots)
        if captions is not None:
            made.captions = list(captions)
            made.languages = [("",) * len(some) for some in captions]
        return made

    def fitted(self, size: Size | None = None, buckets: Sequence[Size] = ()) -> Fitted:
        """The pictures at one size, at the nearest of several, or as they are. Rows of a lot have one size.

        Raises DataError where neither is given and they are not all of one size, and for texts without pictures.
        """
        bare = next((self.keys[row] for lot in self.lots for row in lot if not all(self.sizes[row])), None)
        if bare is not None:
            raise DataError(
                "{bare} is text without a picture, and this stage learns from pictures; build its data by bimo "
                "data folder or bimo curate",
                bare=bare,
            )
        sizes = [(fitted_size(s, buckets) if buckets else size or s) if all(s) else s for s in self.sizes]
        for lot in self.lots:
            for row in lot[1:]:
                sizes[row] = sizes[lot[0]]
        seen = [row for row, one in enumerate(sizes) if all(one)]
        if not buckets and len({sizes[row] for row in seen}) > 1:
            first = seen[0]
            other = next(row for row in seen if sizes[row] != sizes[first])
            raise DataError(
                "{keys} is of size {sizes}, {keys_2} of {sizes_2}; give the stage of the recipe a size (or buckets)",
                keys=self.keys[other],
                sizes=sizes[other],
                keys_2=self.keys[first],
                sizes_2=sizes[first],
            )
        return Fitted(self, sizes)

    def _read(self) -> Iterator[tuple[Path, str, bytes, dict[str, Any]]]:
        for folder in self.folders:
            for key, image, row in shards.read(folder):
                yield folder, key, image, row

    def decoded(self) -> Iterator[tuple[str, Image.Image]]:
        """(key, picture in RGB, in sRGB by its profile) of every row that has one. Raises DataError for one that cannot
        be decoded.
        """
        from PIL import Image

        for _, key, image, _ in self._read():
            if not image:
                continue
            try:
                with Image.open(io.BytesIO(image)) as picture:
                    picture.load()
                    yield key, colour.opaque(picture)[0]
            except (OSError, RequestError) as error:
                raise _undecodable(key, error) from None


class Fitted:
    """Pictures at the sizes a stage learns them at, decoded once into a file beside the shards, or in ``cache``.

    ``size_ids`` [N, 6] are height and width of the original, top and left of the cut, height and width.
    """

    def __init__(self, pictures: Pictures, sizes: Sequence[Size]) -> None:
        self.sizes = list(sizes)
        self._homes, self._keys = pictures.homes, pictures.keys
        # The version of how pixels are made of a picture: by its profile, and strips by their middle.
        plan = f"{pictures.digest} {self.sizes} {VERSION}".encode()
        self.digest = hashlib.sha256(plan).hexdigest()
        ids: list[tuple[int, ...]] = []
        for own, wanted in zip(pictures.sizes, self.sizes, strict=True):
            _, left, top = cut(own, wanted) if all(own) else (own, 0, 0)
            ids.append((own[1], own[0], top, left, wanted[1], wanted[0]))
        self.size_ids = torch.tensor(ids, dtype=torch.float32)
        self.starts: list[int] = [0]
        for width, height in self.sizes:
            self.starts.append(self.starts[-1] + width * height * 3)
        path = (pictures.cache or pictures.folders[0] / ".cache") / f"pixels-{self.digest[:16]}.u8"
        if not path.is_file():
            self._kept(pictures, path)
        self._bytes = np.memmap(path, dtype=np.uint8, mode="r")

    def pixels(self, rows: Sequence[int]) -> Tensor:
        """[B, 3, H, W] in [-1, 1] of rows of one size, channels last in memory."""
        width, height = self.sizes[rows[0]]
        picked = np.empty((len(rows), height, width, 3), dtype=np.uint8)
        for place, row in enumerate(rows):
            picked[place] = self._bytes[self.starts[row] : self.starts[row + 1]].reshape(height, width, 3)
        return torch.from_numpy(picked).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)

    def maps(self, name: str, rows: Sequence[int]) -> Tensor:
        """[B, 3, H, W] in [-1, 1] of rows of one size: maps/NAME/KEY.png beside the shards that a row is of, cut as the
        pictures are: the same key in another folder is another picture.

        Raises DataError where a picture has none.
        """
        from PIL import Image

        width, height = self.sizes[rows[0]]
        picked = np.empty((len(rows), height, width, 3), dtype=np.uint8)
        for place, row in enumerate(rows):
            path = self._homes[row] / "maps" / name / f"{self._keys[row]}.png"
            if not path.is_file():
                raise DataError(
                    "the picture {keys} of {homes} has no {name} map; expected {path}",
                    keys=self._keys[row],
                    homes=self._homes[row],
                    name=name,
                    path=path,
                )
            with Image.open(path) as map_:
                inner = middle(map_.convert("RGB"), (width, height))
                whole, left, top = cut(inner.size, (width, height))
                # The nearest pixel: two labels have no mean.
                resized = inner.resize(whole, Image.Resampling.NEAREST)
                picked[place] = np.asarray(resized.crop((left, top, left + width, top + height)))
        return torch.from_numpy(picked).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)

    def _kept(self, pictures: Pictures, path: Path) -> None:
        """Decodes into a file, whole or not at all. Raises DataError where the disk does not take it."""
        size = self.starts[-1]
        part = path.with_suffix(f".{os.getpid()}.part")
        made = not path.parent.exists()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                if hasattr(os, "posix_fallocate") and size:
                    # A disk that is too small says so now, not hours later with a heap of it filled.
                    with _supported():
                        os.posix_fallocate(file.fileno(), 0, size)
                self._decode(pictures, file)
            os.replace(part, path)
        except OSError as error:
            raise DataError(
                "the decoded pixels ({size} MB) cannot be written to {parent}: {strerror}; name another folder "
                "with room that may be written in by --cache",
                size=size >> 20,
                parent=path.parent,
                strerror=error.strerror,
            ) from error
        finally:
            part.unlink(missing_ok=True)
            if made and path.parent.is_dir() and not any(path.parent.iterdir()):
                path.parent.rmdir()

    def _decode(self, pictures: Pictures, file: BinaryIO) -> None:
        from PIL import Image

        for wanted, (_, picture) in zip(filter(all, self.sizes), pictures.decoded(), strict=True):
            if picture.size != wanted:
                picture = middle(picture, wanted)
                whole, left, top = cut(picture.size, wanted)
                picture = picture.resize(whole, Image.Resampling.LANCZOS)
                picture = picture.crop((left, top, left + wanted[0], top + wanted[1]))
            file.write(picture.tobytes())


@contextmanager
def _supported() -> Generator[None]:
    """Goes on where a file system cannot set room aside; a full disk is raised."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise


def _content(image: bytes, row: Mapping[str, Any]) -> str:
    """What a row is, by its bytes: the same wherever it lies, however it is called."""
    return hashlib.sha256(image or "\n".join(c["text"] for c in row["captions"]).encode()).hexdigest()


def _size(image: bytes, key: str) -> Size:
    from PIL import Image

    if not image:
        return 0, 0
    try:
        with Image.open(io.BytesIO(image)) as picture:
            return picture.size
    except OSError as error:
        raise _undecodable(key, error) from None


def _undecodable(key: str, error: Exception) -> DataError:
    return DataError("the picture {key} cannot be decoded: {error}; build the data again", key=key, error=error)
