"""Layout conditioning: maps of the boxes of elements (the moon, the bridge, the bowl) for both levels of 小墨.

As in layout-to-image models (arXiv:2302.08908), with boxes as maps next to x rather than in the text.
"""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bimo.core.errors import RequestError
from bimo.core.request import Request, seeds_of
from bimo.core.tensors import Batch, Conditioning
from bimo.diffusion.conditioner import CONDITIONER_SEED, Conditioner, Draft, Drawing
from bimo.diffusion.system import System
from bimo.prompts.normalise import normal
from bimo.prompts.paraphrases import put_right
from bimo.prompts.styles import styled
from bimo.xiaomo.captions.arranged import Arrangement
from bimo.xiaomo.captions.descriptions import Description
from bimo.xiaomo.captions.draftable import AsWritten, Plan, plan_of
from bimo.xiaomo.captions.figures import PERSON, rows
from bimo.xiaomo.captions.noun_phrases import kinds
from bimo.xiaomo.scenes.planning import planned_boxes, planned_places

if TYPE_CHECKING:
    from PIL import Image

#: The label of the data: element -> [[left, top, right, bottom], ...], of the side.
LABEL = "elements"
#: The numbers of a box in a request: element, left, top, right, bottom.
NUMBERS = 5
Numbers = npt.NDArray[np.float32]
#: Separates the random numbers from those of the step; the same for every level that has this conditioner.
LAYOUT_SEED = 0xB0CE5


