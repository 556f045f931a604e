"""A drawn picture, and the metadata in its PNG by which it can be drawn again."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bimo.core.credentials import Credentials
from bimo.core.earlier_names import REQUEST
from bimo.core.errors import RequestError
from bimo.core.files import MAXIMUM_PICTURE_BYTES, demand_regular, write_whole
from bimo.core.label import Label, labelled
from bimo.core.messages import Message
from bimo.core.request import Request, seeds_of

if TYPE_CHECKING:
    from PIL import Image

METADATA_KEY = "bimo"
#: Records of old say "" where no negative prompt was given; from this format on "" is the empty one.
EMPTY_NEGATIVE_FORMAT = 2
#: Samplers by what records called them once.
FORMER_SAMPLERS = {"dpm++-sde": "dpm++-2m-sde"}


def recorded(request: Request) -> dict[str, Any]:
    """The fields of a request that are not the defaults. Without ``drawn_text`` it is of a picture whose model read the
    text as it stands, without ``draft`` of one without a draft, as those before there were these fields.
    """
    same = {"drawn_text"} if request.read_text == request.text else set[str]()
    return request.model_dump(exclude_defaults=True, exclude=same if request.draft else same | {"draft"})


@dataclass(frozen=True)
class Picture:
    """A drawn picture with all that is needed to draw it again.

    ``request`` is filled in; ``index`` is the place among its ``count``; ``weights`` the SHA-256 of the weights.
    ``empty_negative`` says that the negative prompt was said to be empty, and that none would have drawn another
    picture. ``certificates`` says of each text inscribed what stands in the picture and how it came there. ``layers``
    are what ``image`` is made of, the lowest first, of a system that draws layers with transparency.
    """

    image: Image.Image
    request: Request
    recipe: str
    weights: str
    index: int = 0
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    empty_negative: bool = False
    certificates: tuple[dict[str, Any], ...] = ()
    layers: tuple[Image.Image, ...] = ()

    @property
    def seed(self) -> int:
        """The seed of this picture alone: drawing it with count 1 gives the same picture."""
        return self._seeds[0]

    @property
    def _seeds(self) -> tuple[int, int | None]:
        request = self.request
        return seeds_of(request.seed or 0, request.subseed, request.subseed_strength, self.index)

    def metadata(self) -> dict[str, Any]:
        """What the PNG carries. Seconds are left out, so that the same picture has the same bytes."""
        subseed = self._seeds[1]
        varied = {} if subseed is None else {"subseed": subseed}
        record: dict[str, Any] = {
            "request": recorded(self.request) | {"seed": self.seed, "count": 1} | varied,
            "recipe": self.recipe,
            "weights": self.weights,
        }
        if self.empty_negative:
            record["format"] = EMPTY_NEGATIVE_FORMAT
        if self.certificates:
            record["certificates"] = list(self.certificates)
        return record

    def png(
        self,
        texts: Mapping[str, str] | None = None,
        label: Label | None = None,
        produce_id: str = "",
        credentials: Credentials | None = None,
    ) -> bytes:
        """The picture as PNG, with its metadata as JSON in the text chunk ``bimo``, and ``texts`` in chunks of their
        own. With a ``label`` it is labelled as the law asks, its number ``produce_id`` a hash of its record unless
        given; with ``credentials`` it is signed. Raises RequestError where that fails.
        """
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_itxt(METADATA_KEY, json.dumps(self.metadata(), ensure_ascii=False, sort_keys=True))
        for name, text in (texts or {}).items():
            info.add_itxt(name, text)
        buffer = io.BytesIO()
        self.image.save(buffer, format="PNG", pnginfo=info)
        content = buffer.getvalue()
        if label is not None:
            record = json.dumps(self.metadata(), sort_keys=True).encode()
            content = labelled(content, label, produce_id or hashlib.sha256(record).hexdigest()[:32])
        return content if credentials is None else credentials.signed(content)

    def save(self, path: str | Path, label: Label | None = None, credentials: Credentials | None = None) -> Path:
        """Writes the PNG whole or not at all, and the files of its layers beside it. Raises RequestError where the
        place cannot be written.
        """
        written = write_whole(Path(path), self.png(label=label, credentials=credentials))
        self.layer_files(written, label, credentials)
        return written

    def layer_files(self, path: Path, label: Label | None = None, credentials: Credentials | None = None) -> list[Path]:
        """Writes each layer beside the picture's file as "name.layer-1.png" ..., with the picture's record; answers
        their paths, none of a picture without layers. Raises RequestError as ``save``.
        """
        single = (replace(self, image=layer, layers=()) for layer in self.layers)
        named = ((layer_path(path, number), one) for number, one in enumerate(single, 1))
        return [one.save(place, label=label, credentials=credentials) for place, one in named]


def layer_path(path: Path, number: int) -> Path:
    """Where a layer lies beside the file of its picture, from 1."""
    return path.with_name(f"{path.stem}.layer-{number}{path.suffix}")


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata of a PNG that bimo drew. Raises RequestError where it has none or is not a picture."""
    demand_regular(Path(path), MAXIMUM_PICTURE_BYTES)
    return _metadata(path, path)


def metadata_of(content: bytes) -> dict[str, Any]:
    """As ``read_metadata``, of the bytes of a file."""
    return _metadata(io.BytesIO(content), Message("the file"))


def _metadata(source: str | Path | io.BytesIO, path: object) -> dict[str, Any]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(source) as image:
            text = image.info.get(METADATA_KEY)
    except (OSError, UnidentifiedImageError) as error:
        raise RequestError("cannot read the picture {path}: {error}", path=path, error=error) from None
    if not isinstance(text, str):
        raise RequestError("{path} carries no record of bimo; only PNGs that bimo drew can be drawn again", path=path)
    try:
        data: dict[str, Any] = json.loads(text)
        request = {REQUEST.get(name, name): value for name, value in dict(data["request"]).items()}
        if not request.get("negative") and data.get("format", 1) < EMPTY_NEGATIVE_FORMAT:
            request.pop("negative", None)
        if request.get("sampler") in FORMER_SAMPLERS:
            request["sampler"] = FORMER_SAMPLERS[request["sampler"]]
        return {"request": request, "recipe": str(data["recipe"]), "weights": str(data["weights"])}
    except (ValueError, KeyError, TypeError):
        raise RequestError("the record in {path} is damaged", path=path) from None
