"""The box for text on a named element of the picture's layout: a lantern, the board over a gate, the painter's seal.
The layout is the condition that the model got (`Conditioner.places`); where on a lantern there is room is measured in
the picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bimo.core.errors import RequestError
from bimo.core.messages import Listed
from bimo.diffusion.system import System
from bimo.inscription.layout import Writing
from bimo.inscription.things import box_on_thing

if TYPE_CHECKING:
    from PIL import Image

    from bimo.core.request import Request

#: Left, top, right and bottom, or left, top, width and height, as shares of a picture.
Shares = tuple[float, float, float, float]
#: A place -> the elements that have it, the likeliest first.
PLACES: Mapping[str, tuple[str, ...]] = {
    "lantern": ("lantern", "sky lantern", "river lantern"),
    "signboard": ("signboard", "gate", "city gate", "temple hall", "palace", "pavilion", "temple"),
    "seal": ("seal",),
}
#: Width by height between which a box is one lantern; others hold a row of them.
ONE_LANTERN = (0.4, 1.4)
#: The part of an element's box that text is set in where the picture shows no object in the box.
WRITABLE: Mapping[str, Shares] = {
    "lantern": (0.2, 0.2, 0.8, 0.6),
    "signboard": (0.28, 0.24, 0.72, 0.44),
    "seal": (0.0, 0.0, 1.0, 1.0),
}
#: A box is looked at with so much of its side around it: a thing differs from what surrounds it.
AROUND = 0.15
#: The least that a thing has room for, as a share of what the layout has.
SPECK = 0.5


def box_at(
    system: System, request: Request, index: int, image: Image.Image, text: str, writing: Writing, place: str
) -> Shares:
    """(left, top, width, height) of the place "lantern", "signboard" or "seal" of a picture, as shares of it. Raises
    RequestError where the layout has no such element, with those that it has.
    """
    declared = _declared(system, request, index)
    boxes = [box for name in PLACES[place] for box in declared.get(name, ())]
    if not boxes:
        there = [name for name, elements in PLACES.items() if any(one in declared for one in elements)]
        raise _no_place(place, there, list(declared), system.recipe.name)
    best = max(boxes, key=lambda box: _fitness(box, place))
    by_layout = _part(best, WRITABLE[place])
    if place != "lantern":
        return by_layout
    on_object = _box_on_object(image, _cropped(best), text, writing)
    # What is much smaller is a speck beside a lantern that is blurred into its surroundings.
    large = on_object is not None and min(on_object[2:]) >= SPECK * min(by_layout[2:])
    return on_object if on_object is not None and large else by_layout


def _box_on_object(image: Image.Image, around: Shares, text: str, writing: Writing) -> Shares | None:
    """The box for text on the object in a part of the picture, None where no object stands out there."""
    width, height = image.size
    pixels = (
        *(round(around[0] * width), round(around[1] * height)),
        *(round(around[2] * width), round(around[3] * height)),
    )
    try:
        left, top, across, down = box_on_thing(image.crop(pixels), text, writing)
    except RequestError:
        return None
    wide, high = around[2] - around[0], around[3] - around[1]
    return around[0] + left * wide, around[1] + top * high, across * wide, down * high


def _declared(system: System, request: Request, index: int) -> dict[str, list[Shares]]:
    """Every element of the layout conditions, with its boxes as shares of the picture."""
    boxes_by_element: dict[str, list[Shares]] = {}
    for level in system.recipe.levels:
        for conditioner in system.level(level.name).conditioners:
            for name, boxes in conditioner.places(request, index).items():
                inside = [_clipped(box) for box in boxes]
                # Levels of one system are told the same.
                boxes_by_element[name] = [box for box in inside if box[2] > box[0] and box[3] > box[1]]
    return {name: boxes for name, boxes in boxes_by_element.items() if name and boxes}


def _no_place(place: str, there: list[str], declared: list[str], model: str) -> RequestError:
    if not declared:
        return RequestError(
            "{model} lays out no elements by name for this prompt, so that there is no {place} to write on; take "
            "inscribe_at thing or an inscribe_box, or draw a scene with xiaomo-2",
            model=model,
            place=place,
        )
    if there:
        return RequestError(
            "there is no {place} in this picture to write on; there is {there}", place=place, there=Listed(there)
        )
    return RequestError(
        "there is no {place} in this picture to write on, which has {elements}; take inscribe_at thing or an "
        "inscribe_box",
        place=place,
        elements=Listed(declared),
    )


def _fitness(box: Shares, place: str) -> tuple[bool, float]:
    wide, high = box[2] - box[0], box[3] - box[1]
    one = place != "lantern" or ONE_LANTERN[0] <= wide / high <= ONE_LANTERN[1]
    return one, min(wide, high)


def _clipped(box: Sequence[float]) -> Shares:
    left, top, right, bottom = (min(1.0, max(0.0, float(side))) for side in box)
    return left, top, right, bottom


def _cropped(box: Shares) -> Shares:
    wide, high = AROUND * (box[2] - box[0]), AROUND * (box[3] - box[1])
    return _clipped((box[0] - wide, box[1] - high, box[2] + wide, box[3] + high))


def _part(box: Shares, of: Shares) -> Shares:
    wide, high = box[2] - box[0], box[3] - box[1]
    return box[0] + of[0] * wide, box[1] + of[1] * high, (of[2] - of[0]) * wide, (of[3] - of[1]) * high
