"""Answers the expected picture E[x | words] at once: the first level of a two-level system.

A regression on latents learns what a word looks like at a thousandth of the cost of a diffusion step per sample; a
diffusion level that takes its answer as a hint has only to make it sharp. Words are read by learned queries (the
pooling by multi-head attention of arXiv:1810.00825, section 3.2); a pose moves the features before the last
convolutions, as a spatial transformer does (arXiv:1506.02025). Several things on one picture are layers: the same
network works out each of them from the words that are its own, and it is scaled, put at its place and laid over the
rest (arXiv:1506.02025 and, for the layers, arXiv:2006.15055, section 2.2).

`Refine` is the other half: a denoiser for rectified flow that begins where that hint leaves off. If x is the hint plus
Gaussian noise, the best answer to x_t is known in closed form, and a network has only to add what is not Gaussian: the
preconditioning of arXiv:2206.00364 (section 5), about a conditional mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from bimo.core.errors import RecipeError
from bimo.core.part import Part
from bimo.core.tensors import Conditioning
from bimo.diffusion.denoiser import Denoiser, DenoiserWrapper
from bimo.diffusion.schedules.schedule import expand
from bimo.xiaomo.conditioners import POSE_AT_REST

POSE_WIDTH = 5
#: What one unit of each number of a pose is to a network: about a deviation of the data's.
POSE_SPREAD = (1.0, 0.1, 0.05, 0.05, 6.0)
PLACE_WIDTH = 3
#: How far from the centre a layer's middle may stand, of half a side, and the smallest it may be.
REACH = 0.8
SMALLEST = 0.2
#: The width between what is read and what is picked or placed.
HIDDEN = 64


@dataclass(frozen=True, kw_only=True)
class Expected(Part):
    """Tokens of width ``text`` -> ``channels`` x ``size`` x ``size``, through ``queries`` and ``blocks`` of ``width``.

    ``moved`` of the ``maps`` feature maps follow the pose, the rest stay: things move, backgrounds do not. ``things``
    more layers lie over these, each of the words that it picks, scaled and put where the words say. With them the words
    are read by the queries and by their mean, of each layer's own words, in place of the pooled text. ``spatial``
    channels of maps at the size of x are joined to the feature maps, in shades that what was read gives them: a box is
    a bridge of stone or under snow.
    """

    channels: int = 8
    size: int = 16
    text: int = 192
    vector: int = 256
    queries: int = 8
    width: int = 1024
    blocks: int = 2
    maps: int = 64
    moved: int = 48
    pose: str = ""
    things: int = 0
    spatial: int = 0

    def build(self) -> ExpectedDenoiser:
        """The module."""
        return ExpectedDenoiser(self)

    def tiny(self) -> Self:
        """Width 16; the text widths of tiny text encoders."""
        return replace(self, text=16, vector=min(self.vector, 16), queries=2, width=16, blocks=1, maps=8, moved=4)


@dataclass(frozen=True)
class Apart:
    """What is read of all words [R, D] and of those of each layer [R, things, D], where each layer stands
    [R, things, 3] (scale, and the middle from the centre, of half a side) and how much there is of it before the
    sigmoid, [R, things].
    """

    whole: Tensor
    reads: Tensor
    stands: Tensor
    there: Tensor


class Block(nn.Module):
    """x + MLP(LayerNorm(x)), the last layer beginning at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, D] -> [B, D]."""
        return x + self.second(nn.functional.silu(self.first(self.norm(x))))


class ExpectedDenoiser(Denoiser):
    """Ignores x, which is nothing but noise at the last time, and t; answers [R, C, h, w]. ``width`` is that of what is
    read of the words.
    """

    rest: Tensor
    spread: Tensor

    def __init__(self, part: Expected) -> None:
        super().__init__()
        self.part = part
        half = part.size // 2
        self.register_buffer("rest", torch.tensor(POSE_AT_REST), persistent=False)
        self.register_buffer("spread", torch.tensor(POSE_SPREAD), persistent=False)
        self.query = nn.Parameter(torch.randn(part.queries, part.text) / math.sqrt(part.text))
        self.keys = nn.Linear(part.text, part.text * 2)
        pooled = part.text if part.things else part.vector
        read = part.queries * part.text + pooled
        self.enter = nn.Linear(read + (POSE_WIDTH if part.pose else 0), part.width)
        self.blocks = nn.ModuleList(Block(part.width) for _ in range(part.blocks))
        self.leave = nn.Sequential(nn.LayerNorm(part.width), nn.Linear(part.width, part.maps * half * half))
        self.up = nn.Conv2d(part.maps, part.maps * 4, 3, padding=1)
        self.mix = nn.Sequential(
            nn.SiLU(),
            nn.Conv2d(part.maps, part.maps, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(part.maps, part.maps, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(part.maps, part.channels, 3, padding=1),
        )
        self.boxed = Boxed(part.spatial, part.maps, part.width) if part.spatial else None
        self.layers = Layers(part, read) if part.things else None
        self.width = read

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """The expected x under the words and the pose."""
        part = self.part
        pose = conditioning.scalars[part.pose] if part.pose else None
        if self.layers is None:
            maps = self._whole(self._entered(self._read(conditioning), pose), pose, conditioning)
        else:
            maps = self._laid(self.layers, conditioning, pose)
        answer = self.mix(maps)
        if answer.shape[-2:] != x.shape[-2:]:
            # torch has no such resizing of half-precision numbers.
            whole = nn.functional.interpolate(answer.float(), size=x.shape[-2:], mode="bicubic", antialias=True)
            answer = whole.to(answer.dtype)
        return answer

    def apart(self, conditioning: Conditioning) -> Apart:
        """How the words are told apart. Raises RecipeError for a level without layers."""
        if self.layers is None:
            raise RecipeError(
                "this level has no layers (things is 0), so nothing is told apart; give Expected things=2"
            )
        read, tokens = self._read(conditioning), conditioning.streams[0].tokens
        stands, there = self.layers.stand(read)
        picked = self.layers.picked(tokens, read[:, -tokens.shape[-1] :])
        reads = [self._read(conditioning, picked[..., thing]) for thing in range(self.part.things)]
        return Apart(read, torch.stack(reads, dim=1), stands, there)

    def _laid(self, layers: Layers, conditioning: Conditioning, pose: Tensor | None) -> Tensor:
        """The maps of the whole with those of every thing laid over them, [R, M, h, w]."""
        apart = self.apart(conditioning)
        maps = self._whole(self._entered(apart.whole, pose), pose, conditioning)
        stands, there, numbers = apart.stands, apart.there, maps.dtype
        for thing in range(self.part.things):
            h = self._entered(apart.reads[:, thing], pose) + layers.kind[thing]
            own = self._maps(h)
            shown = layers.shown(h).reshape(-1, 1, *(side // 2 for side in own.shape[-2:]))
            shown = nn.functional.interpolate(shown.float(), scale_factor=2.0, mode="bilinear")
            shown = (shown + there[:, thing, None, None, None]).sigmoid()
            rest = self.rest.expand(len(own), -1) if pose is None else pose
            own, shown = placed(own, shown, rest.float(), stands[:, thing])
            maps = maps + shown * (own - maps)
        return maps.to(numbers)

    def _entered(self, read: Tensor, pose: Tensor | None) -> Tensor:
        """What was read, and the pose, at the network's width, [R, D]."""
        if pose is not None:
            read = torch.cat([read, ((pose - self.rest) / self.spread).to(read.dtype)], dim=1)
        return self.enter(read)

    def _whole(self, h: Tensor, pose: Tensor | None, conditioning: Conditioning) -> Tensor:
        """The maps of all that was read, with what stands in the boxes, [R, M, size, size]."""
        maps = self._stood(self._maps(h), pose)
        if self.boxed is None:
            return maps
        assert conditioning.spatial is not None
        boxes = conditioning.spatial[:, : self.part.spatial]
        if boxes.shape[-2:] != maps.shape[-2:]:
            resized = nn.functional.interpolate(boxes.float(), size=maps.shape[-2:], mode="area")
            boxes = resized.to(maps.dtype)
        return maps + self.boxed(boxes.to(maps.dtype), h)

    def _maps(self, h: Tensor) -> Tensor:
        """[R, D] -> feature maps [R, M, size, size] of a thing at rest."""
        for block in self.blocks:
            h = block(h)
        half = self.part.size // 2
        maps = self.leave(h).reshape(-1, self.part.maps, half, half)
        return nn.functional.pixel_shuffle(self.up(nn.functional.silu(maps)), 2)

    def _stood(self, maps: Tensor, pose: Tensor | None) -> Tensor:
        """Those of the maps that follow the pose moved by it."""
        if pose is None:
            return maps
        return torch.cat([moved(maps[:, : self.part.moved], pose), maps[:, self.part.moved :]], dim=1)

    def _read(self, conditioning: Conditioning, picked: Tensor | None = None) -> Tensor:
        """What each query finds among the words, then the pooled text or, with layers, the mean of the words, [R, D].
        ``picked`` [R, L] is the logarithm of how much of each word is to be read.
        """
        stream = conditioning.streams[0]
        keys, values = self.keys(stream.tokens).chunk(2, dim=-1)
        scores = torch.einsum("qd,bld->bql", self.query, keys) / math.sqrt(self.part.text / 8)
        if picked is not None:
            scores = scores + picked[:, None]
        if stream.mask is not None:
            scores = scores.masked_fill(~stream.mask[:, None], float("-inf"))
        found = [(scores.softmax(-1).to(values.dtype) @ values).flatten(1)]
        if self.layers is not None:
            weight = torch.ones_like(stream.tokens[..., 0]) if picked is None else picked.exp()
            weight = weight if stream.mask is None else weight * stream.mask
            mean = (stream.tokens * weight[..., None]).sum(1) / weight.sum(1, keepdim=True).clamp(min=1e-4)
            found.append(mean.to(found[0].dtype))
        elif conditioning.vector is not None:
            found.append(conditioning.vector)
        return torch.cat(found, dim=1)


