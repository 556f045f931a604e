"""Detects which system a file of weights is, by the names and shapes of its tensors only."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from pathlib import Path

from bimo.core import checkpoint_io
from bimo.core.errors import WeightsError
from bimo.core.messages import Message
from bimo.models.layouts import mindspore
from bimo.models.layouts.detection_rules import RULES, Rule, Shape
from bimo.models.stable_diffusion.ldm_names import Shapes

#: Prefixes of the names of CLIP's tensors within ``text_model``.
CLIP_SEGMENTS = (
    "embeddings.token_embedding.",
    "embeddings.position_embedding.",
    "encoder.layers.",
    "final_layer_norm.",
)


@dataclass(frozen=True)
class Detection:
    """The detected system, and the rule that matched."""

    system: str
    rule: Rule

    @property
    def why(self) -> Message:
        """The reason, for users."""
        return self.rule.why


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of a file's tensors; those of a MindSpore checkpoint under torch's names."""
    if mindspore.is_checkpoint(path):
        return mindspore.shapes(path)
    return {current_name(name): shape for name, shape in checkpoint_io.shapes(path).items()}


def current_name(name: str) -> str:
    """A tensor's name with the segment ``text_model``, which the oldest files of CLIP leave out."""
    prefix = "cond_stage_model.transformer."
    suffix = name.removeprefix(prefix)
    if suffix != name and suffix.startswith(CLIP_SEGMENTS):
        return f"{prefix}text_model.{suffix}"
    return name


def detect(names: Shapes) -> Detection | None:
    """The first rule that matches these names and shapes; None if none does."""
    for rule in RULES:
        if all(_has(names, glob, shape) for glob, shape in rule.needs) and not any(
            _has(names, glob, None) for glob in rule.never
        ):
            return Detection(rule.system, rule)
    return None


def unusable(path: Path, detection: Detection | None) -> WeightsError:
    """The error for a file that was detected as something other than a model, or not at all."""
    if detection is not None:
        return WeightsError(
            "{path} is not a whole model but {system} ({why}); {advice}",
            path=path,
            system=detection.system,
            why=detection.why,
            advice=detection.rule.advice or "",
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
    return any(shape is None or _matches(actual, shape) for actual in matching)


def _matches(actual: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(actual) == len(expected) and all(e is None or a == e for a, e in zip(actual, expected, strict=True))
