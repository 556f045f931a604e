"""True artwork for the judge, at 64 pixels: sprites, processed canvases, recoloured things; how they are disturbed."""

# torch leaves parts of its interface untyped; what crosses it here is named where it is used.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from bimo.core.errors import DataError
from bimo.core.files import write_whole
from bimo.data import shards
from bimo.evaluation.progress import OnProgress
from bimo.xiaomo.artwork.build import read_kinds_table
from bimo.xiaomo.artwork.canvas import HANDS, NO_FLIP
from bimo.xiaomo.artwork.compose import Pose, apply_pose, keep_inside, on_colour, recolour
from bimo.xiaomo.artwork.effects import APPLY
from bimo.xiaomo.artwork.held_out import held_out
from bimo.xiaomo.artwork.lexicon import COLOURED, COLOURS, DEFAULT_STYLE, DRAWN, EFFECTS, LATER
from bimo.xiaomo.artwork.sprites import Kind, SpriteStore

SIDE = 64
#: Of a training batch: sprites on a colour, recoloured sprites, processed canvases.
SHARES = (0.60, 0.12, 0.28)
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Artwork:
    """A built data folder as the evaluation reads it; ``digest`` names its content."""

    folder: Path
    digest: str
    kinds: tuple[Kind, ...]
    store: SpriteStore

    def usable(self, kind: Kind, style: str) -> bool:
        """Whether there is a true picture of the pair, and training was allowed to see it."""
        return self.exists(kind, style) and not held_out(kind, style)

    @property
    def styles(self) -> tuple[str, ...]:
        """The styles that pictures of this set are in, drawn ones first."""
        there = {style for kind in self.kinds for style in kind.styles}
        return (*DRAWN, *(style for style in LATER if style in there), *EFFECTS)

    def exists(self, kind: Kind, style: str) -> bool:
        """Whether there is a true picture of the pair: a sprite, or for an effect a coloured sprite to process."""
        return style in kind.styles or (style in EFFECTS and base_style(kind) is not None)

    def picture(self, kind: Kind, style: str, pose: Pose | None = None, base: str | None = None) -> Image.Image:
        """The true RGB 128 x 128 picture of a pair, at rest or posed; ``base`` is the sprite an effect is put on."""
        drawn = (base or base_style(kind) or style) if style in EFFECTS else style
        sprite = self.store.sprite(kind.hexcode, drawn).image
        sprite = apply_pose(sprite, keep_inside(sprite, pose)) if pose is not None else sprite
        return APPLY[style](sprite) if style in EFFECTS else on_colour(sprite)


def read_artwork(folder: Path) -> Artwork:
    """The artwork of a built folder. Raises DataError where it is not one, or its sprites are gone."""
    digest = shards.read_index(folder).digest
    kinds = read_kinds_table(folder / "kinds.json")
    sprites = folder / ".sprites"
    if not list(sprites.glob("*.zip")):
        raise DataError(
            "{sprites} holds no sprites, and the judge learns from them; build the data again with bimo data artwork",
            sprites=sprites,
        )
    return Artwork(folder, digest, tuple(kinds), SpriteStore(sprites))


def base_style(kind: Kind) -> str | None:
    """The coloured style an effect is put on for reference: the first that training may use; None without any."""
    there = [style for style in COLOURED if style in kind.styles]
    return next((style for style in there if not held_out(kind, style)), there[0] if there else None)


def seen_pairs(artwork: Artwork) -> frozenset[tuple[str, str]]:
    """Every (kind, style or effect) that stands alone on a canvas of the training set; read once and cached."""
    path = artwork.folder / ".cache" / f"pairs-{artwork.digest[:16]}.json"
    if not path.is_file():
        found: set[tuple[str, str]] = set()
        for _, _, record in shards.read(artwork.folder):
            labels: Mapping[str, Any] = record["labels"]
            if labels["type"] in ("single", "effect"):
                found.add((labels["kind"], labels["effect"] or labels["style"]))
        write_whole(path, json.dumps(sorted(found)).encode())
    return frozenset((kind, style) for kind, style in json.loads(path.read_text("utf-8")))


def small(image: Image.Image, side: int = SIDE) -> Bytes:
    """A picture of any size -> RGB [side, side, 3], by area."""
    return np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BOX))