@dataclass(frozen=True, kw_only=True)
class LayoutBoxes(Conditioner):
    """A map for each of ``elements``, one for all others and one that says whether boxes are given at all: the coverage
    of each position, [B, len(elements) + 2, h, w].

    In training boxes are the label "elements" of the data; rows without it have no boxes, nor does the share ``drop``
    of the others. In drawing they are the request's ``conditions["boxes"]``, five numbers for each box: the index of
    its element in ``elements`` (their count for any other), left, top, right, bottom. By default they are laid out from
    the prompt and the seed by the procedures that drew the data; there are none if the prompt names no scene or dish.
    Both branches of guidance get them.
    """

    reads: ClassVar = ()
    always: ClassVar = True
    pixels: ClassVar = False

    name: str = "boxes"
    elements: tuple[str, ...] = ()
    drop: float = 0.15

    @property
    def channels(self) -> int:
        """The number of maps."""
        return len(self.elements) + 2

    def from_batch(self, system: System, batch: Batch) -> Conditioning:
        """Spatial [B, channels, h, w]."""
        generator = torch.Generator().manual_seed(batch.generator.initial_seed() ^ LAYOUT_SEED)
        gone = batch.own(torch.rand(batch.total_rows, generator=generator)) < self.drop
        dropped: list[bool] = gone.tolist()
        rows: list[Mapping[str, Any]] = [
            {} if out else row.get(LABEL) or {} for row, out in zip(batch.labels, dropped, strict=True)
        ]
        size = cast("tuple[int, int]", tuple(batch.x.shape[-2:]))
        return Conditioning(spatial=torch.stack([self.covered(row, size) for row in rows]).to(batch.x.device))

    def from_request(self, system: System, drawing: Drawing, shape: tuple[int, ...]) -> Conditioning:
        """Spatial [1, channels, h, w]. Raises RequestError for invalid boxes."""
        requested = drawing.request.conditions.get(self.name)
        draft = self.draft(system, drawing.request) if drawing.request.draft else None
        if draft is not None and draft.whole:
            boxes = self._behind(system, drawing.request, drawing.generator.initial_seed())
        elif requested is None:
            boxes = planned_boxes(
                drawing.request.read_text, self._key(drawing.request, drawing.generator.initial_seed())
            )
        else:
            boxes = self._requested(requested)
        return Conditioning(spatial=self.covered(boxes, (shape[-2], shape[-1]))[None])

    def _behind(self, system: System, request: Request, seed: int) -> Mapping[str, Sequence[Sequence[float]]]:
        """The boxes of a dish or poem, or of the scene that things are put before; as in the data things have none."""
        plan = self._plan(system, request)
        if isinstance(plan, AsWritten):
            return planned_boxes(plan.text, self._key(request, seed))
        if not isinstance(plan, Description) or not plan.has_scene:
            return {}
        from bimo.xiaomo.artwork.described import scene_of

        scene = scene_of(plan, self._key(request, seed))
        return {} if scene is None else scene.elements

    @staticmethod
    def _key(request: Request, seed: int) -> str:
        # Drafts of one seed would all stand on the same table; without them layouts are those of earlier pictures.
        return f"drawn-{seed}" + (f"/{request.read_text}" if request.draft else "")

    def places(self, request: Request, index: int) -> Mapping[str, Sequence[Sequence[float]]]:
        """The boxes of a picture, with the corner of the painter's seal if they are those of a scene."""
        if self.name in request.conditions:
            return self._requested(request.conditions[self.name])
        seed, _ = seeds_of(request.seed or 0, request.subseed, request.subseed_strength, index)
        return planned_places(request.read_text, self._key(request, seed ^ CONDITIONER_SEED))

    def draft(self, system: System, request: Request) -> Draft | None:
        """By the procedures, if they draw the whole of a square picture, or put together from references; none if its
        boxes are the request's own.
        """
        width, height = request.size or (1, 1)
        plan = None if self.name in request.conditions else self._plan(system, request)
        if plan is None:
            return None

        def drawn(drawing: Drawing) -> Image.Image:
            # What paints takes a while to import.
            from bimo.xiaomo.artwork.described import draw_description
            from bimo.xiaomo.artwork.references import put_together
            from bimo.xiaomo.drafts import draft

            key = self._key(drawing.request, drawing.generator.initial_seed())
            if isinstance(plan, Arrangement):
                return put_together(plan, key, (width, height))
            if isinstance(plan, Description):
                return draw_description(plan, key, width)
            named = plan.text if isinstance(plan, AsWritten) else styled(request.read_text, request.style)
            return draft(named, key, width)

        left_out = plan.left_out if isinstance(plan, Description) else ()
        return Draft(drawn, plan != "procedures", left_out, verbatim=isinstance(plan, AsWritten))

    def drafted_words(self) -> frozenset[str]:
        """The names of people, and of things that there are references of or that are drawn."""
        people = (word for row in rows().values() if row.part == PERSON for word in (*row.zh, *row.en))
        return frozenset((*map(normal, people), *(word for word in kinds() if any(map(str.isalnum, word)))))

    @staticmethod
    def _plan(system: System, request: Request) -> Plan | None:
        """What makes the draft, by what is read of the text and by what is written there, put right if it is read
        otherwise.
        """
        encoder, written = system.text_encoders[0], request.text
        if request.read_text != written:
            written, _ = put_right(written, encoder.budget, encoder.known)
        width, height = request.size or (1, 1)
        read, written = (styled(text, request.style) for text in (request.read_text, written))
        return plan_of(read, encoder, written, width == height)

    def covered(self, boxes: Mapping[str, Sequence[Sequence[float]]], size: tuple[int, int]) -> Tensor:
        """Boxes by element -> [channels, h, w]."""
        made = np.zeros((self.channels, *size), np.float32)
        others = len(self.elements)
        maps = [self._places.get(name, others) for name, several in boxes.items() for _ in several]
        if maps:
            sides = np.array([box for several in boxes.values() for box in several], np.float32)
            left, top, right, bottom = sides.T
            covered = _overlap(top, bottom, size[0])[:, :, None] * _overlap(left, right, size[1])[:, None]
            np.maximum.at(made, maps, covered)
        if boxes:
            made[-1] = 1.0
        return torch.tensor(made)  # on the current default device

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.elements)}

    def _requested(self, numbers: Sequence[float]) -> dict[str, list[list[float]]]:
        boxes: dict[str, list[list[float]]] = {}
        rows = [list(numbers[at : at + NUMBERS]) for at in range(0, len(numbers), NUMBERS)]
        for row in rows:
            fine = len(row) == NUMBERS and all(map(math.isfinite, row)) and row[0] in range(len(self.elements) + 1)
            if not fine or not (row[1] < row[3] and row[2] < row[4]):
                raise RequestError(
                    "a box is {count} numbers (0 to {last} for its element, left, top, right, bottom, of the side), "
                    "got {given}",
                    count=NUMBERS,
                    last=len(self.elements),
                    given=row,
                )
            which = int(row[0])
            boxes.setdefault(self.elements[which] if which < len(self.elements) else "", []).append(row[1:])
        return boxes


def _overlap(low: Numbers, high: Numbers, count: int) -> Numbers:
    """The fraction of each of ``count`` equal intervals of 0..1 that lies between pairs of numbers [N], as [N,
    count].
    """
    edges = np.arange(count + 1, dtype=np.float32) / count
    inside = np.minimum(edges[1:], high[:, None]) - np.maximum(edges[:-1], low[:, None])
    return (inside * count).clip(0.0, 1.0)
