"""Evaluates models on a prompt suite: draws, measures, compares, writes the report. Every part of it goes on where a
killed run was.
"""

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

from bimo.core.errors import DataError
from bimo.core.files import alone
from bimo.core.hashing import digest
from bimo.core.messages import Both, Message, say
from bimo.curation.captioning.endpoint import Endpoint
from bimo.curation.steps import ModelStep, Scorer, Tools
from bimo.evaluation import protocol
from bimo.evaluation import suite_measures as measures
from bimo.evaluation.judges.clip import ClipJudge
from bimo.evaluation.judges.endpoint import EndpointJudge
from bimo.evaluation.judges.judge import Judge, Look, answers
from bimo.evaluation.kept import Kept
from bimo.evaluation.metrics import distribution, similarity
from bimo.evaluation.metrics.inception import Inception, load_inception
from bimo.evaluation.metrics.resize import Resize, prepared, shorter_side
from bimo.evaluation.progress import OnProgress, ProgressLines
from bimo.evaluation.suite_drawings import PICTURES, Drawings, Load, draw_suite, given_pictures, open_picture
from bimo.evaluation.suite_measures import Number, Reader, Shown
from bimo.evaluation.suites.suite import Prompt, Suite

ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
FEATURE_BATCH = 8


@dataclass(frozen=True)
class Entrant:
    """A model that takes part: what loads it, or the folder of its ``pictures`` where something else drew them."""

    name: str
    load: Load | None = None
    pictures: Path | None = None


@dataclass(frozen=True)
class Plan:
    """What is drawn and measured. ``asked`` are settings of drawing (steps, guidance, sampler, size), the model's own
    where None. ``scorers`` are CLIPs by the language of their text encoder. ``real`` is a folder of real pictures for
    distances of distributions, with ``inception`` the file of weights; ``known`` one of training pictures.
    ``steps`` are curation's that measure pictures, with their ``tools``.
    """

    suite: Suite
    seeds: tuple[int, ...] = (1,)
    asked: Mapping[str, Any] = field(default_factory=dict[str, Any])
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
    known: Path | None = None
    preset: str = ""


@dataclass(frozen=True)
class Evaluated:
    """One model's part of a report. ``record`` is its protocol record, ``cost`` seconds a picture by what took them,
    ``counted`` what could not be drawn or read, ``notes`` how to read the numbers.
    """

    name: str
    record: Mapping[str, Any]
    numbers: tuple[Number, ...]
    shown: tuple[Shown, ...]
    cost: Mapping[str, float]
    counted: Mapping[str, int]
    copies: Mapping[str, str]
    notes: tuple[Message, ...]
    refused: Mapping[str, str]


def evaluate_suite(entrants: Sequence[Entrant], plan: Plan, out: Path) -> list[Evaluated]:
    """Draws and measures every model into a folder of its own below ``out``. Raises DataError where two were not
    measured in the same way, or another run is at work there.
    """
    with alone(out), ProgressLines() as bar:
        done: list[Evaluated] = []
        for entrant in entrants:
            done.append(_Evaluation(entrant, plan, out / folder_of(entrant.name), bar.update).evaluated())
            if len(done) > 1:
                names = done[0].name, done[-1].name
                protocol.demand_comparable(done[0].record, done[-1].record, names)
        return done


def folder_of(name: str) -> str:
    """A model's name as that of a folder."""
    kept = "".join(c if c.isalnum() or c in "-_." else "-" for c in Path(name).name or name).strip(".-")
    return kept or "model"


