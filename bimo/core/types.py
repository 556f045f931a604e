"""The types that rooms hand to each other, with their shapes.

Letters: B batch, L tokens, D width, P pooled width, C channels; h, w are sizes in a level's space, H, W in pixels.
Pixels are float in [-1, 1], RGB, channel first.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, overload

import pydantic

from bimo.core.errors import RequestError
from bimo.core.files import (
    MAXIMUM_PICTURE_BYTES,
    MAXIMUM_PICTURE_PIXELS,
    PICTURE_FORMATS,
    demand_regular,
    write_whole,
)
from bimo.core.messages import Both

if TYPE_CHECKING:
    import torch
    from PIL import Image

MAXIMUM_COUNT = 64
MAXIMUM_STEPS = 1000
MAXIMUM_SIDE = 8192
#: Seeds are those that ``torch.Generator`` takes and JSON readers keep whole.
MAXIMUM_SEED = 2**63 - 1
#: More than any CLIP has layers.
MAXIMUM_CLIP_SKIP = 64
METADATA_KEY = "bimo"
#: Halves of characters: what bytes that are not UTF-8 become on a command line, and what JSON can hold.
_NO_TEXT = re.compile("[\ud800-\udfff]")
#: Records of old say "" where no negative prompt was given; from this format on "" is the empty one.
EMPTY_NEGATIVE_FORMAT = 2
#: Samplers by what records called them once.
FORMER_SAMPLERS = {"dpm++-sde": "dpm++-2m-sde"}

Row = TypeVar("Row")


def _opened(value: Any) -> Any:
    """Encoded bytes as a PIL image; an image as it is. Raises ValueError, which pydantic tells of."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(value, bytes):
        try:
            value = Image.open(io.BytesIO(value), formats=PICTURE_FORMATS)
            _small_enough(value)  # before anything is decoded
            value.load()
        except UnidentifiedImageError:
            raise ValueError(f"not a picture; one of {', '.join(PICTURE_FORMATS)} is expected") from None
        except Exception as error:  # on damaged bytes Pillow's decoders raise all sorts
            raise ValueError(f"not a picture that can be read ({error})") from None
    if not isinstance(value, Image.Image):
        raise ValueError("a picture or its encoded bytes are expected; name the file again, it is not in the record")
    _small_enough(value)
    return value


def _small_enough(image: Image.Image) -> None:
    if image.width * image.height > MAXIMUM_PICTURE_PIXELS or not image.width or not image.height:
        raise ValueError(
            f"{image.width}x{image.height} pixels; a picture may have {MAXIMUM_PICTURE_PIXELS}, and at least one"
        )


def _fingerprint(image: Image.Image) -> str:
    """'sha256:...' of a picture's size and pixels: what a record keeps of it."""
    content = f"{image.mode} {image.size}".encode() + image.tobytes()
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


Pixels = Annotated[Any, pydantic.BeforeValidator(_opened), pydantic.PlainSerializer(_fingerprint)]