def stacked(images: Sequence[Image.Image], side: int = SIDE) -> Bytes:
    """Pictures -> RGB [N, side, side, 3]."""
    return np.stack([small(image, side) for image in images]) if images else np.zeros((0, side, side, 3), np.uint8)


def tensor(pixels: Bytes) -> Tensor:
    """[N, 64, 64, 3] bytes -> [N, 3, 64, 64] in [-1, 1], channels last in memory."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


@dataclass(frozen=True)
class Pool:
    """Pictures of one make: ``pixels`` [N, 64, 64, 3 or 4] (RGBA premultiplied), ``kind`` and ``style`` [N] indices."""

    pixels: Bytes
    kind: NDArray[np.int64]
    style: NDArray[np.int64]

    def without(self, pairs: frozenset[tuple[int, int]]) -> Pool:
        """The same without some (kind, style) pairs."""
        keep = np.array([(k, s) not in pairs for k, s in zip(self.kind, self.style, strict=True)], bool)
        return Pool(self.pixels[keep], self.kind[keep], self.style[keep])


@dataclass(frozen=True)
class Truth:
    """All that the judge learns from: sprites, recoloured sprites, processed canvases at rest."""

    sprites: Pool
    recoloured: Pool
    canvases: Pool

    def without(self, pairs: frozenset[tuple[int, int]]) -> Truth:
        """The same without some (kind, style) pairs of indices."""
        return Truth(self.sprites.without(pairs), self.recoloured.without(pairs), self.canvases.without(pairs))


def gather(artwork: Artwork, on_progress: OnProgress) -> Truth:
    """Draws the pools: every sprite; half of the coloured ones recoloured as well; every kind in every effect."""
    rng = random.Random(0)
    rows: dict[str, list[tuple[Bytes, int, int]]] = {"sprites": [], "recoloured": [], "canvases": []}
    colours = list(COLOURS.values())
    for number, kind in enumerate(artwork.kinds):
        for style in kind.styles:
            sprite = artwork.store.sprite(kind.hexcode, style).image
            rows["sprites"].append((_premultiplied(sprite), number, artwork.styles.index(style)))
            if style in COLOURED and rng.random() < 0.5:
                changed = recolour(sprite, rng.choice(colours))
                rows["recoloured"].append((_premultiplied(changed), number, artwork.styles.index(style)))
        if base_style(kind) is not None:
            for effect in EFFECTS:
                canvas = small(artwork.picture(kind, effect))
                rows["canvases"].append((canvas, number, artwork.styles.index(effect)))
        on_progress("gather", number + 1, len(artwork.kinds))
    return Truth(*(_pool(rows[name], 3 if name == "canvases" else 4) for name in ("sprites", "recoloured", "canvases")))


def _pool(rows: list[tuple[Bytes, int, int]], channels: int) -> Pool:
    pixels = np.stack([row[0] for row in rows]) if rows else np.zeros((0, SIDE, SIDE, channels), np.uint8)
    return Pool(pixels, np.array([row[1] for row in rows], np.int64), np.array([row[2] for row in rows], np.int64))


def _premultiplied(sprite: Image.Image) -> Bytes:
    """RGBA 128 x 128 -> premultiplied [64, 64, 4]."""
    return np.frombuffer(sprite.convert("RGBa").resize((SIDE, SIDE), Image.Resampling.BOX).tobytes(), np.uint8).reshape(
        SIDE, SIDE, 4
    )


def training_batch(truth: Truth, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A disturbed batch: pixels [B, 3, 64, 64] in [-1, 1], kinds [B], styles [B]."""
    pools = [truth.sprites, truth.recoloured, truth.canvases]
    pixels: list[Tensor] = []
    kinds: list[Tensor] = []
    styles: list[Tensor] = []
    weights = [share * bool(len(pool.kind)) for share, pool in zip(SHARES, pools, strict=True)]
    for pool, weight in zip(pools, weights, strict=True):
        count = round(batch * weight / sum(weights))
        if count:
            rows = torch.randint(len(pool.kind), (count,), generator=generator).numpy()
            planes = torch.from_numpy(pool.pixels[rows]).permute(0, 3, 1, 2).float().div_(255)
            sprites = planes.shape[1] == 4
            moved = _moved(planes, generator, 0.7, 1.12) if sprites else _moved(planes, generator, 0.85, 1.12)
            pixels.append(_laid(moved, generator) if sprites else moved)
            kinds.append(torch.from_numpy(pool.kind[rows]))
            styles.append(torch.from_numpy(pool.style[rows]))
    x = _worn(torch.cat(pixels), generator).mul_(2).sub_(1)
    return x.contiguous(memory_format=torch.channels_last), torch.cat(kinds), torch.cat(styles)


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator) * (high - low) + low


