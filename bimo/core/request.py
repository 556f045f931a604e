"""What is to be drawn: the one schema of Python, the command line, the web form and HTTP, and what values it allows."""

from __future__ import annotations

import hashlib
import io
import math
import re
import reprlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic

from bimo.core.errors import RequestError
from bimo.core.files import MAXIMUM_PICTURE_PIXELS, PICTURE_FORMATS
from bimo.core.messages import Message

if TYPE_CHECKING:
    from PIL import Image

MAXIMUM_COUNT = 64
MAXIMUM_STEPS = 1000
MAXIMUM_SIDE = 8192
#: Seeds are those that ``torch.Generator`` takes and JSON readers keep whole.
MAXIMUM_SEED = 2**63 - 1
#: More than any CLIP has layers.
MAXIMUM_CLIP_SKIP = 64
MAXIMUM_REGIONS = 16
#: More times the side is no drawing over any more, but upscaling.
MAXIMUM_HIRES = 8
#: Windows of fewer pixels show no system anything.
LEAST_TILE = 16
#: More pixels are no seam any more.
MAXIMUM_FEATHER = 512
#: Halves of characters: what bytes that are not UTF-8 become on a command line, and what JSON can hold.
_NO_TEXT = re.compile("[\ud800-\udfff]")


def _opened(value: Any) -> Any:
    """Encoded bytes as a PIL image; an image as it is. Raises ValueError, which pydantic tells of."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(value, bytes):
        try:
            value = Image.open(io.BytesIO(value), formats=PICTURE_FORMATS)
            small_enough(value)  # before anything is decoded
            value.load()
        except UnidentifiedImageError:
            raise ValueError(f"not a picture; one of {', '.join(PICTURE_FORMATS)} is expected") from None
        except Exception as error:  # on damaged bytes Pillow's decoders raise all sorts
            raise ValueError(f"not a picture that can be read ({error})") from None
    if not isinstance(value, Image.Image):
        raise ValueError("a picture or its encoded bytes are expected; name the file again, it is not in the record")
    small_enough(value)
    return value


def small_enough(image: Image.Image) -> None:
    """Raises ValueError for a picture of more pixels than are read, by its header alone."""
    if image.width * image.height > MAXIMUM_PICTURE_PIXELS or not image.width or not image.height:
        raise ValueError(
            f"{image.width}x{image.height} pixels; a picture may have {MAXIMUM_PICTURE_PIXELS}, and at least one"
        )


def fingerprint(image: Image.Image) -> str:
    """'sha256:...' of a picture's size and pixels: what a record keeps of it."""
    content = f"{image.mode} {image.size}".encode() + image.tobytes()
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


#: Pixels at the left, top, right and bottom of a picture.
Border = tuple[int, int, int, int]
Pixels = Annotated[Any, pydantic.BeforeValidator(_opened), pydantic.PlainSerializer(fingerprint)]