class _Evaluation:
    """One model, from its pictures to its numbers."""

    def __init__(self, entrant: Entrant, plan: Plan, folder: Path, on_progress: OnProgress) -> None:
        self.entrant, self.plan, self.folder, self.on_progress = entrant, plan, folder, on_progress
        self.reader = Reader(folder) if plan.read_text and any(p.written for p in plan.suite.prompts) else None
        self.cost: dict[str, float] = {}
        self.counted: Counter[str] = Counter()
        self.notes: list[Message] = []
        self.scored: dict[str, str] = {}
        self.extra: list[Number] = []
        self.copies: Mapping[str, str] = {}

    def evaluated(self) -> Evaluated:
        """Draws and measures."""
        drawings, root = self._drawings()
        shown = self._shown(drawings, root)
        if self.reader is not None:
            self._timed("text", shown, lambda: self._text(shown))
        vectors = {name: self._clip(shown, name, scorer) for name, scorer in self.plan.scorers.items()}
        self._alike(shown, vectors)
        for judge in self._judges(shown, vectors):
            self._timed(judge.name, shown, lambda judge=judge: self._judge(shown, judge))
        if self.plan.steps and self.plan.tools is not None:
            self._timed("steps", shown, lambda: self._steps(shown, self.plan.tools))
        if self.plan.known is not None:
            self._timed("near copies", shown, lambda: self._near_copies(shown))
        if self.plan.real is not None:
            self._timed("distribution", shown, lambda: self._distances(shown))
        found = [number for name in _measures_of(shown) for number in measures.numbers(shown, name)]
        record = {"version": protocol.VERSION, "measured": self._measured(shown), "drawn": dict(drawings.facts)}
        record["machine"] = protocol.machine()
        return Evaluated(
            self.entrant.name, record, (*found, *self.extra), tuple(shown), self.cost, self.counted, self.copies,
            tuple(self.notes), drawings.refused,
        )  # fmt: skip

    def _drawings(self) -> tuple[Drawings, Path]:
        prompts = self.plan.suite.prompts
        if self.entrant.pictures is not None:
            drawings, root = given_pictures(self.entrant.pictures, prompts), self.entrant.pictures
        else:
            assert self.entrant.load is not None
            asked = {name: value for name, value in self.plan.asked.items() if value is not None}
            plan = self.plan
            settings = (plan.devices, prompts, plan.seeds, asked, self.folder, plan.batch)
            drawings = draw_suite(self.entrant.load, *settings, self.on_progress)
            root = self.folder / PICTURES
        self.counted["not drawn"] = len(drawings.refused)
        if drawings.seconds_a_picture is not None:
            self.cost["drawing"] = drawings.seconds_a_picture
        return drawings, root

    def _shown(self, drawings: Drawings, root: Path) -> list[Shown]:
        prompts: dict[str, Prompt] = {prompt.key: prompt for prompt in self.plan.suite.prompts}
        shown: list[Shown] = []
        for one in drawings.drawn:
            if open_picture(root / one.file) is None:
                self.counted["picture cannot be read"] += 1
            else:
                shown.append(Shown(prompts[one.key], one, root / one.file))
        if not shown:
            raise DataError("not one picture of {name} can be read", name=self.entrant.name)
        return shown

    def _timed(self, name: str, shown: Sequence[Shown], work: Callable[[], object]) -> None:
        began = time.perf_counter()
        work()
        self.cost[name] = (time.perf_counter() - began) / len(shown)

    def _text(self, shown: Sequence[Shown]) -> None:
        assert self.reader is not None
        self.scored["reader"] = self.reader.identity
        measures.measure_text(shown, self.reader, self.on_progress, say("reading text"))
        if self.plan.strokes:
            measures.measure_strokes(shown, self.on_progress, say("judging strokes"))
        self.extra += [n for language in ("zh", "en") if (n := measures.oneig_number(shown, language)) is not None]
        self.notes.append(
            Both(
                "OneIG 的文字分在字少时很宽：一个字没写出来也有 0.98。"
                "读字的是 PP-OCR；“clean print” 是同样的字用字库印在白底上它自己读出的结果，即它自己的误差。"
                "读字器会“改正”写错的笔画，所以读对不等于写对",
                "OneIG's text score is generous to short texts: one character that is not there still gives 0.98. "
                "PP-OCR reads; “clean print” is what it reads of the same text printed on white: its own error. A "
                "reader mends wrong strokes, so what is read right need not be written right",
            )
        )

    def _clip(self, shown: Sequence[Shown], language: str, scorer: Scorer) -> measures.Vectors:
        began = time.perf_counter()
        vectors = measures.picture_vectors(shown, scorer, self.on_progress, say("looking with CLIP"))
        measures.measure_clip(shown, vectors, scorer, language)
        self.cost[f"clip-{language}"] = (time.perf_counter() - began) / len(shown)
        self.scored[f"clip-{language}"] = scorer.digest
        return vectors

    def _alike(self, shown: Sequence[Shown], vectors: Mapping[str, measures.Vectors]) -> None:
        """By CLIP where there is one, else by where colours lie."""
        by = {f"clip-{language}": each for language, each in vectors.items()}
        if not by:
            by = {"pixels": similarity.thumbs([one.image() for one in shown])}
            self.notes.append(
                Both(
                    "没有给 CLIP：图与图像不像只按 64×64 像素上颜色在哪里比，看不出画的是什么",
                    "no CLIP was given: how alike pictures are is told by where colours lie at 64 x 64 pixels alone, "
                    "which sees nothing of what is drawn",
                )
            )
        for name, each in by.items():
            measures.measure_agreement(shown, each, name)
            measures.measure_spread(shown, each, name)

    def _judges(self, shown: Sequence[Shown], vectors: Mapping[str, measures.Vectors]) -> list[Judge]:
        judges: list[Judge] = []
        for language, scorer in self.plan.scorers.items():
            others = {one.drawing.sha256: vectors[language][row] for row, one in enumerate(shown)}
            judges.append(ClipJudge(scorer, language, others))
        if self.plan.endpoint is not None:
            judges.append(EndpointJudge(self.plan.endpoint))
        return judges if any(one.prompt.checks for one in shown) else []

    def _judge(self, shown: Sequence[Shown], judge: Judge) -> None:
        rows = [(place, check) for place, one in enumerate(shown) for check in one.prompt.checks]
        looks = [
            Look(shown[place].path, shown[place].drawing.sha256, check, shown[place].prompt.language)
            for place, check in rows
        ]
        found = answers(judge, looks, Kept(self.folder / "answers.jsonl"))
        self.counted[f"no answer ({judge.name})"] = sum(answer.right is None for answer in found)
        self.scored[f"judge {judge.name}"] = " ".join(v for k, v in judge.identity().items() if k != "by")
        said: dict[int, list[Any]] = {}
        for (place, check), answer in zip(rows, found, strict=True):
            said.setdefault(place, []).append((check, answer))
        by_picture = {id(one): said.get(place, []) for place, one in enumerate(shown)}
        measures.settle(shown, judge.name, lambda one: by_picture[id(one)])

    def _steps(self, shown: Sequence[Shown], tools: Tools | None) -> None:
        assert tools is not None
        told = measures.measure_steps(shown, self.plan.steps, tools, self.on_progress, say("scoring pictures"))
        self.scored["steps"] = "; ".join(told)

    def _near_copies(self, shown: Sequence[Shown]) -> None:
        assert self.plan.known is not None
        paths = pictures_of(self.plan.known)
        images = [(path, image) for path in paths if (image := open_picture(path)) is not None]
        self.counted["known picture cannot be read"] = len(paths) - len(images)
        hashes = similarity.perceptual_hashes([image for _, image in images])
        self.scored["known pictures"] = str(len(images))
        self.copies = measures.measure_copies(shown, hashes, [path.name for path, _ in images])

    def _distances(self, shown: Sequence[Shown]) -> None:
        assert self.plan.real is not None
        network, weights = load_inception(self.plan.inception or Path("weights-inception-2015-12-05-6726825d.pth"))
        self.scored["inception"] = weights
        real_paths = pictures_of(self.plan.real)
        real, real_hash, _ = self._features(network, weights, real_paths, say("features of real pictures"))
        drawn, _, logits = self._features(network, weights, [one.path for one in shown], say("features of pictures"))
        self.scored["real pictures"] = f"{len(real)} {real_hash}"
        add = self._add
        add("FID", distribution.fid_interval(drawn, real))
        add("KID", distribution.kid(drawn, real))
        if min(len(drawn), len(real)) >= 2 * distribution.FEWEST:
            value = distribution.fid_infinity(drawn, real)
            add("FID infinity", measures.Interval(value, value, value, len(drawn)))
            add("Inception score", distribution.inception_score(logits))
        if min(len(drawn), len(real)) > distribution.NEIGHBOURS:
            found = distribution.precision_recall(drawn, real)
            add("precision", measures.share_of(found.precision, len(drawn)))
            add("recall", measures.share_of(found.recall, len(real)))
        if len(drawn) < 2048:
            self.notes.append(
                Both(
                    f"FID 有 2,048 维而只有 {len(drawn)} 张图：数值主要是张数的偏差，请看 KID",
                    f"FID has 2,048 dimensions and there are {len(drawn)} pictures: its value is mostly the bias of "
                    "their number; look at KID",
                )
            )

    def _add(self, name: str, interval: measures.Interval) -> None:
        unit = "share" if name in ("precision", "recall") else "mean"
        self.extra.append(Number(name, "", "", unit, interval))

    def _features(
        self, network: Inception, weights: str, paths: Sequence[Path], title: str
    ) -> tuple[Tensor, str, Tensor]:
        """(features [N, 2048], a hash of the pictures, class scores [N, 1008]), kept beside the pictures."""
        import hashlib

        hashes = [digest(path) for path in paths]
        name = hashlib.sha256("\n".join([weights, self.plan.resize, str(self.plan.crop), *hashes]).encode()).hexdigest()
        path = self.folder / "features" / f"{name[:24]}.npz"
        if not path.is_file():
            rows: list[tuple[Tensor, Tensor]] = []
            with torch.inference_mode():
                for first in range(0, len(paths), FEATURE_BATCH):
                    part = [open_picture(one) for one in paths[first : first + FEATURE_BATCH]]
                    whole = [image for image in part if image is not None]
                    self.counted["real or drawn picture cannot be read"] += len(part) - len(whole)
                    whole = [shorter_side(image, self.plan.crop) for image in whole] if self.plan.crop else whole
                    if whole:
                        rows.append(network(torch.stack([prepared(image, self.plan.resize) for image in whole])))
                    self.on_progress(title, min(len(paths), first + FEATURE_BATCH), len(paths))
            path.parent.mkdir(parents=True, exist_ok=True)
            part_path = path.with_suffix(".part.npz")
            np.savez(part_path, features=torch.cat([a for a, _ in rows]), logits=torch.cat([b for _, b in rows]))
            part_path.replace(path)
        with np.load(path) as kept:
            return torch.from_numpy(kept["features"]), name[:16], torch.from_numpy(kept["logits"])

    def _measured(self, shown: Sequence[Shown]) -> dict[str, Any]:
        plan = self.plan
        measured: dict[str, Any] = {
            "suite": plan.suite.name,
            "data sha256": plan.suite.digest,
            "prompts": len(plan.suite.prompts),
            "pictures": len(shown) + self.counted["not drawn"] + self.counted["picture cannot be read"],
            "seeds": [int(seed) for seed in plan.seeds],
            "asked": {name: plan.asked.get(name) for name in protocol.SETTINGS},
            "scorers": dict(sorted(self.scored.items())),
            "versions": protocol.versions(),
        }
        if plan.real is not None:
            measured["resize"] = {"how": str(plan.resize), "short side and centre": plan.crop}
        if plan.preset:
            measured["protocol"] = plan.preset
        return measured


def _measures_of(shown: Sequence[Shown]) -> list[str]:
    return list(dict.fromkeys(name for one in shown for name in one.values))


def pictures_of(folder: Path) -> list[Path]:
    """The pictures below a folder. Raises DataError where there are none."""
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in ENDINGS] if folder.is_dir() else []
    if not paths:
        raise DataError("{folder} holds no picture (png, jpg, webp, bmp)", folder=folder)
    return paths


def now() -> str:
    """The time of a report."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
