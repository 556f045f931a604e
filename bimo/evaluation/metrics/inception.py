"""The Inception-v3 of FID (arXiv:1512.00567, arXiv:1706.08500), from the user's file of weights.

The network of 2015-12-05 differs from torchvision's: average pooling excludes padding, the last block uses maximum
pooling, there are 1,008 classes. pytorch-fid and torch-fidelity publish its weights under the same names.
torch-fidelity is not a dependency because it needs torchvision, whose wheel replaces a CPU build of torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bimo.core.checkpoint_io import read
from bimo.core.errors import WeightsError
from bimo.core.hashing import digest

#: (out, kernel, stride, padding) of a convolution by its name in the block, in its order from the block's input.
Path_ = tuple[str | tuple[str, str], ...]
SIDE = 299
FEATURES = 2048
CLASSES = 1008
#: The published file, and the prefix of its SHA-256, which is in its name.
PUBLISHED, PUBLISHED_SHA256 = "weights-inception-2015-12-05-6726825d.pth", "6726825d"


class Convolution(nn.Module):
    """Convolution without bias, batch norm (eps 0.001), ReLU."""

    def __init__(self, inside: int, outside: int, kernel: Any, stride: int = 1, padding: Any = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outside, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, outside, h', w']."""
        return functional.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Concatenated branches of convolutions over one input. The last branch pools before its convolution ("average",
    "maximum"), or only pools, with stride 2 ("reduce"). Two names at one position of a path are parallel convolutions.
    """

    def __init__(
        self, inside: int, convolutions: dict[str, tuple[Any, ...]], paths: Sequence[Path_], pool: str
    ) -> None:
        super().__init__()
        self.paths, self.pool = tuple(paths), pool
        for path in [*paths, *([("branch_pool",)] if pool != "reduce" else [])]:
            width = inside
            for names in path:
                each = (names,) if isinstance(names, str) else names
                for name in each:
                    self.add_module(name, Convolution(width, *convolutions[name]))
                width = sum(convolutions[name][0] for name in each)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C', h', w']."""
        outputs: list[Tensor] = []
        for path in self.paths:
            y = x
            for names in path:
                each = (names,) if isinstance(names, str) else names
                y = torch.cat([self.get_submodule(name)(y) for name in each], 1)
            outputs.append(y)
        if self.pool == "reduce":
            pooled = functional.max_pool2d(x, 3, 2)
        elif self.pool == "maximum":
            pooled = self.get_submodule("branch_pool")(functional.max_pool2d(x, 3, 1, 1))
        else:
            mean = functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
            pooled = self.get_submodule("branch_pool")(mean)
        return torch.cat([*outputs, pooled], 1)


def _block_a(inside: int, pool: int) -> Mixed:
    convolutions = {
        "branch1x1": (64, 1), "branch5x5_1": (48, 1), "branch5x5_2": (64, 5, 1, 2), "branch3x3dbl_1": (64, 1),
        "branch3x3dbl_2": (96, 3, 1, 1), "branch3x3dbl_3": (96, 3, 1, 1), "branch_pool": (pool, 1),
    }  # fmt: skip
    double = ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
    return Mixed(inside, convolutions, [("branch1x1",), ("branch5x5_1", "branch5x5_2"), double], "average")


def _block_b(inside: int) -> Mixed:
    convolutions = {
        "branch3x3": (384, 3, 2), "branch3x3dbl_1": (64, 1), "branch3x3dbl_2": (96, 3, 1, 1),
        "branch3x3dbl_3": (96, 3, 2),
    }  # fmt: skip
    double = ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
    return Mixed(inside, convolutions, [("branch3x3",), double], "reduce")


def _block_c(width: int) -> Mixed:
    across, down = ((1, 7), 1, (0, 3)), ((7, 1), 1, (3, 0))
    convolutions = {
        "branch1x1": (192, 1), "branch7x7_1": (width, 1), "branch7x7_2": (width, *across),
        "branch7x7_3": (192, *down), "branch7x7dbl_1": (width, 1), "branch7x7dbl_2": (width, *down),
        "branch7x7dbl_3": (width, *across), "branch7x7dbl_4": (width, *down), "branch7x7dbl_5": (192, *across),
        "branch_pool": (192, 1),
    }  # fmt: skip
    single = ("branch7x7_1", "branch7x7_2", "branch7x7_3")
    double = tuple(f"branch7x7dbl_{number}" for number in range(1, 6))
    return Mixed(768, convolutions, [("branch1x1",), single, double], "average")