class Region(pydantic.BaseModel):
    """A prompt for a part of the picture: ``box`` (left, top, width, height) as shares of it, or the ``colour``
    "#rrggbb" that the part has on the request's ``region_map``. ``weight`` counts against other regions.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    text: str
    box: tuple[float, float, float, float] | None = None
    colour: str | None = None
    weight: float = 1.0


class Request(pydantic.BaseModel):
    """What is to be drawn: the one schema of Python, the command line, the web form and HTTP.

    ``size`` is (width, height) in pixels. What is None is filled in from the recipe when it is drawn.
    ``conditions`` are values for a level's conditioners by name; one not named is taken from the seed or left out.
    ``guidance_weights`` are the weights of the branches of guidance by name. ``image`` and ``mask`` (white: to be
    painted) are pictures or encoded bytes, never paths: a request may come from elsewhere. ``condition_images`` are
    those that conditioners read, by their names. ``strength`` is the share of the steps that ``image`` goes through.

    ``negative`` None is none, by each system's own rule; "" is the empty prompt. ``sampler`` is a name of
    AUTOMATIC1111's or diffusers', ``schedule`` how its noise falls (normal, karras, exponential, beta ...), ``spacing``
    where its times lie (leading, trailing, linspace), ``eta`` the share of DDIM's noise that is drawn anew.
    ``inscribe`` are texts that must stand in the picture letter by letter; None those in
    quotation marks, () none. ``writing`` is horizontal, vertical, couplet or seal, ``font`` a family's name,
    ``inscribe_box`` (left, top, width, height) as shares of the picture, ``inscribe_at`` "thing" on what the picture
    shows, or "lantern", "signboard" or "seal" on that element of a layout which the model has by name,
    ``inscribe_method`` the first way tried: drawn, conditioned or composed.

    ``clip_skip`` counts the last layers of CLIP that are left out as AUTOMATIC1111 does: 1 is none of them, diffusers'
    ``clip_skip`` plus one. ``guidance_rescale`` is phi of arXiv:2305.08891 section 3.4.

    What is left out to be faster, nothing unless asked for: ``guidance_interval`` are the first and last step that is
    guided, as shares of all (arXiv:2404.07724); ``guidance_every`` n asks the other branches of guidance at every n-th
    of them; ``step_cache`` is "easy:0.05", "deep:3" and others (``diffusion.step_cache``); ``token_merging`` the share
    of tokens that are merged in a UNet's widest layers (arXiv:2303.17604); ``nag`` the scale of a negative prompt
    without guidance (arXiv:2505.21179); ``tiny_decoder`` decodes by the small decoder that the engine was given.

    ``outpaint`` (left, top, right, bottom) is a border in pixels that is drawn around ``image``, whose own pixels stay
    to the bit; ``feather`` are the pixels over which what is drawn in a mask or border is fitted to what is beside it.
    ``regions`` are prompts for parts of the picture, beside ``text`` for the whole, which counts ``base_ratio`` within
    them. ``hires`` is how many times larger the picture is drawn over once it is drawn, at the share ``hires_strength``
    of ``hires_steps``, enlarged by ``hires_upscaler``. ``tile_size`` has the denoiser see windows of so many pixels a
    side, which lie on each other by ``tile_overlap``. ``subseed`` with ``subseed_strength`` varies a seed as
    AUTOMATIC1111's variation seed does: its noise is that of ``seed`` turned so far, 0 to 1, towards that of
    ``subseed``; of ``count`` pictures the second seed counts on. With ``seamless`` "x", "y" or "both" opposite edges
    are neighbours, so that copies fit side by side.

    ``long_prompt`` "chunks" reads what CLIP has no room for in further chunks, as AUTOMATIC1111; else it is cut, as in
    diffusers, and said. ``original_text`` is what was written where ``text`` was expanded or translated from it; it is
    kept and not drawn. ``drawn_text`` is what the model reads in place of ``text``; by default in words it learned.
    ``draft`` is the share of the steps that a draft by the model's own procedures goes through (SDEdit), 0 for none.
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
    guidance_interval: tuple[float, float] | None = None
    guidance_every: int | None = None
    step_cache: str | None = None
    token_merging: float | None = None
    nag: float | None = None
    tiny_decoder: bool = False
    outpaint: Border | None = None
    feather: int | None = None
    regions: tuple[Region, ...] = ()
    region_map: Pixels | None = None
    base_ratio: float | None = None
    hires: float | None = None
    hires_strength: float | None = None
    hires_steps: int | None = None
    hires_upscaler: Literal["lanczos", "nearest", "latent"] | None = None
    tile_size: int | None = None
    tile_overlap: int | None = None
    subseed: int | None = None
    subseed_strength: float | None = None
    seamless: Literal["x", "y", "both"] | None = None
    inscribe: Annotated[tuple[str, ...], pydantic.Field(max_length=16)] | None = None
    writing: Literal["horizontal", "vertical", "couplet", "seal"] | None = None
    font: str | None = None
    inscribe_box: tuple[float, float, float, float] | None = None
    inscribe_at: Literal["thing", "lantern", "signboard", "seal"] | None = None
    inscribe_method: Literal["drawn", "conditioned", "composed"] | None = None
    long_prompt: Literal["cut", "chunks"] | None = None
    original_text: str | None = None
    drawn_text: str | None = None
    draft: Annotated[float, pydantic.Field(ge=0, le=1)] | None = None

    @property
    def read_text(self) -> str:
        """What the model reads: ``drawn_text``, or ``text`` where it is not set."""
        return self.text if self.drawn_text is None else self.drawn_text


