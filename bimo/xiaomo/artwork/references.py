"""Reference pictures of single things in every drawn style, and pictures put together from them.

``references.zip`` has a WebP file for each kind in 3D, cropped to its content, a table of SVG drawings for each other
style but line, and the licences of the artwork; it is made by ``python tools/references.py``. A kind without a picture
there in a style, and every pair that is held out of training, is redrawn from another style (``looks``). Kinds that it
lacks, people and more things, are drawn (``bimo.xiaomo.drawn``).
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping, Set
from dataclasses import replace
from functools import lru_cache
from importlib import resources

from PIL import Image, ImageDraw

from bimo.xiaomo.artwork.backdrops import STANDS, Stand, backdrop, in_mood
from bimo.xiaomo.artwork.canvas import NO_FLIP
from bimo.xiaomo.artwork.compose import (
    Pose,
    apply_pose,
    keep_inside,
    on_colour,
    paste_at,
    paste_standing,
    recolour,
)
from bimo.xiaomo.artwork.drawings import Drawing, read
from bimo.xiaomo.artwork.held_out import hexcode
from bimo.xiaomo.artwork.lexicon import COLOURS, DEFAULT_STYLE, DYES
from bimo.xiaomo.artwork.looks import FINISH, LOOKS, counterparts, palette, redrawn, solid
from bimo.xiaomo.artwork.manners import APPLY
from bimo.xiaomo.artwork.places import WIDTH_ON_BACKDROP, Placed
from bimo.xiaomo.artwork.sprites import canonical
from bimo.xiaomo.artwork.words_table import read_aliases, read_names
from bimo.xiaomo.captions.arranged import Arrangement
from bimo.xiaomo.captions.colours import MANY
from bimo.xiaomo.captions.drawn_things import indoors, views
from bimo.xiaomo.captions.figures import FIGURE
from bimo.xiaomo.chance import Chance
from bimo.xiaomo.drawn.sprites import drawn, is_drawn
from bimo.xiaomo.drawn.vector import shaded

ARCHIVE = "references.zip"
#: The name of a reference in 3D in the archive, by hexcode, and of the table of those in another style.
NAME, TABLE = "3d/{kind}.webp", "{style}.tsv"
#: Where things stand in a view that is drawn.
_IN_A_VIEW = Stand(0.5, 0.94, 0.6, True)
_ALOFT = Stand(0.5, 0.78, 0.62, False)
_RAINBOW = ("red", "orange", "yellow", "green", "blue", "purple")


@lru_cache(maxsize=1)
def _archive() -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(resources.files("bimo.xiaomo.artwork").joinpath(ARCHIVE).read_bytes()))


@lru_cache(maxsize=1)
def _names() -> Set[str]:
    return frozenset(_archive().namelist())


@lru_cache(maxsize=len(LOOKS))
def kept_drawings(style: str) -> Mapping[str, Drawing]:
    table = TABLE.format(style=style)
    return read(_archive().read(table).decode().splitlines()) if table in _names() else {}


@lru_cache(maxsize=len(LOOKS))
def _palette(style: str) -> Mapping[tuple[int, int, int], int]:
    return palette(kept_drawings(style).values())


def has_references(things: Iterable[Placed]) -> bool:
    """Whether there is a picture of each thing, which can be redrawn in any drawn style."""
    return all(
        is_drawn(thing.kind)
        or NAME.format(kind=thing.kind) in _names()
        or any(thing.kind in kept_drawings(base) for base in LOOKS["flat"].bases)
        for thing in things
    )


def reference(kind: str, style: str, side: int) -> Image.Image:
    """The picture of a kind (a hexcode) in a drawn style as a sprite: RGBA, ``side`` pixels square, at rest.

    Raises KeyError if there is none in any style.
    """
    if style != DEFAULT_STYLE:
        drawing = kept_drawings(style).get(kind)
        sprite = canonical((drawing or _in_look(kind, style)).render(2 * side), side)
        if sprite and not drawing and style in FINISH:
            sprite = FINISH[style](sprite)
    elif is_drawn(kind):
        sprite = canonical(shaded(drawn(kind)).render(2 * side), side)
    elif NAME.format(kind=kind) in _names():
        sprite = canonical(_content(kind), side)
    else:
        sprite = solid(reference(kind, "flat", side))
    assert sprite is not None, "no reference is empty"
    return sprite


def _in_look(kind: str, style: str) -> Drawing:
    """The drawing of a kind in another style, in the look of this one."""
    look = LOOKS[style]
    if is_drawn(kind):
        return redrawn(drawn(kind), look, _palette(style))
    base = next((base for base in look.bases if kind in kept_drawings(base)), None)
    if base is None:
        raise KeyError(kind)
    return redrawn(kept_drawings(base)[kind], look, _palette(style), counterparts().get((style, base), {}))


@lru_cache(maxsize=256)
def _content(kind: str) -> Image.Image:
    with _archive().open(NAME.format(kind=kind)) as stream:
        image = Image.open(stream)
        image.load()
    return image


def put_together(arrangement: Arrangement, key: str, size: tuple[int, int]) -> Image.Image:
    """The picture of an arrangement, RGB, of a (width, height); of another shape than a square if it fits any. What the
    arrangement leaves open, how far each thing is turned and moved, is taken from the key.
    """
    side = min(size)
    view = next((thing.kind for thing in arrangement.things if thing.kind in views()), "")
    if view and len(arrangement.things) == 1:
        picture = _view(view, arrangement.style, key, size)
        return picture if view in indoors() else in_mood(picture, arrangement.mood, Chance(f"{key}/weather"))
    style = DEFAULT_STYLE if arrangement.style in APPLY else arrangement.style
    chance = Chance(f"{key}/things")
    layer = Image.new("RGBA", (side, side))
    kinds = {thing.kind for thing in arrangement.things}
    alike = len(kinds) == 1
    for number, thing in enumerate(arrangement.things):
        image = reference(thing.kind, style, side)
        if thing.colour:
            image = dyed(image, thing.colour)
        across, down, long_side = thing.box
        if alike:  # each a little otherwise
            image = _turned(image, chance.fork(str(number)), thing.kind)
        paste_at(layer, image, across, down, long_side)
    if not alike and not arrangement.sided and chance.uniform() < 0.5 and all(map(_mirrors, kinds)):
        layer = layer.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if arrangement.scene:
        return _in_scene(layer, arrangement, chance, size)
    pose = _pose(layer, chance, alone=len(arrangement.things) == 1 and not any(map(is_drawn, kinds)))
    layer = apply_pose(layer, pose)
    if arrangement.style in APPLY:
        return APPLY[arrangement.style](layer)
    ground = COLOURS[arrangement.background].background if arrangement.background else (255, 255, 255)
    canvas = Image.new("RGB", size, ground)
    canvas.paste(on_colour(layer, ground), ((size[0] - side) // 2, (size[1] - side) // 2))
    return canvas


def dyed(image: Image.Image, colour: str) -> Image.Image:
    """An RGBA sprite in a colour of ``DYES``; in slanting bands of many for ``MANY``."""
    if colour != MANY:
        return recolour(image, DYES[colour])
    side, found = image.width, image.copy()
    for band, dye in enumerate(_RAINBOW):
        left, right = ((band + shift) * side / len(_RAINBOW) * 1.2 - 0.1 * side for shift in (0, 1))
        mask, lean = Image.new("L", image.size), 0.12 * side
        corners = [(left + lean, 0), (right + lean, 0), (right - lean, side), (left - lean, side)]
        ImageDraw.Draw(mask).polygon(corners, fill=255)
        found.paste(recolour(image, DYES[dye]), (0, 0), mask)
    return found


def _pose(layer: Image.Image, chance: Chance, alone: bool) -> Pose:
    """As the poses of the training data; of several things nearer to rest, and they keep their sides."""
    reach = 1.0 if alone else 0.4
    scale, dx, dy = chance.uniform(1 - 0.2 * reach, 1.03), chance.uniform(-0.1, 0.1), chance.uniform(-0.1, 0.1)
    angle = round(chance.uniform(-5, 5) * reach, 2)
    return keep_inside(layer, Pose(0, scale, dx * reach, dy * reach, angle))


def _turned(image: Image.Image, chance: Chance, kind: str) -> Image.Image:
    """A picture flipped or not, and turned by some degrees."""
    flip = chance.uniform() < 0.5 and _mirrors(kind)
    most = 2 if is_drawn(kind) else 8  # people and towers stand upright
    return apply_pose(image, Pose(int(flip), angle=chance.uniform(-most, most)))


def _in_scene(layer: Image.Image, arrangement: Arrangement, chance: Chance, size: tuple[int, int]) -> Image.Image:
    """The layer, as large as the shorter side, standing in a backdrop as large as the longer one, whose lower middle is
    the picture.
    """
    side, (width, height) = max(size), size
    if arrangement.scene in views():
        stand = _ALOFT if arrangement.aloft else _IN_A_VIEW
        canvas = on_colour(shaded(drawn(arrangement.scene)).render(side))
    else:
        stand, canvas = STANDS[arrangement.scene], backdrop(arrangement.scene, side).copy()
    left, _, right, _ = layer.getbbox() or (0, 0, *layer.size)
    long_side = stand.size
    if len(arrangement.things) > 1:
        long_side = min(WIDTH_ON_BACKDROP, (right - left) / layer.width)
    elif any(is_drawn(thing.kind) for thing in arrangement.things):
        long_side = WIDTH_ON_BACKDROP
    across = stand.across + chance.uniform(-0.05, 0.05)
    paste_standing(canvas, layer, across, stand.foot, long_side, stand.shadow)
    return canvas.crop(((side - width) // 2, side - height, (side - width) // 2 + width, side))


def _view(kind: str, style: str, key: str, size: tuple[int, int]) -> Image.Image:
    """What fills the picture, in its middle as much as there is room for; or its mirror image."""
    view = drawn(kind)
    if style in LOOKS:
        view = replace(redrawn(view, replace(LOOKS[style], shadow=False), _palette(style)), box=view.box)
    else:
        view = shaded(view)
    image = view.render(max(size))
    if Chance(f"{key}/view").uniform() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    left, top = (image.width - size[0]) // 2, (image.height - size[1]) // 2
    cropped = image.crop((left, top, left + size[0], top + size[1]))
    return APPLY[style](cropped) if style in APPLY else on_colour(cropped)


#: What has writing on it, or a dial, though no name says so.
_WRITTEN_ON = "🧧🥡🏎🪦🧭🏫"


def _mirrors(kind: str) -> bool:
    """Whether a kind looks the same in a mirror, as far as its names tell: nothing with writing on it or of one hand.
    Of what this project draws only people are known to.
    """
    return kind.startswith(FIGURE) or kind in _mirrored()


@lru_cache(maxsize=1)
def _mirrored() -> Set[str]:
    names, written = read_names(), frozenset(map(hexcode, _WRITTEN_ON))
    every = {hexcode(emoji): (*english, *names.get(emoji, ())[1:]) for emoji, (_, _, english) in read_aliases().items()}
    return {kind for kind, words in every.items() if not NO_FLIP.search(", ".join(words).lower())} - written