class Request(pydantic.BaseModel):
    """What is to be drawn: the one schema of Python, the command line, the web form and HTTP.

    ``size`` is (width, height) in pixels. What is None is filled in from the recipe when it is drawn.
    ``hints`` gives values to a level's hints by name; a hint not named is taken from the seed or left out.
    ``dials`` gives weights to the branches of guidance by name. ``image`` and ``mask`` (white: to be painted) are
    pictures or encoded bytes, never paths: a request may come from elsewhere. ``pictures`` are those that hints read,
    by the hint's name. ``strength`` is the share of the steps that ``image`` goes through.

    ``negative`` None is none, by each system's own rule; "" is the empty prompt. ``sampler`` is a name of
    AUTOMATIC1111's or diffusers', ``schedule`` how its noise falls (normal, karras, exponential, beta ...), ``spacing``
    where its times lie (leading, trailing, linspace), ``eta`` the share of DDIM's noise that is drawn anew.
    ``clip_skip`` counts the last layers of CLIP that are left out as AUTOMATIC1111 does: 1 is none of them, diffusers'
    ``clip_skip`` plus one. ``guidance_rescale`` is phi of arXiv:2305.08891 section 3.4.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    text: str
    negative: str | None = None
    size: tuple[int, int] | None = None
    count: int = 1
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    sampler: str | None = None
    schedule: str | None = None
    spacing: str | None = None
    eta: float | None = None
    guidance_rescale: float | None = None
    clip_skip: int | None = None
    style: str | None = None
    conditions: dict[str, list[float]] = {}
    guidance_weights: dict[str, float] = {}
    image: Pixels | None = None
    mask: Pixels | None = None
    condition_images: dict[str, Pixels] = {}
    strength: float | None = None


def checked(request: Request | Mapping[str, Any]) -> Request:
    """A request whose values can be drawn by some system. Raises RequestError that names the first wrong field."""
    if not isinstance(request, Request):
        try:
            request = Request(**request)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(step) for step in first["loc"])
            got = reprlib.repr(first["input"])  # a picture's bytes would fill the screen
            raise RequestError(
                "{where} of the request is wrong: {first} (got {got})", where=where, first=first["msg"], got=got
            ) from None
    texts = (("prompt", "提示词", request.text), ("negative prompt", "反向提示词", request.negative or ""))
    for name, zh, words in texts:
        if found := _NO_TEXT.search(words):
            raise RequestError(
                "character {start} of the {near} is {found!a}, which is no text; write UTF-8",
                start=found.start() + 1,
                near=Both(zh, name),
                found=found[0],
            )
    if not request.text.strip():
        raise RequestError("the prompt is empty; write a sentence of what to draw")
    _between("count", "张数", request.count, 1, MAXIMUM_COUNT)
    if request.steps is not None:
        _between("steps", "步数", request.steps, 1, MAXIMUM_STEPS)
    if request.seed is not None:
        _between("seed", "种子", request.seed, 0, MAXIMUM_SEED)
        last = request.seed + request.count - 1
        if last > MAXIMUM_SEED:
            raise RequestError(
                "the last seed of {count} pictures is {last}, above {maximum_seed}; let seed be at most "
                "{maximum_seed_2}",
                count=request.count,
                last=last,
                maximum_seed=MAXIMUM_SEED,
                maximum_seed_2=MAXIMUM_SEED - request.count + 1,
            )
    if request.clip_skip is not None:
        _between("clip_skip", "CLIP 从倒数第几层读", request.clip_skip, 1, MAXIMUM_CLIP_SKIP)
    for name, share in (("eta", request.eta), ("guidance_rescale", request.guidance_rescale)):
        if share is not None and not 0 <= share <= 1:
            raise RequestError("{name} is {share}; expected a number from 0 to 1", name=name, share=share)
    if request.guidance is not None and not (math.isfinite(request.guidance) and 0 <= request.guidance <= 100):
        raise RequestError("guidance is {guidance}; expected a number from 0 to 100", guidance=request.guidance)
    if request.strength is not None and not 0 < request.strength <= 1:
        raise RequestError("strength is {strength}; expected above 0 and at most 1", strength=request.strength)
    if request.mask is not None and request.image is None:
        raise RequestError("a mask without an image; give the image as well")
    if request.strength is not None and request.image is None:
        raise RequestError(
            "strength without an image: it says how much of the image is to change; give the image, or leave it out"
        )
    for side in request.size or ():
        _between("size", "边长", side, 1, MAXIMUM_SIDE)
    return request


def _between(name: str, zh: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise RequestError(
            "{name} is {value}; expected {low} to {high}",
            name=Both(f"{name}（{zh}）", name),
            value=value,
            low=low,
            high=high,
        )


@dataclass(frozen=True)
class Picture:
    """A drawn picture with all that is needed to draw it again.

    ``request`` is filled in; ``index`` is the place among its ``count``; ``weights`` the SHA-256 of the weights.
    ``empty_negative`` says that the negative prompt was said to be empty, and that none would have drawn another
    picture.
    """

    image: Image.Image
    request: Request
    recipe: str
    weights: str
    index: int = 0
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    empty_negative: bool = False

    @property
    def seed(self) -> int:
        """The seed of this picture alone: drawing it with count 1 gives the same picture."""
        return (self.request.seed or 0) + self.index

    def metadata(self) -> dict[str, Any]:
        """What the PNG carries. Seconds are left out, so that the same picture has the same bytes."""
        return {
            "request": self.request.model_dump(exclude_defaults=True) | {"seed": self.seed, "count": 1},
            "recipe": self.recipe,
            "weights": self.weights,
        } | ({"format": EMPTY_NEGATIVE_FORMAT} if self.empty_negative else {})

    def png(self) -> bytes:
        """The picture as PNG, with its metadata as JSON in the text chunk ``bimo``."""
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_itxt(METADATA_KEY, json.dumps(self.metadata(), ensure_ascii=False, sort_keys=True))
        buffer = io.BytesIO()
        self.image.save(buffer, format="PNG", pnginfo=info)
        return buffer.getvalue()

    def save(self, path: str | Path) -> Path:
        """Writes the PNG whole or not at all. Raises RequestError where the place cannot be written."""
        return write_whole(Path(path), self.png())


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata of a PNG that bimo drew. Raises RequestError where it has none or is not a picture."""
    from PIL import Image, UnidentifiedImageError

    demand_regular(Path(path), MAXIMUM_PICTURE_BYTES)
    try:
        with Image.open(path) as image:
            text = image.info.get(METADATA_KEY)
    except (OSError, UnidentifiedImageError) as error:
        raise RequestError("cannot read the picture {path}: {error}", path=path, error=error) from None
    if not isinstance(text, str):
        raise RequestError("{path} carries no record of bimo; only PNGs that bimo drew can be drawn again", path=path)
    try:
        data: dict[str, Any] = json.loads(text)
        request = dict(data["request"])
        if not request.get("negative") and data.get("format", 1) < EMPTY_NEGATIVE_FORMAT:
            request.pop("negative", None)
        if request.get("sampler") in FORMER_SAMPLERS:
            request["sampler"] = FORMER_SAMPLERS[request["sampler"]]
        return {"request": request, "recipe": str(data["recipe"]), "weights": str(data["weights"])}
    except (ValueError, KeyError, TypeError):
        raise RequestError("the record in {path} is damaged", path=path) from None