#: How the whole of a picture is made: a part of it, or a smaller one, is drawn without.
OF_THE_WHOLE: Mapping[str, Any] = {
    **dict.fromkeys(("mask", "outpaint", "feather", "region_map", "base_ratio", "seamless")),
    **dict.fromkeys(("hires", "hires_strength", "hires_steps", "hires_upscaler", "tile_size", "tile_overlap")),
    "regions": (),
}


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
    prompts = ((Message("prompt"), words) for words in (request.text, request.read_text))
    for name, words in (*prompts, (Message("negative prompt"), request.negative or "")):
        if found := _NO_TEXT.search(words):
            raise RequestError(
                "character {start} of the {name} is {found!a}, which is no text; write UTF-8",
                start=found.start() + 1,
                name=name,
                found=found[0],
            )
    if not request.text.strip():
        raise RequestError("the prompt is empty; write a sentence of what to draw")
    _between("count", request.count, 1, MAXIMUM_COUNT)
    if request.steps is not None:
        _between("steps", request.steps, 1, MAXIMUM_STEPS)
    _checked_seeds(request)
    if request.clip_skip is not None:
        _between("clip_skip", request.clip_skip, 1, MAXIMUM_CLIP_SKIP)
    shares = (request.eta, request.guidance_rescale, request.subseed_strength)
    for name, share in zip(("eta", "guidance_rescale", "subseed_strength"), shares, strict=True):
        if share is not None and not 0 <= share <= 1:
            raise RequestError("{name} is {share}; expected a number from 0 to 1", name=name, share=share)
    if request.guidance is not None and not (math.isfinite(request.guidance) and 0 <= request.guidance <= 100):
        raise RequestError("guidance is {guidance}; expected a number from 0 to 100", guidance=request.guidance)
    if request.strength is not None and not 0 < request.strength <= 1:
        raise RequestError("strength is {strength}; expected above 0 and at most 1", strength=request.strength)
    _checked_shortcuts(request)
    _checked_border(request)
    _checked_regions(request)
    _checked_enlarging(request)
    if request.mask is not None and request.image is None:
        raise RequestError("a mask without an image; give the image as well")
    if request.strength is not None and request.image is None:
        raise RequestError(
            "strength without an image: it says how much of the image is to change; give the image, or leave it out"
        )
    for side in request.size or ():
        _between("size", side, 1, MAXIMUM_SIDE)
    return request


def _checked_seeds(request: Request) -> None:
    """Raises RequestError for seeds that no generator takes."""
    for name, seed in (("seed", request.seed), ("subseed", request.subseed)):
        if seed is None:
            continue
        _between(name, seed, 0, MAXIMUM_SEED)
        last = seed + request.count - 1
        if last > MAXIMUM_SEED:
            raise RequestError(
                "the last seed of {count} pictures is {last}, above {maximum_seed}; let seed be at most "
                "{maximum_seed_2}",
                count=request.count,
                last=last,
                maximum_seed=MAXIMUM_SEED,
                maximum_seed_2=MAXIMUM_SEED - request.count + 1,
            )


def seeds_of(seed: int, subseed: int | None, strength: float | None, index: int) -> tuple[int, int | None]:
    """(seed, subseed) of one of several pictures: as in AUTOMATIC1111 the seed counts on, or, where it is varied, the
    second one.
    """
    if strength and subseed is not None:
        return seed, subseed + index
    return seed + index, subseed


def _checked_border(request: Request) -> None:
    """Raises RequestError for a border that goes around nothing, and for a seam where there is none."""
    if request.outpaint is not None:
        if request.image is None:
            raise RequestError("outpaint without an image: it is the border that is drawn around one; give the image")
        if request.mask is not None:
            raise RequestError("outpaint paints the border and keeps the image; leave the mask out, or paint it later")
        if min(request.outpaint) < 0 or not any(request.outpaint):
            raise RequestError(
                "the border to outpaint is {border}; expected pixels at the left, top, right and bottom, one of them "
                "above 0",
                border=request.outpaint,
            )
    if request.feather is not None:
        _between("feather", request.feather, 0, MAXIMUM_FEATHER)
        if request.mask is None and request.outpaint is None:
            raise RequestError("feather without a mask or outpaint: there is no seam; leave it out")