def _moved(planes: Tensor, generator: torch.Generator, low: float, high: float) -> Tensor:
    """[B, C, H, W] under random poses (three in four): flip, scale from ``low`` to ``high``, shift, turn."""
    count = planes.shape[0]
    active = (torch.rand(count, generator=generator) < 0.75).float()
    flip = (torch.rand(count, generator=generator) < 0.5).float() * active
    scale = 1 + (_uniform(count, low, high, generator) - 1) * active
    angle = _uniform(count, -0.26, 0.26, generator) * active
    shift = (torch.rand(count, 2, generator=generator) * 2 - 1) * 0.2 * active[:, None]
    sign = 1 - 2 * flip
    row_x = torch.stack([sign * angle.cos() / scale, -sign * angle.sin() / scale, shift[:, 0]], dim=1)
    row_y = torch.stack([angle.sin() / scale, angle.cos() / scale, shift[:, 1]], dim=1)
    grid = nn.functional.affine_grid(torch.stack([row_x, row_y], dim=1), list(planes.shape), align_corners=False)
    return nn.functional.grid_sample(planes, grid, padding_mode="border", align_corners=False)


def _laid(planes: Tensor, generator: torch.Generator) -> Tensor:
    """Premultiplied [B, 4, H, W] on white (seven in ten) or on a random colour -> [B, 3, H, W] in [0, 1]."""
    count = planes.shape[0]
    white = (torch.rand(count, generator=generator) < 0.7).float()[:, None]
    ground = torch.maximum(torch.rand(count, 3, generator=generator), white)
    return planes[:, :3] + (1 - planes[:, 3:]) * ground[:, :, None, None]


def _worn(x: Tensor, generator: torch.Generator) -> Tensor:
    """[B, 3, H, W] in [0, 1] with light changes of colour, softness (half of them) and noise."""
    count = x.shape[0]
    gain = _uniform(count * 3, 0.92, 1.08, generator).view(count, 3, 1, 1)
    x = x * gain + _uniform(count * 3, -0.03, 0.03, generator).view(count, 3, 1, 1)
    soft, coarse = slice(0, None, 4), slice(2, None, 4)
    amount = torch.rand(count, generator=generator)[:, None, None, None]
    x[soft] = torch.lerp(x[soft], nn.functional.avg_pool2d(x[soft], 3, 1, 1, count_include_pad=False), amount[soft])
    halved = nn.functional.interpolate(nn.functional.avg_pool2d(x[coarse], 2), scale_factor=2, mode="bilinear")
    x[coarse] = torch.lerp(x[coarse], halved, amount[coarse])
    noise = torch.randn(x.shape, generator=generator)
    return (x + noise * _uniform(count, 0.0, 0.04, generator)[:, None, None, None]).clamp_(0, 1)


def examination(artwork: Artwork, pairs: Sequence[tuple[Kind, str]], seed: int) -> Bytes:
    """True pictures of pairs in poses that no training batch had, drawn as the data is: [N, 64, 64, 3].

    The effects of an examination stand on a random coloured sprite, as they do in the data.
    """
    rng = random.Random(seed)
    images: list[Image.Image] = []
    for kind, style in pairs:
        turns = kind.subgroup not in HANDS and not NO_FLIP.search(kind.en.lower())
        pose = Pose(
            int(turns and rng.random() < 0.5),
            rng.uniform(0.72, 1.05),
            rng.uniform(-0.08, 0.08),
            rng.uniform(-0.08, 0.08),
            rng.uniform(-12, 12),
        )
        base = rng.choice([s for s in COLOURED if s in kind.styles] or [DEFAULT_STYLE]) if style in EFFECTS else None
        images.append(artwork.picture(kind, style, pose, base))
    return stacked(images)
