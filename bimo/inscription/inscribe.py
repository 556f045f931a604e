"""The main path of 题字: place the text, let the model write, set what it cannot, read back, repair, certify.

A model that writes is read first; what it wrote right stays. Other characters are set from a font and drawn over by the
model (``conditioned``); what does not come out right is tried again with more of the glyph kept, and at last laid in
(``composed``). Each character is judged by its strokes and by a reader; wrong ones are repaired one by one, and the
rest of the picture stays as it is to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bimo.core.errors import RequestError
from bimo.core.messages import Listed, say
from bimo.core.picture import Picture
from bimo.core.request import Request
from bimo.engine.engine import Engine
from bimo.inscription import compose, conditioned, drawn, reading
from bimo.inscription.certificate import Certificate, Character, Method, Verdict, verdict_of
from bimo.inscription.fonts import Face, faces_for, find_faces
from bimo.inscription.layout import (
    Box,
    Cell,
    Writing,
    bounds,
    calm_cells,
    characters_of,
    check_text,
    fit,
    needed_side,
)
from bimo.inscription.places import box_at
from bimo.inscription.setting import glyph, mask_of
from bimo.inscription.strokes import Strokes, compare
from bimo.inscription.things import box_on_thing
from bimo.prompts.quoted_text import quoted

if TYPE_CHECKING:
    from PIL import Image

#: A picture smaller than this, in pixels, shows no text that a reader could find.
LEGIBLE = 256
#: So many groups of characters are drawn over by the model; longer texts would take minutes and are laid in.
MOST_GROUPS = 24
#: The largest side a picture is enlarged to for its text.
LARGEST = 2048
#: ``inscribe_at`` of what stands out from the picture's rim, whatever it is, and of a board that is hung there.
THING, SIGNBOARD = "thing", "signboard"
#: Called with (characters done, of how many).
OnCharacters = Callable[[int, int], None]


@dataclass(frozen=True)
class Inscription:
    """What is to be written, and how: ``box`` (left, top, width, height) as shares of the picture, calm room if None.

    ``font`` is a family's name; ``method`` the first that is tried. ``at`` has it stand on the "thing" that the picture
    shows, or on an element of its layout: "lantern", "signboard" or "seal".
    """

    text: str
    writing: Writing = Writing.HORIZONTAL
    font: str | None = None
    box: tuple[float, float, float, float] | None = None
    method: Method = Method.DRAWN
    at: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", check_text(self.text))
        if self.box is not None:
            left, top, width, height = self.box
            if min(left, top) < 0 or min(width, height) <= 0 or left + width > 1 or top + height > 1:
                raise RequestError(
                    "the box of the inscription is {box}; expected left,top,width,height as shares of the picture "
                    "from 0 to 1, for instance 0.1,0.1,0.8,0.3",
                    box=self.box,
                )


def inscribe(
    engine: Engine, picture: Picture, inscriptions: Sequence[Inscription], progress: OnCharacters | None = None
) -> Picture:
    """The picture with every text in it, and a certificate of each. Raises RequestError for text that does not fit or
    that no font here has. Layers are left as they are, and it is said.
    """
    if picture.layers:
        untouched = say("nothing is written into layers; write into one of their files")
        return replace(picture, warnings=(*picture.warnings, untouched))
    image = picture.image.convert("RGB")
    warnings = list(picture.warnings)
    certificates: list[Certificate] = []
    occupied: list[Cell] = []
    inscriptions = [_at_its_place(engine, picture, image, one) for one in inscriptions]
    enlarged = _enlarged(image, inscriptions)
    if enlarged.size != image.size:
        before, after = (f"{one.width}x{one.height}" for one in (image, enlarged))
        warnings.append(say("drawn at {before}, enlarged to {after} for the text", before=before, after=after))
    for inscription in inscriptions:
        written = _Writer(engine, picture.request, enlarged, inscription, occupied, progress)
        enlarged, certificate = written.result()
        occupied += written.cells
        certificates.append(certificate)
        warnings += _sentences(certificate)
        if inscription.at == SIGNBOARD:
            warnings.append(say("the board below “{text}” is laid into the picture", text=inscription.text))
    return replace(
        picture,
        image=enlarged,
        warnings=tuple(warnings),
        certificates=tuple(certificate.as_json() for certificate in certificates),
    )


def _at_its_place(engine: Engine, picture: Picture, image: Image.Image, inscription: Inscription) -> Inscription:
    """The inscription with its box, where that is for the picture to say. Raises RequestError."""
    text, writing, at = inscription.text, inscription.writing, inscription.at
    if not at:
        return inscription
    if at == THING:
        return replace(inscription, box=box_on_thing(image, text, writing))
    box = box_at(engine.system, picture.request, picture.index, image, text, writing, at)
    return replace(inscription, box=box)


def _enlarged(image: Image.Image, inscriptions: Sequence[Inscription]) -> Image.Image:
    from PIL import Image as Images

    needed = 0
    for one in inscriptions:
        share = 1.0 if one.box is None else min(one.box[2:])
        needed = max(needed, round(needed_side(one.text, one.writing) / share))
    side = min(image.size)
    if needed <= side:
        return image
    # Whole multiples: an enlarged edge stays as regular as it was.
    times = -(-min(needed, LARGEST) // side)
    return image.resize((image.width * times, image.height * times), Images.Resampling.LANCZOS)


def _sentences(certificate: Certificate) -> Iterator[str]:
    """The messages about a certificate; none where all characters are right and drawn by the model."""
    if wrong := certificate.wrong():
        yield say(
            "of the text “{text}” {count} characters are not right: {wrong}",
            text=certificate.text,
            count=len(wrong),
            wrong=", ".join(f"{one.character} ({say('read as')} {one.read_as or '–'})" for one in wrong),
        )
    if composed := certificate.methods()[Method.COMPOSED]:
        yield say(
            "{composed} of {count} characters of “{text}” are laid into the picture, not drawn by the model",
            composed=composed,
            count=len(certificate.characters),
            text=certificate.text,
        )


class _Writer:
    """The state of writing one inscription into a picture."""

    def __init__(
        self,
        engine: Engine,
        request: Request,
        image: Image.Image,
        inscription: Inscription,
        occupied: Sequence[Cell],
        progress: OnCharacters | None,
    ) -> None:
        self.engine, self.inscription, self.progress = engine, inscription, progress
        # What is drawn over is drawn without texts of its own.
        self.request = request.model_copy(update={"inscribe": (), "count": 1})
        self.faces = find_faces(inscription.font)
        self.pixels = np.asarray(image, np.float32)
        self.size = image.size
        self.found: dict[Cell, Character] = {}
        self.repaired = 0
        own = self._own() if inscription.method is Method.DRAWN else None
        self.cells = own or _placed(image, inscription, occupied)
        self.face_of: Mapping[str, Face] = faces_for("".join(cell.character for cell in self.cells), self.faces)
        self.mask = mask_of(self.cells, self.face_of, self.size)
        self.clean = dict(
            zip(self.cells, self._read([self._glyph(cell) * -255 + 255 for cell in self.cells]), strict=True)
        )
        if inscription.at == SIGNBOARD and own is None:
            self.pixels = compose.boarded(self.pixels, bounds(self.cells), self.cells[0].side)
        if inscription.writing is Writing.SEAL:
            self.pixels = compose.sealed(self.pixels, bounds(self.cells), self.cells[0].side)
        if own is not None:
            self._judge_own()
        self.ink = compose.ink_for(self.pixels, self.mask)

    def result(self) -> tuple[Image.Image, Certificate]:
        """The picture with the text, and its certificate."""
        from PIL import Image

        waiting = self._wrong(self.cells)
        if waiting and self.inscription.method is not Method.COMPOSED:
            waiting = self._conditioned(waiting)
        if waiting:
            self._composed(waiting)
        image = Image.fromarray(np.round(self.pixels).astype(np.uint8))
        return image, Certificate(
            text=self.inscription.text,
            writing=self.inscription.writing.value,
            characters=tuple(self.found[cell] for cell in self.cells),
            reader=reading.version(),
            fonts=tuple(
                {
                    "face": str(face),
                    "version": face.version,
                    "licence": face.licence[:160],
                    "sha256": face.sha256(),
                }
                for face in dict.fromkeys(self.face_of[cell.character] for cell in self.cells)
            ),
            repaired=self.repaired,
        )

    def _own(self) -> tuple[Cell, ...] | None:
        """The cells of the text where the model drew it from the prompt and OCR finds it; None if it does not."""
        if min(self.size) < LEGIBLE or self.inscription.writing is not Writing.HORIZONTAL:
            return None
        text = characters_of(self.inscription.text)
        return drawn.find_text(self.pixels.astype(np.uint8), text)

    def _judge_own(self) -> None:
        reads = self._read([_grey(self._cut(cell)) for cell in self.cells])
        for cell, read_as in zip(self.cells, reads, strict=True):
            strokes = drawn.judged(self.pixels, cell, self.faces)
            verdict = verdict_of(strokes, read_as, cell.character, self.clean[cell])
            self._note(cell, Method.DRAWN, verdict, read_as, strokes)

    def _wrong(self, cells: Sequence[Cell]) -> list[Cell]:
        return [cell for cell in cells if cell not in self.found or not self.found[cell].right]

    def _conditioned(self, cells: Sequence[Cell]) -> list[Cell]:
        """Has the model redraw characters, each group at the first strength that gives it right; returns the others."""
        native = self.engine.fill(self.request).request.size or self.size
        together = conditioned.groups(cells, native)
        if len(together) > MOST_GROUPS:
            return list(cells)
        for group in together:
            self._group(group)
            self._report_progress()
        return self._wrong(cells)

    def _group(self, group: Sequence[Cell]) -> None:
        waiting = list(group)
        for trial, strength in enumerate(conditioned.STRENGTHS):
            mask = self._mask_of(waiting)
            written = compose.composed(self.pixels, mask, self.ink, waiting[0].side, wash=compose.WASHES[1])
            drawn_over = conditioned.redrawn(self.engine, self.request, written, self.pixels, mask, waiting, strength)
            self.repaired += len(waiting) if trial else 0
            for cell in self._accepted(waiting, drawn_over, Method.CONDITIONED):
                waiting.remove(cell)
            if not waiting:
                return

    def _composed(self, cells: Sequence[Cell]) -> None:
        waiting = list(cells)
        for trial, wash in enumerate(compose.WASHES):
            mask = self._mask_of(waiting)
            laid = compose.composed(self.pixels, mask, self.ink, waiting[0].side, wash)
            self.repaired += len(waiting) if trial else 0
            last = trial == len(compose.WASHES) - 1
            for cell in self._accepted(waiting, laid, Method.COMPOSED, whatever=last):
                waiting.remove(cell)
            self._report_progress()
            if not waiting:
                return

    def _accepted(self, cells: Sequence[Cell], trial: np.ndarray, method: Method, whatever: bool = False) -> list[Cell]:
        """The cells that are right in ``trial``, taken over from it with what is around them; all of them if
        ``whatever``, with their verdicts.
        """
        # Judged as the file will hold it: whole numbers.
        trial = np.round(trial)
        crops = {cell: trial[_slices(cell, trial.shape)] for cell in cells}
        reads = self._read([_grey(crop) for crop in crops.values()])
        accepted: list[Cell] = []
        for (cell, crop), read_as in zip(crops.items(), reads, strict=True):
            strokes = compare(crop, self._glyph(cell)[: crop.shape[0], : crop.shape[1]])
            verdict = verdict_of(strokes, read_as, cell.character, self.clean[cell])
            if verdict is Verdict.RIGHT or whatever:
                self._note(cell, method, verdict, read_as, strokes)
                accepted.append(cell)
        self._take_over(accepted, cells, trial)
        return accepted

    def _take_over(self, accepted: Sequence[Cell], tried: Sequence[Cell], trial: np.ndarray) -> None:
        """Copies the accepted cells and a little around them, never another character's pixels, from the trial."""
        where = np.zeros(trial.shape[:2], bool)
        for cell in accepted:
            reach = round(conditioned.AROUND * cell.side)
            where[_slices(Cell("", cell.left - reach, cell.top - reach, cell.side + 2 * reach), trial.shape)] = True
        for cell in set(self.cells) - set(tried):
            where[_slices(cell, trial.shape)] = False
        self.pixels = np.where(where[..., None], trial, self.pixels)

    def _note(self, cell: Cell, method: Method, verdict: Verdict, read_as: str, strokes: Strokes) -> None:
        self.found[cell] = Character(
            character=cell.character,
            box=cell.box,
            method=method,
            verdict=verdict,
            read_as=read_as,
            reader_knows=reading.alike(self.clean[cell], cell.character),
            strokes=strokes,
            font=str(self.face_of[cell.character]),
        )

    def _mask_of(self, cells: Sequence[Cell]) -> np.ndarray:
        return mask_of(cells, self.face_of, self.size)

    def _glyph(self, cell: Cell) -> np.ndarray:
        return glyph(self.face_of[cell.character], cell.character, cell.side)

    def _cut(self, cell: Cell) -> np.ndarray:
        return self.pixels[_slices(cell, self.pixels.shape)]

    def _read(self, crops: Sequence[np.ndarray]) -> list[str]:
        return reading.read(crops)

    def _report_progress(self) -> None:
        if self.progress is not None:
            self.progress(len(self.found), len(self.cells))


