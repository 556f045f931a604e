"""Predicts the expected picture E[x | text] in one step: the first level of a two-level system.

Regression on latents learns what a word looks like at a thousandth of the cost of a diffusion step per sample; a
diffusion level conditioned on its output only has to add detail. Text is read by learned queries (pooling by multi-head
attention, section 3.2 of arXiv:1810.00825); a pose transforms the feature maps before the last convolutions, as a
spatial transformer (arXiv:1506.02025). Several objects in a picture are layers: the same network computes each of them
from its own words, then it is scaled, moved to its position and composited (arXiv:1506.02025 and, for the layers,
arXiv:2006.15055, section 2.2).

`Refine` is the second level: a denoiser for rectified flow that starts from this estimate. If x is the estimate plus
Gaussian noise, the optimal output for x_t is known in closed form, and the network only has to add what is not
Gaussian: the preconditioning of arXiv:2206.00364 (section 5), about a conditional mean.
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
#: The unit of each number of a pose as a network input: about its standard deviation in the data.
POSE_SPREAD = (1.0, 0.1, 0.05, 0.05, 6.0)
PLACE_WIDTH = 3
#: The largest distance of a layer's centre from that of the picture, relative to half a side, and its smallest scale.
REACH = 0.8
SMALLEST = 0.2
#: The hidden width of the heads that assign words and positions.
HIDDEN = 64


@dataclass(frozen=True, kw_only=True)
class Expected(Part):
    """Maps tokens of width ``text`` to ``channels`` x ``size`` x ``size``, by ``queries`` and ``blocks`` of ``width``.

    ``moved`` of the ``maps`` feature maps follow the pose, the rest do not: objects move, backgrounds stay. ``things``
    further layers are composited over these, each computed from the words assigned to it, at a predicted scale and
    position. With layers, text is read by the queries and as the mean of the (layer's) tokens, in place of the pooled
    output. ``spatial`` channels of box maps at the size of x modulate the feature maps, scaled and shifted by the text:
    the box of a bridge does not say whether it is of stone or under snow.
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
class LayerReadings:
    """The reading of all words ``pooled`` [R, D] and of each layer's words ``reads`` [R, things, D], the placement of
    each
    layer [R, things, 3] (scale, and its centre relative to the picture's, in half sides) and the logit of its presence
    [R, things].
    """

    pooled: Tensor
    reads: Tensor
    placements: Tensor
    presence: Tensor


class Block(nn.Module):
    """x + MLP(LayerNorm(x)); the last layer is zero-initialised."""

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
    """Predicts E[x | text], [R, C, h, w]; ignores x, which is pure noise at the last timestep, and t. ``width`` is that
    of the text reading.
    """

    reads_x = False
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
        """The expected x for text and pose."""
        part = self.part
        pose = conditioning.scalars[part.pose] if part.pose else None
        if self.layers is None:
            maps = self._background_maps(self._project(self._read(conditioning), pose), pose, conditioning)
        else:
            maps = self._compose_layers(self.layers, conditioning, pose)
        latents = self.mix(maps)
        if latents.shape[-2:] != x.shape[-2:]:
            # torch has no antialiased resizing in half precision.
            resized = nn.functional.interpolate(latents.float(), size=x.shape[-2:], mode="bicubic", antialias=True)
            latents = resized.to(latents.dtype)
        return latents

    def read_layers(self, conditioning: Conditioning) -> LayerReadings:
        """The assignment of words to layers, with their placements. Raises RecipeError for a level without layers."""
        if self.layers is None:
            raise RecipeError(
                "this level has no layers (things is 0), so nothing is told apart; give Expected things=2"
            )
        read, tokens = self._read(conditioning), conditioning.streams[0].tokens
        placements, presence = self.layers.stand(read)
        picked = self.layers.picked(tokens, read[:, -tokens.shape[-1] :])
        reads = [self._read(conditioning, picked[..., thing]) for thing in range(self.part.things)]
        return LayerReadings(read, torch.stack(reads, dim=1), placements, presence)

    def _compose_layers(self, layers: Layers, conditioning: Conditioning, pose: Tensor | None) -> Tensor:
        """The maps of the whole picture with those of all layers composited over them, [R, M, h, w]."""
        readings = self.read_layers(conditioning)
        maps = self._background_maps(self._project(readings.pooled, pose), pose, conditioning)
        placements, presence, numbers = readings.placements, readings.presence, maps.dtype
        for thing in range(self.part.things):
            h = self._project(readings.reads[:, thing], pose) + layers.kind[thing]
            own = self._maps(h)
            shown = layers.shown(h).reshape(-1, 1, *(side // 2 for side in own.shape[-2:]))
            shown = nn.functional.interpolate(shown.float(), scale_factor=2.0, mode="bilinear")
            shown = (shown + presence[:, thing, None, None, None]).sigmoid()
            rest = self.rest.expand(len(own), -1) if pose is None else pose
            own, shown = place_layer(own, shown, rest.float(), placements[:, thing])
            maps = maps + shown * (own - maps)
        return maps.to(numbers)

    def _project(self, read: Tensor, pose: Tensor | None) -> Tensor:
        """Projects the reading and the pose to the network's width, [R, D]."""
        if pose is not None:
            read = torch.cat([read, ((pose - self.rest) / self.spread).to(read.dtype)], dim=1)
        return self.enter(read)

    def _background_maps(self, h: Tensor, pose: Tensor | None, conditioning: Conditioning) -> Tensor:
        """The maps from the whole text, modulated by boxes, [R, M, size, size]."""
        maps = self._pose_maps(self._maps(h), pose)
        if self.boxed is None:
            return maps
        assert conditioning.spatial is not None
        boxes = conditioning.spatial[:, : self.part.spatial]
        if boxes.shape[-2:] != maps.shape[-2:]:
            resized = nn.functional.interpolate(boxes.float(), size=maps.shape[-2:], mode="area")
            boxes = resized.to(maps.dtype)
        return maps + self.boxed(boxes.to(maps.dtype), h)

    def _maps(self, h: Tensor) -> Tensor:
        """[R, D] -> feature maps [R, M, size, size] of an object without a pose."""
        for block in self.blocks:
            h = block(h)
        half = self.part.size // 2
        maps = self.leave(h).reshape(-1, self.part.maps, half, half)
        return nn.functional.pixel_shuffle(self.up(nn.functional.silu(maps)), 2)

    def _pose_maps(self, maps: Tensor, pose: Tensor | None) -> Tensor:
        """Transforms the maps that follow the pose."""
        if pose is None:
            return maps
        return torch.cat([moved(maps[:, : self.part.moved], pose), maps[:, self.part.moved :]], dim=1)

    def _read(self, conditioning: Conditioning, picked: Tensor | None = None) -> Tensor:
        """The output of each query, then the pooled text or, with layers, the mean of the tokens, [R, D]. ``picked``
        [R, L] is the log weight of each token.
        """
        stream = conditioning.streams[0]
        keys, values = self.keys(stream.tokens).chunk(2, dim=-1)
        scores = torch.einsum("qd,bld->bql", self.query, keys) / math.sqrt(self.part.text / 8)
        if picked is not None:
            scores = scores + picked[:, None]
        if stream.mask is not None:
            scores = scores.masked_fill(~stream.mask[:, None], float("-inf"))
        reads = [(scores.softmax(-1).to(values.dtype) @ values).flatten(1)]
        if self.layers is not None:
            weight = torch.ones_like(stream.tokens[..., 0]) if picked is None else picked.exp()
            weight = weight if stream.mask is None else weight * stream.mask
            mean = (stream.tokens * weight[..., None]).sum(1) / weight.sum(1, keepdim=True).clamp(min=1e-4)
            reads.append(mean.to(reads[0].dtype))
        elif conditioning.vector is not None:
            reads.append(conditioning.vector)
        return torch.cat(reads, dim=1)


class Boxed(nn.Module):
    """Box maps [R, S, h, w] and the projected text [R, D] -> a residual for the feature maps, [R, M, h, w];
    zero-initialised.
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
        """Two convolutions with FiLM by h: scale and shift of each map (arXiv:1709.07871)."""
        scale, shift, scale_2, shift_2 = self.shade(h)[:, :, None, None].chunk(4, dim=1)
        x = nn.functional.silu(self.enter(boxes) * (1 + scale) + shift)
        return self.second(nn.functional.silu(self.first(x) * (1 + scale_2) + shift_2))


class Layers(nn.Module):
    """Assigns words to layers, and predicts the placement and visibility of each.

    Layers compete for each word, as slots do (arXiv:2006.15055, section 2.1), but may share one, such as a style. They
    are initialised side by side and nearly invisible, so that a picture of one object is unchanged, and placements are
    bounded to the canvas, outside of which they would get no gradient.
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
            # Masks are initialised visible everywhere, or else layers would get no gradient.
            self.shown.weight.mul_(0.1)
            self.shown.bias.fill_(3.0)
            for thing, begin in enumerate(last.bias.view(part.things, -1)):
                across = math.atanh((2 * thing + 1) / part.things - 1)
                begin.copy_(torch.tensor([-0.5, across, 0.0, -5.0]))

    def picked(self, tokens: Tensor, mean: Tensor) -> Tensor:
        """The log weight of each word for each layer, [R, L, things], from the words [R, L, D] and their mean [R, D]:
        the sum of its own share and the common one.
        """
        repeated = mean[:, None].expand_as(tokens)
        shares = self.pick(self.norm(torch.cat([tokens, repeated], dim=-1))).float().log_softmax(-1)
        return torch.logaddexp(shares[..., :-1], shares[..., -1:])

    def stand(self, read: Tensor) -> tuple[Tensor, Tensor]:
        """Placements [R, things, 3] (scale, and the centre relative to the picture's, in half sides) and presence
        logits [R, things].
        """
        placement = self.place(read).float().unflatten(1, (-1, PLACE_WIDTH + 1))
        scale = SMALLEST + (1 - SMALLEST) * placement[..., :1].sigmoid()
        return torch.cat([scale, REACH * placement[..., 1:PLACE_WIDTH].tanh()], dim=-1), placement[..., PLACE_WIDTH]


def place_layer(maps: Tensor, shown: Tensor, pose: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """Moves the feature maps [R, C, h, w] of an object and its mask [R, 1, h, w] to its placement [R, 3], then applies
    the pose [R, 5] of the whole.

    As in the artwork of several objects, a flip mirrors each in its place; outside it the mask is zero.
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
    """Applies poses [B, 5] to feature maps [B, C, h, w]: flip (0 or 1), scale, dx, dy (of the side), angle in degrees.

    Flip, rotation counter-clockwise, scaling about the centre, then translation; edges are replicated.
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
    """``denoiser`` plus the Gaussian solution. The estimate is the first spatial map, with the channels of x; a row
    with an estimate of zeros has none, and the variance of its x is ``whole``. ``last`` is the timestep of pure noise.
    """

    denoiser: Part
    left: float = 0.3
    whole: float = 0.85
    last: float = 1000.0

    def build(self) -> RefineDenoiser:
        """The module."""
        return RefineDenoiser(self)


class RefineDenoiser(DenoiserWrapper):
    """x [R, C, h, w], t [R] and conditioning with a spatial estimate -> the velocity noise - x, [R, C, h, w]."""

    def __init__(self, part: Refine) -> None:
        super().__init__()
        self.part = part
        self.denoiser = cast(Denoiser, cast(Any, part.denoiser).build())
        self.multiple = self.denoiser.multiple

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Predicts the velocity."""
        assert conditioning.spatial is not None
        estimate = conditioning.spatial[:, : x.shape[1]].to(x)
        has_estimate = estimate.abs().amax(dim=(1, 2, 3)) > 0
        return self.denoiser(x, t, conditioning) + self.gaussian(x, t, estimate, has_estimate)

    def gaussian(self, x: Tensor, t: Tensor, estimate: Tensor, has_estimate: Tensor) -> Tensor:
        """E[noise - x | x_t, estimate] for x = estimate + N(0, v): with s = t / last and y = x_t - (1 - s) estimate, of
        variance d = (1 - s)^2 v + s^2, it is (s - (1 - s) v) / d y - estimate. ``has_estimate`` [R] marks rows with an
        estimate.
        """
        s = expand(t.to(x) / self.part.last, x)
        v = expand(has_estimate.to(x) * (self.part.left - self.part.whole) + self.part.whole, x)
        d = (1 - s) ** 2 * v + s**2
        return (s - (1 - s) * v) / d * (x - (1 - s) * estimate) - estimate
