"""Says what a file or folder of weights is, by the names and shapes of its tensors alone, and why."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bimo.core import checkpoint_io
from bimo.core.errors import WeightsError
from bimo.core.messages import Message
from bimo.models.layouts import mindspore
from bimo.models.layouts.detection_rules import RULES, Rule, Shape
from bimo.models.layouts.weight_files import files_of
from bimo.models.stable_diffusion.ldm_names import Shapes

#: What CLIP's tensors begin with below the encoder.
CLIP_SEGMENTS = (
    "embeddings.token_embedding.",
    "embeddings.position_embedding.",
    "encoder.layers.",
    "final_layer_norm.",
)


@dataclass(frozen=True)
class Found:
    """What a file or folder is, and the rule that says so, with its reason."""

    system: str
    rule: Rule

    @property
    def why(self) -> Message:
        """The reason."""
        return self.rule.why


def names_of(path: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor in a file, or below a folder as "component/name"; nothing is loaded.

    Raises WeightsError for files that are damaged or more than data.
    """
    if path.is_dir():
        return {f"{file.parent.name}/{n}": s for file in _weight_files(path) for n, s in shapes(file).items()}
    return shapes(path)


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of a file's tensors, in torch's names where MindSpore wrote it."""
    if mindspore.is_checkpoint(path):
        return mindspore.shapes(path)
    found = checkpoint_io.shapes(path)
    # Files of before transformers named the segment text_model: it is CLIP's all the same.
    return {spelt(name): shape for name, shape in found.items()}


def spelt(name: str) -> str:
    """A name as today's files have it: the oldest ones left out CLIP's segment ``text_model``."""
    old = "cond_stage_model.transformer."
    below = name.removeprefix(old)
    if below != name and below.startswith(CLIP_SEGMENTS):
        return f"{old}text_model.{below}"
    return name


def detect(names: Shapes) -> Found | None:
    """What has tensors of these names and shapes; None for what no rule knows."""
    for rule in RULES:
        if all(_has(names, glob, shape) for glob, shape in rule.needs) and not any(
            _has(names, glob, None) for glob in rule.never
        ):
            return Found(rule.system, rule)
    return None


def unusable(path: Path, found: Found | None) -> WeightsError:
    """The error for a file that is no whole model, or is not recognised."""
    if found is not None:
        return WeightsError(
            "{path} is not a whole model but {system} ({why}); {advice}",
            path=path,
            system=found.system,
            why=found.why,
            advice=found.rule.advice or "",
        )
    return WeightsError(
        "the names of the tensors in {path} are those of no known system; name a folder in diffusers' "
        "layout, or a single file in the layout of SD1, SD2 or SDXL",
        path=path,
    )


def _has(names: Shapes, glob: str, shape: Shape) -> bool:
    matching = [names[glob]] if glob in names else []
    if not matching and "*" in glob:
        matching = [names[name] for name in fnmatch.filter(names, glob)]
    return any(shape is None or _like(each, shape) for each in matching)


def _like(found: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(found) == len(wanted) and all(w is None or f == w for f, w in zip(found, wanted, strict=True))


def _weight_files(folder: Path) -> Iterator[Path]:
    """The files of each component: its weights as they would be read, else all that hold tensors."""
    for place in sorted({folder, *(p for p in folder.iterdir() if p.is_dir())}):
        try:
            yield from files_of(place)
        except WeightsError:
            yield from sorted(place.glob("*.safetensors")) or sorted(place.glob("*.bin"))