def _block_d() -> Mixed:
    convolutions = {
        "branch3x3_1": (192, 1), "branch3x3_2": (320, 3, 2), "branch7x7x3_1": (192, 1),
        "branch7x7x3_2": (192, (1, 7), 1, (0, 3)), "branch7x7x3_3": (192, (7, 1), 1, (3, 0)),
        "branch7x7x3_4": (192, 3, 2),
    }  # fmt: skip
    long = tuple(f"branch7x7x3_{number}" for number in range(1, 5))
    return Mixed(768, convolutions, [("branch3x3_1", "branch3x3_2"), long], "reduce")


def _block_e(inside: int, pool: str) -> Mixed:
    across, down = (384, (1, 3), 1, (0, 1)), (384, (3, 1), 1, (1, 0))
    convolutions = {
        "branch1x1": (320, 1), "branch3x3_1": (384, 1), "branch3x3_2a": across, "branch3x3_2b": down,
        "branch3x3dbl_1": (448, 1), "branch3x3dbl_2": (384, 3, 1, 1), "branch3x3dbl_3a": across,
        "branch3x3dbl_3b": down, "branch_pool": (192, 1),
    }  # fmt: skip
    double: Path_ = ("branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b"))
    paths: list[Path_] = [("branch1x1",), ("branch3x3_1", ("branch3x3_2a", "branch3x3_2b")), double]
    return Mixed(inside, convolutions, paths, pool)


class Inception(nn.Module):
    """[B, 3, 299, 299] in [-1, 1] -> features [B, 2048] and logits without bias [B, 1008]."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3, 1, 1)
        self.Conv2d_3b_1x1 = Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _block_a(192, 32), _block_a(256, 64), _block_a(288, 64)
        self.Mixed_6a = _block_b(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = map(_block_c, (128, 160, 160, 192))
        self.Mixed_7a = _block_d()
        self.Mixed_7b, self.Mixed_7c = _block_e(1280, "average"), _block_e(2048, "maximum")
        self.fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, 299, 299] in [-1, 1] -> [B, 2048], [B, 1008]."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(functional.max_pool2d(x, 3, 2)))
        x = functional.max_pool2d(x, 3, 2)
        for block in (self.Mixed_5b, self.Mixed_5c, self.Mixed_5d, self.Mixed_6a, self.Mixed_6b, self.Mixed_6c):
            x = block(x)
        for block in (self.Mixed_6d, self.Mixed_6e, self.Mixed_7a, self.Mixed_7b, self.Mixed_7c):
            x = block(x)
        features = x.mean((2, 3))
        # The bias is left out for Inception Score, as in its first implementation.
        return features, features @ self.fc.weight.T


def load_inception(path: Path, expected: str = "") -> tuple[Inception, str]:
    """Loads the network; returns it and the file's SHA-256, which must start with ``expected``. Raises WeightsError for
    a missing file, another hash, or another network.
    """
    if not path.is_file():
        raise WeightsError(
            "there are no Inception weights at {path}; FID, KID, IS, precision and recall need the file that "
            "torch-fidelity and pytorch-fid publish (weights-inception-2015-12-05-6726825d.pth, its SHA-256 begins "
            "with {published}); get it and name it with --inception FILE",
            path=path,
            published=PUBLISHED_SHA256,
        )
    sha256 = digest(path)
    if expected and not sha256.startswith(expected.lower()):
        raise WeightsError(
            "{path} has the SHA-256 {found}, expected one that begins with {expected}; get the file again",
            path=path,
            found=sha256,
            expected=expected,
        )
    network = Inception()
    own_state = network.state_dict()
    state = {name: value for name, value in read(path).items() if not name.endswith("num_batches_tracked")}
    expected_names = {name for name in own_state if not name.endswith("num_batches_tracked")}
    mismatched = sorted(expected_names ^ set(state)) + sorted(
        n for n in expected_names & set(state) if state[n].shape != own_state[n].shape
    )
    if mismatched:
        raise WeightsError(
            "{path} holds no Inception-v3 of 2015-12-05: {count} tensors are missing, of another shape or not of it, "
            "{wrong} first",
            path=path,
            count=len(mismatched),
            wrong=mismatched[0],
        )
    network.load_state_dict(state, strict=False)
    return network.eval().requires_grad_(False), sha256