class Boxed(nn.Module):
    """Maps of boxes [R, S, h, w] and what was read [R, D] -> what is added to the feature maps, [R, M, h, w]; zeros at
    first.
    """

    def __init__(self, spatial: int, maps: int, width: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(spatial, maps, 3, padding=1)
        self.shade = nn.Linear(width, 4 * maps)
        self.first = nn.Conv2d(maps, maps, 3, padding=1)
        self.second = nn.Conv2d(maps, maps, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(cast(Tensor, self.second.bias))

    def forward(self, boxes: Tensor, h: Tensor) -> Tensor:
        """Twice in the shades of h: scale and shift of each map (arXiv:1709.07871)."""
        scale, shift, scale_2, shift_2 = self.shade(h)[:, :, None, None].chunk(4, dim=1)
        x = nn.functional.silu(self.enter(boxes) * (1 + scale) + shift)
        return self.second(nn.functional.silu(self.first(x) * (1 + scale_2) + shift_2))


class Layers(nn.Module):
    """What tells the layers of things apart: which words are whose, where each stands, what of it is seen.

    Layers contend for each word, as slots do (arXiv:2006.15055, section 2.1), but may share it: of a style, say. They
    begin side by side and hardly seen, so that a picture of one thing is what it was without them, and no place can
    leave the canvas, from where it would not be led back.
    """

    def __init__(self, part: Expected, read: int) -> None:
        super().__init__()
        half, own = part.size // 2, part.things * (PLACE_WIDTH + 1)
        self.norm = nn.LayerNorm(2 * part.text)
        self.pick = nn.Sequential(nn.Linear(2 * part.text, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, part.things + 1))
        self.place = nn.Sequential(nn.LayerNorm(read), nn.Linear(read, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, own))
        self.kind = nn.Parameter(torch.zeros(part.things, part.width))
        self.shown = nn.Linear(part.width, half * half)
        with torch.no_grad():
            last = cast(nn.Linear, self.place[-1])
            nn.init.zeros_(last.weight)
            # What there is of a thing is seen all over its place at first, or else nothing would teach it to be drawn.
            self.shown.weight.mul_(0.1)
            self.shown.bias.fill_(3.0)
            for thing, begin in enumerate(last.bias.view(part.things, -1)):
                across = math.atanh((2 * thing + 1) / part.things - 1)
                begin.copy_(torch.tensor([-0.5, across, 0.0, -5.0]))

    def picked(self, tokens: Tensor, mean: Tensor) -> Tensor:
        """The logarithm of how much each layer reads of each word, [R, L, things], of the words [R, L, D] and their
        mean [R, D]: what is its own and what all share.
        """
        whole = mean[:, None].expand_as(tokens)
        shares = self.pick(self.norm(torch.cat([tokens, whole], dim=-1))).float().log_softmax(-1)
        return torch.logaddexp(shares[..., :-1], shares[..., -1:])

    def stand(self, read: Tensor) -> tuple[Tensor, Tensor]:
        """Places [R, things, 3] (scale, and the middle from the centre, of half a side) and how much there is of each
        thing before the sigmoid, [R, things].
        """
        found = self.place(read).float().unflatten(1, (-1, PLACE_WIDTH + 1))
        scale = SMALLEST + (1 - SMALLEST) * found[..., :1].sigmoid()
        return torch.cat([scale, REACH * found[..., 1:PLACE_WIDTH].tanh()], dim=-1), found[..., PLACE_WIDTH]


def placed(maps: Tensor, shown: Tensor, pose: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """Feature maps [R, C, h, w] of a thing at rest and what of it is seen, [R, 1, h, w], scaled and put at its place
    [R, 3], the whole then under the pose [R, 5].

    As pictures of several things are made, a flip turns each about at its place, and nothing is seen of it outside.
    """
    flip, scale, dx, dy, angle = pose.unbind(1)
    radians = angle * (math.pi / 180)
    own, across, down = place.unbind(1)
    cos, sin = radians.cos() / scale, radians.sin() / scale
    # q = F s^-1 (R^-1 S^-1 (p - 2 d) - u), in grid_sample's square of side 2, y down, as in `moved`.
    rotation = torch.stack([torch.stack([cos, -sin], dim=1), torch.stack([sin, cos], dim=1)], dim=1)
    shift = rotation @ torch.stack([2 * dx, 2 * dy], dim=1).unsqueeze(-1)
    shift = shift + torch.stack([across, down], dim=1).unsqueeze(-1)
    turn = torch.stack([1 - 2 * flip, torch.ones_like(flip)], dim=1) / own[:, None]
    matrix = turn.unsqueeze(-1) * torch.cat([rotation, -shift], dim=2)
    grid = nn.functional.affine_grid(matrix, list(maps.shape), align_corners=False)
    maps = nn.functional.grid_sample(maps.float(), grid, padding_mode="border", align_corners=False)
    return maps, nn.functional.grid_sample(shown, grid, padding_mode="zeros", align_corners=False)


def moved(maps: Tensor, pose: Tensor) -> Tensor:
    """Feature maps [B, C, h, w] under poses [B, 5]: flip (0 or 1), scale, dx, dy (of the side), angle in degrees.

    The thing is flipped, turned counter-clockwise, scaled about the centre, then shifted; the map is read where each
    place came from, edges repeated.
    """
    flip, scale, dx, dy, angle = pose.unbind(1)
    radians = angle * (math.pi / 180)
    cos, sin = radians.cos() / scale, radians.sin() / scale
    sign = 1 - 2 * flip
    # In grid_sample's square of side 2, y down: p = R S F q + 2 d, so q = F S^-1 R^-1 (p - 2 d).
    row_x = torch.stack([sign * cos, sign * -sin], dim=1)
    row_y = torch.stack([sin, cos], dim=1)
    shift = torch.stack([2 * dx, 2 * dy], dim=1)
    matrix = torch.stack([row_x, row_y], dim=1)
    offset = -(matrix @ shift.unsqueeze(-1))
    grid = nn.functional.affine_grid(torch.cat([matrix, offset], dim=2), list(maps.shape), align_corners=False)
    return nn.functional.grid_sample(maps, grid, padding_mode="border", align_corners=False)


@dataclass(frozen=True, kw_only=True)
class Refine(Part):
    """``denoiser`` plus the Gaussian answer. The hint is the first spatial map, of x's own channels; a row whose hint
    is zeros has none, and its x has variance ``whole``. ``last`` is the time of noise alone.
    """

    denoiser: Part
    left: float = 0.3
    whole: float = 0.85
    last: float = 1000.0

    def build(self) -> RefineDenoiser:
        """The module."""
        return RefineDenoiser(self)


class RefineDenoiser(DenoiserWrapper):
    """x [R, C, h, w], t [R] and conditioning with a spatial hint -> the velocity noise - x, [R, C, h, w]."""

    def __init__(self, part: Refine) -> None:
        super().__init__()
        self.part = part
        self.denoiser = cast(Denoiser, cast(Any, part.denoiser).build())
        self.multiple = self.denoiser.multiple

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """The answer to an ask."""
        assert conditioning.spatial is not None
        hint = conditioning.spatial[:, : x.shape[1]].to(x)
        told = hint.abs().amax(dim=(1, 2, 3)) > 0
        return self.denoiser(x, t, conditioning) + self.gaussian(x, t, hint, told)

    def gaussian(self, x: Tensor, t: Tensor, hint: Tensor, told: Tensor) -> Tensor:
        """E[noise - x | x_t, hint] for x = hint + N(0, v): with s = t / last and y = x_t - (1 - s) hint, of variance
        d = (1 - s)^2 v + s^2, it is (s - (1 - s) v) / d y - hint. ``told`` [R] says which rows have a hint.
        """
        s = expand(t.to(x) / self.part.last, x)
        v = expand(told.to(x) * (self.part.left - self.part.whole) + self.part.whole, x)
        d = (1 - s) ** 2 * v + s**2
        return (s - (1 - s) * v) / d * (x - (1 - s) * hint) - hint
