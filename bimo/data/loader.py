"""Shards as training wants them: pixels decoded once, captions and labels in memory, any row at any time."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bimo.core.errors import DataError
from bimo.data import shards


class Pictures:
    """All rows of a folder of shards. ``digest`` names the content, so caches never pair wrong rows."""

    def __init__(self, folder: Path) -> None:
        index = shards.read_index(folder)
        self.folder = folder
        self.digest: str = index.digest
        self.keys: list[str] = []
        self.captions: list[tuple[str, ...]] = []
        self.labels: list[Mapping[str, Any]] = []
        poses: list[Sequence[float]] = []
        cached = folder / ".cache" / f"pixels-{self.digest[:16]}.npy"
        pending = None if cached.is_file() else _Growing(cached, index.count)
        for key, image, row in shards.read(folder):
            self.keys.append(key)
            self.captions.append(tuple(c["text"] for c in row["captions"]))
            self.labels.append(row["labels"])
            poses.append(row.get("pose") or ())
            if pending is not None:
                pending.add(image, key)
        if not self.keys:
            raise DataError(f"{folder} 里没有一张图片", f"there is not one picture in {folder}")
        if pending is not None:
            pending.close()
        self.pixels_at: np.ndarray = np.load(cached, mmap_mode="r")
        self.poses: Tensor | None = torch.tensor(poses, dtype=torch.float32) if all(poses) else None

    def __len__(self) -> int:
        return len(self.keys)

    def pixels(self, rows: Sequence[int]) -> Tensor:
        """[B, 3, H, W] in [-1, 1], channels last in memory."""
        picked = torch.from_numpy(np.ascontiguousarray(self.pixels_at[np.asarray(rows)]))
        return picked.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)

    def order(self, epoch: int, seed: int) -> Tensor:
        """All rows in the order of an epoch, [N]."""
        return torch.randperm(len(self), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


class _Growing:
    """An array of decoded pictures on disk that appears under its name when it is whole."""

    def __init__(self, path: Path, count: int) -> None:
        self.path = path
        self.count = count
        self.at = 0
        self.array: np.memmap | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        self.part = path.with_suffix(f".{os.getpid()}.part")

    def add(self, image: bytes, key: str) -> None:
        from PIL import Image

        with Image.open(io.BytesIO(image)) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        if self.array is None:
            shape = (self.count, *pixels.shape)
            self.array = np.lib.format.open_memmap(self.part, mode="w+", dtype=np.uint8, shape=shape)
        if pixels.shape != self.array.shape[1:]:
            raise DataError(
                f"{key} 的形状是 {pixels.shape}，其余是 {self.array.shape[1:]}",
                f"{key} is of shape {pixels.shape}, the others of {self.array.shape[1:]}",
            )
        self.array[self.at] = pixels
        self.at += 1

    def close(self) -> None:
        assert self.array is not None
        self.array.flush()
        self.array = None
        os.replace(self.part, self.path)
