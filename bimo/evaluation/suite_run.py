"""Evaluates models on a prompt suite: draws, measures and compares. A killed run can be resumed."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bimo.core.errors import DataError, RequestError
from bimo.core.files import alone, write_whole
from bimo.core.hashing import digest
from bimo.core.messages import Message, say
from bimo.curation.captioning.endpoint import Endpoint
from bimo.curation.steps import ModelStep, Scorer, Tools
from bimo.evaluation import protocol, suite_text
from bimo.evaluation import suite_measures as measures
from bimo.evaluation.judges.clip import ClipJudge
from bimo.evaluation.judges.endpoint import EndpointJudge
from bimo.evaluation.judges.judge import Judge, Look, answers
from bimo.evaluation.metrics import distribution, similarity
from bimo.evaluation.metrics.inception import PUBLISHED, PUBLISHED_SHA256, Inception, load_inception
from bimo.evaluation.metrics.resize import Resize, prepared, shorter_side
from bimo.evaluation.progress import OnProgress, ProgressLines
from bimo.evaluation.result_cache import ResultCache
from bimo.evaluation.suite_drawings import GIVEN, PICTURES, Drawings, Load, draw_suite, open_picture, read_pictures
from bimo.evaluation.suite_measures import MeasuredPicture, Number
from bimo.evaluation.suites.suite import Prompt, Suite

ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
FEATURE_BATCH = 8


@dataclass(frozen=True)
class Entrant:
    """A model in the evaluation: a function that loads it, or a folder of ``pictures`` that were drawn elsewhere."""

    name: str
    load: Load | None = None
    pictures: Path | None = None


@dataclass(frozen=True)
class Plan:
    """What is drawn and measured. ``settings`` are those of drawing (steps, guidance, sampler, size), None for the
    model's default. ``scorers`` are CLIPs by the language of their text encoder. ``real`` is a folder of real pictures
    for FID and the like, ``inception`` the weights for it, ``training_pictures`` a folder to search for near-copies.
    ``steps`` are curation's model steps, with their ``tools``.
    """

    suite: Suite
    seeds: tuple[int, ...] = (1,)
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    batch: int = 8
    devices: tuple[str, ...] = ("auto",)
    scorers: Mapping[str, Scorer] = field(default_factory=dict[str, Scorer])
    endpoint: Endpoint | None = None
    steps: tuple[ModelStep, ...] = ()
    tools: Tools | None = None
    read_text: bool = True
    strokes: bool = False
    real: Path | None = None
    inception: Path | None = None
    resize: Resize = Resize.torch_fidelity
    crop: int = 0
    training_pictures: Path | None = None
    preset: str = ""


@dataclass(frozen=True)
class ModelResult:
    """One model's results. ``record`` is its protocol record, ``cost`` seconds per picture by task, ``counted`` what
    could not be drawn or read, ``notes`` how to read the numbers.
    """

    name: str
    record: Mapping[str, Any]
    numbers: tuple[Number, ...]
    pictures: tuple[MeasuredPicture, ...]
    cost: Mapping[str, float]
    counted: Mapping[str, int]
    copies: Mapping[str, str]
    notes: tuple[Message, ...]
    refused: Mapping[str, str]


def evaluate_suite(entrants: Sequence[Entrant], plan: Plan, out: Path) -> list[ModelResult]:
    """Draws and measures every model, each in its own folder below ``out``. Raises WeightsError, DataError or
    RequestError for what the plan lacks, before anything is drawn; DataError if two models were not measured in the
    same way, or another process is working there.
    """
    references = _References.of(plan)
    with alone(out), ProgressLines() as bar:
        results: list[ModelResult] = []
        for entrant in entrants:
            folder = out / folder_of(entrant.name)
            results.append(_Evaluation(entrant, plan, references, folder, bar.update).evaluated())
            if len(results) > 1:
                names = results[0].name, results[-1].name
                protocol.demand_comparable(results[0].record, results[-1].record, names)
        return results


def folder_of(name: str) -> str:
    """A folder name for a model."""
    name_part = "".join(c if c.isalnum() or c in "-_." else "-" for c in Path(name).name or name).strip(".-")
    return name_part or "model"


@dataclass(frozen=True)
class _References:
    """What pictures are compared with: the files of real and of training pictures, and Inception with the SHA-256 of
    its weights. Opened once, before hours of drawing.
    """

    real: tuple[Path, ...] = ()
    training: tuple[Path, ...] = ()
    inception: tuple[Inception, str] | None = None

    @classmethod
    def of(cls, plan: Plan) -> _References:
        """Raises DataError for a folder without pictures, WeightsError without weights, ModuleNotFoundError without
        torchmetrics, RequestError for an endpoint that there is nothing to ask.
        """
        if plan.endpoint is not None and not any(prompt.checks for prompt in plan.suite.prompts):
            raise RequestError(
                "the suite {name} says of no prompt what must be seen, so that there is nothing to ask an endpoint; "
                "leave out --endpoint",
                name=plan.suite.name,
            )
        training = () if plan.training_pictures is None else pictures_of(plan.training_pictures)
        if plan.real is None:
            return cls(training=tuple(training))
        distribution.demand_library()
        return cls(tuple(pictures_of(plan.real)), tuple(training), load_inception(plan.inception or Path(PUBLISHED)))


class _Evaluation:
    """The evaluation of one model."""

    def __init__(
        self, entrant: Entrant, plan: Plan, references: _References, folder: Path, on_progress: OnProgress
    ) -> None:
        self.entrant, self.plan, self.folder, self.on_progress = entrant, plan, folder, on_progress
        self.references = references
        self.reader = (
            suite_text.Reader(folder) if plan.read_text and any(p.written for p in plan.suite.prompts) else None
        )
        self.cost: dict[str, float] = {}
        self.counted: Counter[str] = Counter()
        self.notes: list[Message] = []
        self.scored: dict[str, str] = {}
        self.extra: list[Number] = []
        self.copies: Mapping[str, str] = {}

    def evaluated(self) -> ModelResult:
        """Draws and measures."""
        drawings, root = self._drawings()
        pictures = self._readable(drawings, root)
        if self.reader is not None:
            self._timed("text", pictures, lambda: self._text(pictures))
        vectors = {name: self._clip(pictures, name, scorer) for name, scorer in self.plan.scorers.items()}
        self._alike(pictures, vectors)
        for judge in self._judges(pictures, vectors):
            self._timed(judge.name, pictures, lambda judge=judge: self._judge(pictures, judge))
        if self.plan.steps and self.plan.tools is not None:
            self._timed("steps", pictures, lambda: self._steps(pictures, self.plan.tools))
        if self.references.training:
            self._timed("near copies", pictures, lambda: self._near_copies(pictures))
        if self.references.inception is not None:
            network, weights = self.references.inception
            self._timed("distribution", pictures, lambda: self._distances(pictures, network, weights))
        numbers = [number for name in _measures_of(pictures) for number in measures.numbers(pictures, name)]
        record = {"version": protocol.VERSION, "measured": self._measured(pictures), "drawn": dict(drawings.facts)}
        record["machine"] = protocol.machine()
        return ModelResult(
            self.entrant.name, record, (*numbers, *self.extra), tuple(pictures), self.cost, self.counted, self.copies,
            tuple(self.notes), drawings.refused,
        )  # fmt: skip

    def _drawings(self) -> tuple[Drawings, Path]:
        prompts = self.plan.suite.prompts
        if self.entrant.pictures is not None:
            drawings, root = read_pictures(self.entrant.pictures, prompts), self.entrant.pictures
            write_whole(self.folder / GIVEN, str(root.resolve()).encode())
        else:
            assert self.entrant.load is not None
            settings = {name: value for name, value in self.plan.settings.items() if value is not None}
            plan = self.plan
            arguments = (plan.devices, prompts, plan.seeds, settings, self.folder, plan.batch)
            drawings = draw_suite(self.entrant.load, *arguments, self.on_progress)
            root = self.folder / PICTURES
        self.counted["not drawn"] = len(drawings.refused)
        if drawings.seconds_a_picture is not None:
            self.cost["drawing"] = drawings.seconds_a_picture
        return drawings, root

    def _readable(self, drawings: Drawings, root: Path) -> list[MeasuredPicture]:
        prompts: dict[str, Prompt] = {prompt.key: prompt for prompt in self.plan.suite.prompts}
        pictures: list[MeasuredPicture] = []
        for one in drawings.drawn:
            if open_picture(root / one.file) is None:
                self.counted["picture cannot be read"] += 1
            else:
                pictures.append(MeasuredPicture(prompts[one.key], one, root / one.file))
        if not pictures:
            raise DataError("not one picture of {name} can be read", name=self.entrant.name)
        return pictures

    def _timed(self, name: str, pictures: Sequence[MeasuredPicture], work: Callable[[], object]) -> None:
        start = time.perf_counter()
        work()
        self.cost[name] = (time.perf_counter() - start) / len(pictures)

    def _text(self, pictures: Sequence[MeasuredPicture]) -> None:
        assert self.reader is not None
        self.scored["reader"] = self.reader.identity
        controls = suite_text.measure_text(pictures, self.reader, self.on_progress, say("reading text"))
        if self.plan.strokes:
            suite_text.measure_strokes(pictures, self.on_progress, say("judging strokes"))
        for language in ("zh", "en"):
            self.extra += suite_text.oneig_numbers(pictures, controls, language)
        self.notes.append(suite_text.NOTE)

    def _clip(self, pictures: Sequence[MeasuredPicture], language: str, scorer: Scorer) -> measures.Vectors:
        start = time.perf_counter()
        vectors = measures.picture_vectors(pictures, scorer, self.on_progress, say("looking with CLIP"))
        measures.measure_clip(pictures, vectors, scorer, language)
        self.cost[f"clip-{language}"] = (time.perf_counter() - start) / len(pictures)
        self.scored[f"clip-{language}"] = scorer.digest
        return vectors

    def _alike(self, pictures: Sequence[MeasuredPicture], vectors: Mapping[str, measures.Vectors]) -> None:
        """Agreement and diversity by CLIP if there is one, else by the layout of colours."""
        by = {f"clip-{language}": each for language, each in vectors.items()}
        if not by:
            by = {"pixels": similarity.thumbs([one.image() for one in pictures])}
            self.notes.append(
                Message(
                    "without CLIP, similarity of pictures is that of their colours at 64 x 64 pixels alone, "
                    "whatever they show"
                )
            )
        for name, each in by.items():
            measures.measure_agreement(pictures, each, name)
            measures.measure_spread(pictures, each, name)

    def _judges(self, pictures: Sequence[MeasuredPicture], vectors: Mapping[str, measures.Vectors]) -> list[Judge]:
        judges: list[Judge] = []
        for language, scorer in self.plan.scorers.items():
            others = {one.drawing.sha256: vectors[language][row] for row, one in enumerate(pictures)}
            judges.append(ClipJudge(scorer, language, others))
        if self.plan.endpoint is not None:
            judges.append(EndpointJudge(self.plan.endpoint))
        return judges if any(one.prompt.checks for one in pictures) else []

    def _judge(self, pictures: Sequence[MeasuredPicture], judge: Judge) -> None:
        rows = [(place, check) for place, one in enumerate(pictures) for check in one.prompt.checks]
        looks = [
            Look(pictures[place].path, pictures[place].drawing.sha256, check, pictures[place].prompt.language)
            for place, check in rows
        ]
        judge_answers = answers(judge, looks, ResultCache(self.folder / "answers.jsonl"))
        self.counted[f"no answer ({judge.name})"] = sum(answer.right is None for answer in judge_answers)
        self.scored[f"judge {judge.name}"] = " ".join(v for k, v in judge.identity().items() if k != "by")
        by_row: dict[int, list[Any]] = {}
        for (place, check), answer in zip(rows, judge_answers, strict=True):
            by_row.setdefault(place, []).append((check, answer))
        by_picture = {id(one): by_row.get(place, []) for place, one in enumerate(pictures)}
        measures.settle(pictures, judge.name, lambda one: by_picture[id(one)])

    def _steps(self, pictures: Sequence[MeasuredPicture], tools: Tools | None) -> None:
        assert tools is not None
        identities = measures.measure_steps(pictures, self.plan.steps, tools, self.on_progress, say("scoring pictures"))
        self.scored["steps"] = "; ".join(identities)

    def _near_copies(self, pictures: Sequence[MeasuredPicture]) -> None:
        paths = self.references.training
        images = [(path, image) for path in paths if (image := open_picture(path)) is not None]
        self.counted["known picture cannot be read"] = len(paths) - len(images)
        hashes = similarity.perceptual_hashes([image for _, image in images])
        self.scored["known pictures"] = str(len(images))
        self.copies = measures.measure_copies(pictures, hashes, [path.name for path, _ in images])

    def _distances(self, pictures: Sequence[MeasuredPicture], network: Inception, weights: str) -> None:
        self.scored["inception"] = weights
        real_paths = self.references.real
        real, real_hash, _ = self._features(network, weights, real_paths, say("features of real pictures"))
        drawn, _, logits = self._features(network, weights, [one.path for one in pictures], say("features of pictures"))
        self.scored["real pictures"] = f"{len(real)} {real_hash}"
        add = self._add
        add("FID", distribution.fid_interval(drawn, real))
        add("KID", distribution.kid(drawn, real))
        if min(len(drawn), len(real)) >= 2 * distribution.FEWEST:
            value = distribution.fid_infinity(drawn, real)
            add("FID infinity", measures.Interval(value, value, value, len(drawn)))
            add("Inception score", distribution.inception_score(logits))
        if min(len(drawn), len(real)) > distribution.NEIGHBOURS:
            manifold = distribution.precision_recall(drawn, real)
            add("precision", measures.share_of(manifold.precision, len(drawn)))
            add("recall", measures.share_of(manifold.recall, len(real)))
        if not weights.startswith(PUBLISHED_SHA256):
            self.notes.append(
                Message(
                    "the Inception weights have the SHA-256 {found}, those of 2015-12-05 that are published one that "
                    "begins with {published}: FID and the like compare with no published number",
                    found=weights[:8],
                    published=PUBLISHED_SHA256,
                )
            )
        if len(drawn) < 2048:
            self.notes.append(
                Message(
                    "FID has 2,048 dimensions and there are {count} pictures: its value is mostly the bias of their "
                    "number; see KID",
                    count=len(drawn),
                )
            )

    def _add(self, name: str, interval: measures.Interval) -> None:
        unit = "share" if name in ("precision", "recall") else "mean"
        self.extra.append(Number(name, "", "", unit, interval))

    def _features(
        self, network: Inception, weights: str, paths: Sequence[Path], title: str
    ) -> tuple[Tensor, str, Tensor]:
        """(features [N, 2048], a hash of the pictures, logits [N, 1008]), cached on disk."""
        import hashlib

        hashes = [digest(path) for path in paths]
        name = hashlib.sha256("\n".join([weights, self.plan.resize, str(self.plan.crop), *hashes]).encode()).hexdigest()
        path = self.folder / "features" / f"{name[:24]}.npz"
        if not path.is_file():
            rows: list[tuple[Tensor, Tensor]] = []
            with torch.inference_mode():
                for first in range(0, len(paths), FEATURE_BATCH):
                    images = [open_picture(one) for one in paths[first : first + FEATURE_BATCH]]
                    readable = [image for image in images if image is not None]
                    self.counted["real or drawn picture cannot be read"] += len(images) - len(readable)
                    readable = (
                        [shorter_side(image, self.plan.crop) for image in readable] if self.plan.crop else readable
                    )
                    if readable:
                        rows.append(network(torch.stack([prepared(image, self.plan.resize) for image in readable])))
                    self.on_progress(title, min(len(paths), first + FEATURE_BATCH), len(paths))
            path.parent.mkdir(parents=True, exist_ok=True)
            part_path = path.with_suffix(".part.npz")
            np.savez(part_path, features=torch.cat([a for a, _ in rows]), logits=torch.cat([b for _, b in rows]))
            part_path.replace(path)
        with np.load(path) as arrays:
            return torch.from_numpy(arrays["features"]), name[:16], torch.from_numpy(arrays["logits"])

    def _measured(self, pictures: Sequence[MeasuredPicture]) -> dict[str, Any]:
        plan = self.plan
        measured: dict[str, Any] = {
            "suite": plan.suite.name,
            "data sha256": plan.suite.digest,
            "prompts": len(plan.suite.prompts),
            "pictures": len(pictures) + self.counted["not drawn"] + self.counted["picture cannot be read"],
            "seeds": [int(seed) for seed in plan.seeds],
            "asked": {name: plan.settings.get(name) for name in protocol.SETTINGS},
            "scorers": dict(sorted(self.scored.items())),
            "versions": protocol.versions(),
        }
        if plan.real is not None:
            measured["resize"] = {"how": str(plan.resize), "short side and centre": plan.crop}
        if plan.preset:
            measured["protocol"] = plan.preset
        return measured


def _measures_of(shown: Sequence[MeasuredPicture]) -> list[str]:
    return list(dict.fromkeys(name for one in shown for name in one.values))


def pictures_of(folder: Path) -> list[Path]:
    """The picture files below a folder. Raises DataError if there are none."""
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in ENDINGS] if folder.is_dir() else []
    if not paths:
        raise DataError("{folder} holds no picture (png, jpg, webp, bmp)", folder=folder)
    return paths


def now() -> str:
    """The current time for reports."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