def _placed(image: Image.Image, inscription: Inscription, occupied: Sequence[Cell]) -> tuple[Cell, ...]:
    if inscription.box is None:
        return calm_cells(image, inscription.text, inscription.writing, occupied)
    left, top, width, height = inscription.box
    box = Box(
        round(left * image.width), round(top * image.height), round(width * image.width), round(height * image.height)
    )
    return fit(inscription.text, box, inscription.writing)


def _slices(cell: Cell, shape: tuple[int, ...]) -> tuple[slice, slice]:
    left, top, right, bottom = cell.box
    return slice(max(0, top), min(bottom, shape[0])), slice(max(0, left), min(right, shape[1]))


def _grey(crop: np.ndarray) -> np.ndarray:
    """[S, S] as a reader likes it: dark on light, from darkest to lightest."""
    light = crop.astype(np.float32).mean(-1)
    edge = np.concatenate([light[0], light[-1], light[:, 0], light[:, -1]])
    low, high = np.percentile(light, (1, 99))
    stretched = np.clip((light - low) / max(1.0, high - low), 0, 1) * 255
    return 255 - stretched if np.median(edge) < (low + high) / 2 else stretched


def requested(request: Request) -> tuple[Inscription, ...]:
    """The inscriptions of a request: ``inscribe``, or the texts in its prompt's quotation marks; none for an empty
    ``inscribe``.
    """
    writing = Writing(request.writing) if request.writing else Writing.HORIZONTAL
    method = Method(request.inscribe_method) if request.inscribe_method else Method.DRAWN
    texts = quoted(request.text) if request.inscribe is None else request.inscribe
    at = request.inscribe_at or ""
    if at == "seal" and request.writing is None:
        writing = Writing.SEAL
    unfit = set(Writing) - {Writing.SEAL} if at == "seal" else {Writing.COUPLET, Writing.SEAL}
    if at and (len(texts) > 1 or request.inscribe_box is not None or writing in unfit):
        raise RequestError(
            "inscribe_at {at} writes one text there; leave out others, a box and --writing {unfit}",
            at=at,
            unfit=Listed(sorted(unfit)),
        )
    return tuple(Inscription(text, writing, request.font, request.inscribe_box, method, at) for text in texts)
