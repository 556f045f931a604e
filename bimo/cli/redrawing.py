"""Options of `bimo draw` for second passes, regions, tiling, outpainting and seed variation."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from bimo.core.errors import RequestError
from bimo.core.messages import say
from bimo.core.request import Border

Subseed = Annotated[
    int | None, typer.Option(help=say("a second seed that the first is varied towards, with --subseed-strength"))
]
SubseedStrength = Annotated[
    float | None,
    typer.Option(help=say("how far it is varied: 0 is the picture of --seed, 1 that of --subseed")),
]

Draft = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help=say(
            "the share of the steps drawn over a draft by the model's own program (scenes, dishes, things); 0: none"
        ),
    ),
]


class Upscaler(StrEnum):
    """How a picture is enlarged for the second pass."""

    lanczos = "lanczos"
    nearest = "nearest"
    latent = "latent"


class Place(StrEnum):
    """Where text is inscribed."""

    thing = "thing"
    lantern = "lantern"
    signboard = "signboard"
    seal = "seal"


class Edges(StrEnum):
    """Axes along which a picture is seamless."""

    x = "x"
    y = "y"
    both = "both"


Seamless = Annotated[Edges | None, typer.Option(help=say("have opposite edges meet, so that copies fit side by side"))]
Outpaint = Annotated[
    str | None,
    typer.Option(
        help=say("draw on around --image: left=64,right=25% (of its width), or a shape as 16:9 about its middle")
    ),
]
Feather = Annotated[
    int | None,
    typer.Option(help=say("pixels over which what is painted is fitted to what is kept; else 16, or 0 for --mask")),
]

Regions = Annotated[
    list[str] | None,
    typer.Option(
        help=say(
            "a prompt for a part: left=TEXT, 0,0,0.5,1=TEXT (left,top,width,height as shares) or, of --region-map, "
            "#ff0000=TEXT; more than once"
        )
    ),
]
RegionMap = Annotated[Path | None, typer.Option(help=say("a picture whose colours say where the regions are"))]
BaseRatio = Annotated[
    float | None, typer.Option(help=say("what the whole prompt counts within regions, 0 to 1; else 0.2"))
]
Hires = Annotated[
    float | None, typer.Option(help=say("enlarge the picture so many times and draw over it, as A1111's hires fix"))
]
HiresStrength = Annotated[float | None, typer.Option(help=say("how much that changes, above 0; else 0.4"))]
HiresSteps = Annotated[int | None, typer.Option(help=say("steps of drawing over; else --steps"))]
HiresUpscaler = Annotated[Upscaler | None, typer.Option(help=say("how it is enlarged; else lanczos"))]
InscribeAt = Annotated[
    Place | None,
    typer.Option(
        help=say("write on the thing that the picture shows, or on a lantern, signboard or seal of a scene's layout")
    ),
]
TileSize = Annotated[
    int | None, typer.Option(help=say("show the denoiser windows of so many pixels: large pictures of small models"))
]
TileOverlap = Annotated[
    int | None, typer.Option(help=say("pixels by which windows lie on each other; else a quarter of --tile-size"))
]
#: Named boxes: (left, top, width, height) as fractions of the picture.
BOXES = {"left": (0, 0, 0.5, 1), "right": (0.5, 0, 0.5, 1), "top": (0, 0, 1, 0.5), "bottom": (0, 0.5, 1, 0.5)}


def region_of(text: str) -> dict[str, Any]:
    """Parses 'left=一只猫', '0,0,0.5,1=一只猫', '#ff0000=一只猫', or with a weight 'left:1.5=一只猫', into the fields
    of a Region. Raises RequestError.
    """
    place, sign, words = text.partition("=")
    place, _, weight = place.strip().replace("，", ",").partition(":")
    fields: dict[str, Any] = {"text": words.strip()}
    try:
        if weight:
            fields["weight"] = float(weight)
        if place.startswith("#"):
            fields["colour"] = place
        else:
            fields["box"] = BOXES.get(place) or tuple(float(part) for part in place.split(","))
        if not sign or not words.strip() or len(fields.get("box", (0,) * 4)) != 4:
            raise ValueError
    except ValueError:
        raise RequestError(
            "--region is {text!r}; expected PLACE=TEXT, its place left, right, top, bottom, "
            "left,top,width,height as shares of the picture, or #rrggbb of --region-map",
            text=text,
        ) from None
    return fields


def border_of(text: str, image: Any) -> Border:
    """Parses 'left=64,right=25%' or '16:9' into (left, top, right, bottom) in pixels. Raises RequestError."""
    if image is None:
        raise RequestError("--outpaint without --image; give the picture that is to be drawn on around")
    from PIL import ImageOps

    width, height = ImageOps.exif_transpose(image).size
    if shape := re.fullmatch(r"\s*(\d{1,4})\s*[:：]\s*(\d{1,4})\s*", text):
        across, down = int(shape[1]), int(shape[2])
        if across and down:
            padding = (max(0, round(height * across / down) - width), max(0, round(width * down / across) - height))
            return padding[0] // 2, padding[1] // 2, padding[0] - padding[0] // 2, padding[1] - padding[1] // 2
    sides: dict[str, int] = {"left": 0, "top": 0, "right": 0, "bottom": 0}
    for part in re.split("[,，]", text):
        match = re.fullmatch(r"\s*(left|top|right|bottom|all)\s*=\s*(\d{1,5})(%?)\s*", part)
        if match is None:
            raise RequestError(
                "--outpaint is {text!r}; expected sides with pixels or shares, as left=64,right=25% or all=32, or a "
                "shape as 16:9",
                text=text,
            )
        for side in sides if match[1] == "all" else (match[1],):
            length = width if side in ("left", "right") else height
            sides[side] = round(length * int(match[2]) / 100) if match[3] else int(match[2])
    return sides["left"], sides["top"], sides["right"], sides["bottom"]