def _checked_regions(request: Request) -> None:
    """Raises RequestError for parts of the picture that are none."""
    if len(request.regions) > MAXIMUM_REGIONS:
        raise RequestError(
            "there are {count} regions; at most {most}", count=len(request.regions), most=MAXIMUM_REGIONS
        )
    for number, region in enumerate(request.regions, 1):
        box, colour = region.box, region.colour
        if _NO_TEXT.search(region.text) or not region.text.strip():
            raise RequestError("region {number} has no text; say what is to be drawn there", number=number)
        if (box is None) == (colour is None):
            raise RequestError("region {number} needs a box or a colour of the map, one of them", number=number)
        left, top, width, height = box or (0, 0, 1, 1)
        whole = left + width <= 1 + 1e-9 and top + height <= 1 + 1e-9
        if not (min(left, top) >= 0 and min(width, height) > 0 and whole):
            raise RequestError(
                "the box of region {number} is {box}; expected left,top,width,height as shares of the picture from 0 "
                "to 1, for instance 0,0,0.5,1",
                number=number,
                box=box,
            )
        if colour is not None and not re.fullmatch("#[0-9a-fA-F]{6}", colour):
            raise RequestError(
                "the colour of region {number} is {colour!r}; expected #rrggbb", number=number, colour=colour
            )
        if colour is not None and request.region_map is None:
            raise RequestError("region {number} is a colour of a map; give the map", number=number)
        if not (math.isfinite(region.weight) and 0 < region.weight <= 10):
            raise RequestError(
                "the weight of region {number} is {weight}; expected above 0 and at most 10",
                number=number,
                weight=region.weight,
            )
    if not request.regions and (request.region_map is not None or request.base_ratio is not None):
        raise RequestError("a map or a base ratio without regions; say what is to be drawn where, or leave it out")
    if request.base_ratio is not None and not 0 <= request.base_ratio < 1:
        raise RequestError("base_ratio is {share}; expected at least 0 and below 1", share=request.base_ratio)


def _checked_enlarging(request: Request) -> None:
    """Raises RequestError for a second drawing or windows that are none."""
    own = {"hires_strength": request.hires_strength, "hires_steps": request.hires_steps}
    own |= {"hires_upscaler": request.hires_upscaler}
    if request.hires is None:
        for name, value in own.items():
            if value is not None:
                raise RequestError("{name} without hires: there is no second drawing; give its scale", name=name)
    elif not (math.isfinite(request.hires) and 1 <= request.hires <= MAXIMUM_HIRES):
        raise RequestError(
            "hires is {scale}; expected a scale from 1 to {most}", scale=request.hires, most=MAXIMUM_HIRES
        )
    if request.hires_strength is not None and not 0 < request.hires_strength <= 1:
        raise RequestError(
            "hires_strength is {strength}; expected above 0 and at most 1", strength=request.hires_strength
        )
    if request.hires_steps is not None:
        _between("hires_steps", request.hires_steps, 1, MAXIMUM_STEPS)
    if request.hires is not None and (request.mask is not None or request.outpaint is not None):
        raise RequestError("hires draws over the whole picture; leave the mask or border out, or enlarge it first")
    if request.tile_size is not None:
        _between("tile_size", request.tile_size, LEAST_TILE, MAXIMUM_SIDE)
    if request.tile_overlap is not None and not 0 <= request.tile_overlap < (request.tile_size or 0):
        raise RequestError(
            "tile_overlap is {overlap}; expected pixels below tile_size, which is {size}",
            overlap=request.tile_overlap,
            size=request.tile_size,
        )


def _checked_shortcuts(request: Request) -> None:
    """Raises RequestError for what cannot be left out."""
    if request.guidance_interval is not None:
        low, high = request.guidance_interval
        if not 0 <= low <= high <= 1:
            raise RequestError(
                "the interval of guidance is {low:g} to {high:g}; expected shares of the steps, as 0.2 to 0.8",
                low=low,
                high=high,
            )
    if request.guidance_every is not None:
        _between("guidance_every", request.guidance_every, 2, 20)
    if request.token_merging is not None and not 0 < request.token_merging <= 0.75:
        raise RequestError(
            "token_merging is {share}; expected above 0 and at most 0.75, as one of four tokens stays",
            share=request.token_merging,
        )
    if request.nag is not None:
        if not (math.isfinite(request.nag) and 1 < request.nag <= 50):
            raise RequestError("nag is {scale}; expected a number above 1 and at most 50", scale=request.nag)
        if not request.negative:
            raise RequestError("nag without a negative prompt: say what not to draw, or leave it out")


def _between(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise RequestError(
            "{name} is {value}; expected {low} to {high}",
            name=name,
            value=value,
            low=low,
            high=high,
        )