@dataclass(frozen=True)
class TextEncoding:
    """Texts as a tower reads them: ``tokens`` [B, L, D], ``mask`` [B, L] bool (True: real), ``pooled`` [B, P]."""

    tokens: torch.Tensor
    mask: torch.Tensor | None = None
    pooled: torch.Tensor | None = None


@dataclass(frozen=True)
class Conditioning:
    """What a denoiser is told besides x and t.

    ``streams`` are token sequences; ``vector`` [B, P]; ``spatial`` [B, Cs, h, w] is joined to x on the channels;
    ``scalars`` are small vectors by name, each [B, S]; ``pictures`` are what adapters look at by name, each [B, 3, H,
    W], or [B, C, h, w] coded as x is.
    """

    streams: tuple[TextEncoding, ...] = ()
    vector: torch.Tensor | None = None
    spatial: torch.Tensor | None = None
    scalars: Mapping[str, torch.Tensor] = field(default_factory=dict[str, "torch.Tensor"])
    pictures: Mapping[str, torch.Tensor] = field(default_factory=dict[str, "torch.Tensor"])


@dataclass(frozen=True)
class DenoiserInput:
    """A drawing's question to a denoiser: ``x`` [R, C, h, w], ``t`` [R], R rows, one a guidance branch."""

    level: str
    x: torch.Tensor
    t: torch.Tensor
    conditioning: Conditioning
    step: int = 0
    steps: int = 1


@dataclass(frozen=True)
class Sample:
    """A training pair: ``image`` as encoded bytes, ``captions`` to choose from, ``labels`` and ``pose`` as declared."""

    key: str
    image: bytes
    captions: tuple[str, ...]
    labels: Mapping[str, Any] = field(default_factory=dict[str, Any])
    pose: tuple[float, ...] = ()


@dataclass(frozen=True)
class Share:
    """The rows of a training step that one of several processes learns from: ``first`` to ``last`` of ``whole``."""

    first: int
    last: int
    whole: int

    @overload
    def of(self, values: torch.Tensor) -> torch.Tensor: ...
    @overload
    def of(self, values: Sequence[Row]) -> Sequence[Row]: ...
    def of(self, values: Any) -> Any:
        """Those rows of what has one for each of the step's: [whole, ...] -> [last - first, ...]."""
        return values if len(values) == self.last - self.first else values[self.first : self.last]


@dataclass(frozen=True)
class Batch:
    """A training batch in a level's space: ``x`` [B, C, h, w], the texts as encoded, what the data declares.

    ``dropped`` [B] bool says whose caption was emptied for guidance, ``left_out`` [B] bool by a hint's name which rows
    do without it; ``generator`` gives all randomness of the step. ``pixels`` [B, 3, H, W] are the pictures that x
    codes. ``scalars`` has "size_ids" [B, 6], those of SDXL (arXiv:2307.01952, section 2.2): height and width of the
    original, top and left of the cut, height and width. ``maps`` [B, 3, H, W] by name come with the pictures: depth,
    instances.

    Where several processes share a step the B rows are one's ``share`` of the ``whole``. What is random is drawn for
    the whole, alike in all of them, and then cut to one's ``own`` rows: so that it is what one process alone draws.
    """

    x: torch.Tensor
    encodings: tuple[TextEncoding, ...]
    scalars: Mapping[str, torch.Tensor]
    dropped_captions: torch.Tensor
    generator: torch.Generator
    pixels: torch.Tensor | None = None
    maps: Mapping[str, torch.Tensor] = field(default_factory=dict[str, "torch.Tensor"])
    dropped_conditions: Mapping[str, torch.Tensor] = field(default_factory=dict[str, "torch.Tensor"])
    share: Share | None = None

    @property
    def whole(self) -> int:
        """How many rows the step has in all processes together."""
        return len(self.x) if self.share is None else self.share.whole

    def own(self, values: torch.Tensor) -> torch.Tensor:
        """The rows that are here of what has one for each of the step's: [whole, ...] -> [B, ...]."""
        return values if self.share is None else self.share.of(values)

    def normal(self, *shape: int) -> torch.Tensor:
        """Normal numbers of the step's generator, [B, *shape]."""
        import torch

        return self.own(torch.randn((self.whole, *shape), generator=self.generator))
