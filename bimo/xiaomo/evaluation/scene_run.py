"""Evaluates a system on scenes, verses and dishes: what is asked, what its judge sees, and the baselines beside."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from PIL import Image

from bimo.core.messages import Message
from bimo.core.part import dumps
from bimo.core.request import Request
from bimo.data import shards
from bimo.data.sheets import sheet
from bimo.diffusion.request_filling import fill_request
from bimo.engine.engine import Engine
from bimo.evaluation.drawing_cache import DrawingCache, read_picture
from bimo.evaluation.figures import Answers, Figure, Question, figures
from bimo.evaluation.intervals import share
from bimo.evaluation.progress import OnProgress
from bimo.evaluation.report import Labels, Report
from bimo.xiaomo.captions.lexicon import elements_of, styles, subjects
from bimo.xiaomo.chance import Chance
from bimo.xiaomo.dishes.table import dishes
from bimo.xiaomo.evaluation.baselines import DRAFTED, FIRST, NEAREST, first_level
from bimo.xiaomo.evaluation.report import sampling_protocol
from bimo.xiaomo.evaluation.scene_judge import SceneJudge, SceneSeen, scene_judge_for
from bimo.xiaomo.evaluation.scene_truth import LINES, SIDE, held_out_lines
from bimo.xiaomo.evaluation.truth import stacked
from bimo.xiaomo.heldout import held_out_scene
from bimo.xiaomo.scenes.plan import pairs

MODEL = "model"
#: The dish whose name says fish and whose plate holds none.
LYING = "鱼香肉丝"
ASKED: Mapping[str, int] = {"scene": 200, "unseen scene": 120, "verse": LINES, "dish": 60, "no fish": 20}
SHOWN = 64
GROUPS = {
    "scene": Message("(subject, style) pairs seen together"),
    "unseen scene": Message("(subject, style) pairs never seen together"),
    "verse": Message("Verses never seen: the elements they name"),
    "dish": Message("Dishes"),
    "no fish": Message("Yuxiang pork has no fish"),
    "seeds": Message("Two seeds"),
}
MEASURES = {
    "subject": Message("subject right"),
    "style": Message("style right"),
    "subject and style": Message("subject and style right"),
    "elements": Message("named elements present"),
    "dish": Message("dish right"),
    "no fish": Message("no fish"),
}
LABELS = Labels(
    GROUPS,
    MEASURES,
    {
        NEAREST: Message("nearest training picture"),
        FIRST: Message("first level alone"),
        DRAFTED: Message("with drafts by program"),
    },
)
NOTES = (
    Message("The judge learned from true pictures alone; its own errors are in the table."),
    Message(
        "Nearest training picture: one of the subject, or of a verse the one with most of the named elements,"
        " whatever the style."
    ),
    Message("Named elements: each element that a verse names and the judge knows counts once."),
)


@dataclass(frozen=True)
class SceneQuestion(Question):
    """A prompt, and the subject, manner or elements that a right picture shows; "" and () for what is left open."""

    subject: str = ""
    style: str = ""
    elements: tuple[str, ...] = ()


@dataclass(frozen=True)
class SceneAnswers(Answers[SceneQuestion]):
    """One painter's pictures, and what the judge saw in them."""

    seen: SceneSeen

    def rows(self, rows: Sequence[int]) -> Self:
        """Some of them, in that order."""
        return replace(super().rows(rows), seen=self.seen.rows(list(rows)))


def scene_questions(judge: SceneJudge, limit: int | None = None, seed: int = 1) -> list[SceneQuestion]:
    """What is asked, each in Chinese and English where both have a name for it; ``limit`` of a group at most."""

    def most(group: str) -> int:
        return ASKED[group] if limit is None else min(ASKED[group], limit)

    asked: list[SceneQuestion] = []
    every = [pair for pair in pairs() if pair[0] in judge.subjects and pair[1] in judge.styles]
    for group, wanted in (
        ("scene", [p for p in every if not held_out_scene(*p)]),
        ("unseen scene", [p for p in every if held_out_scene(*p)]),
    ):
        order = sorted(wanted, key=lambda pair: Chance(f"asked/{pair}").uniform())
        turns = [(pair, turn) for turn in range(-(-most(group) // max(1, len(order)))) for pair in order]
        for (subject, style), turn in turns[: most(group)]:
            for language in ("zh", "en"):
                text = _called(subject, style, language)
                key = f"{subject} {style} {turn}"
                one = SceneQuestion(group, key, language, text, subject, style, seed=seed + turn)
                asked.append(one)
    for line in held_out_lines()[: most("verse")]:
        named = tuple(name for name in elements_of(line) if name in judge.elements)
        asked.append(SceneQuestion("verse", line, "zh", line, elements=named, seed=seed))
    names = [name for name in dishes() if name in judge.subjects]
    for name in names[: most("dish")]:
        asked.append(SceneQuestion("dish", name, "zh", name, name, seed=seed))
        asked.append(SceneQuestion("dish", name, "en", dishes()[name].english, name, seed=seed))
    for turn in range(most("no fish")):
        asked.append(SceneQuestion("no fish", str(turn), "zh", LYING, LYING, seed=seed + turn))
    return asked


def _called(subject: str, style: str, language: str) -> str:
    """A prompt as people write it: the usual names of both."""
    named, manner = subjects()[subject], styles()[style]
    return f"{named.zh[0]}，{manner.zh[0]}" if language == "zh" else f"{named.en[0]}, {manner.en[0]}"


def measures(judge: SceneJudge) -> dict[str, dict[str, Any]]:
    """By group: the name of a measure -> which answers are right."""

    def subject(drawn: SceneAnswers) -> list[bool]:
        rows = zip(drawn.questions, drawn.seen.subject, strict=True)
        return [judge.subjects[seen] == q.subject for q, seen in rows]

    def style(drawn: SceneAnswers) -> list[bool]:
        return [judge.styles[seen] == q.style for q, seen in zip(drawn.questions, drawn.seen.style, strict=True)]

    def both(drawn: SceneAnswers) -> list[bool]:
        return [one and other for one, other in zip(subject(drawn), style(drawn), strict=True)]

    def named(drawn: SceneAnswers) -> list[bool]:
        place = {name: number for number, name in enumerate(judge.elements)}
        rows = zip(drawn.questions, drawn.seen.elements, strict=True)
        return [bool(seen[place[name]]) for q, seen in rows for name in q.elements]

    def no_fish(drawn: SceneAnswers) -> list[bool]:
        return [int(seen) not in judge.with_fish() for seen in drawn.seen.subject]

    scene = {"subject": subject, "style": style, "subject and style": both}
    return {
        "scene": scene,
        "unseen scene": scene,
        "verse": {"elements": named},
        "dish": {"dish": subject},
        "no fish": {"no fish": no_fish},
    }


class SceneEvaluation:
    """One evaluation of scenes, from the data to the report."""

    def __init__(
        self,
        engine: Engine,
        data: Path,
        out: Path,
        limit: int | None,
        steps: int | None,
        batch: int,
        seed: int,
        on_progress: OnProgress,
        judge: SceneJudge | None = None,
        guidance: float | None = None,
    ) -> None:
        self.guidance = guidance
        self.system, self.data, self.out = engine.system, data, out
        self.limit, self.steps, self.batch, self.seed, self.on_progress = limit, steps, batch, seed, on_progress
        self.judge = judge or scene_judge_for(data, on_progress)
        self.drawings = DrawingCache(engine, out / "pictures", batch, on_progress)

    def report(self) -> Report:
        """Draws everything, measures it and writes the report."""
        asked = scene_questions(self.judge, self.limit, self.seed)
        model = self._seen(asked, self.drawings.draw([self._request(q) for q in asked]))
        nearest = self._seen(asked, _nearest(self.data, asked))
        firsts = first_level(self.system, [self._request(q) for q in asked], self.batch, self.on_progress)
        painters = {MODEL: model, NEAREST: nearest, FIRST: None if firsts is None else self._seen(asked, firsts)}
        if share := self.system.recipe.request.draft:
            painters[DRAFTED] = self._seen(asked, self.drawings.draw([self._request(q, share) for q in asked]))
        report = Report(
            kind="evaluation of scenes",
            recipe=self.system.recipe.name,
            weights=self.drawings.weights,
            when=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            protocol=self._protocol(asked),
            figures=[figure.as_dict() for figure in [*figures(measures(self.judge), painters), *self._alike(model)]],
            tables={"评判器 the judge": _judge_table(self.judge.facts)},
            pictures=self._sheets(model),
            notes=[str(note) for note in NOTES],
        )
        report.write(self.out, LABELS)
        return report

    def _request(self, question: SceneQuestion, draft: float = 0) -> Request:
        return Request(text=question.text, seed=question.seed, steps=self.steps, guidance=self.guidance, draft=draft)

    def _seen(self, asked: list[SceneQuestion], images: list[Image.Image]) -> SceneAnswers:
        return SceneAnswers(asked, images, self.judge.see(stacked(images, SIDE)))

    def _alike(self, model: SceneAnswers) -> list[Figure]:
        """Whether Chinese and English of one question and seed show the same subject."""
        agreement: list[Figure] = []
        for group in ("scene", "dish"):
            part = model.of(group)
            pairs_: dict[str, list[int]] = {}
            for q, subject in zip(part.questions, part.seen.subject, strict=True):
                pairs_.setdefault(q.key, []).append(int(subject))
            alike = [two[0] == two[1] for two in pairs_.values() if len(two) == 2]
            if alike:
                agreement.append(Figure(group, "zh and en alike", "", "share", share(alike)))
        return agreement

    def _protocol(self, asked: Sequence[SceneQuestion]) -> dict[str, Any]:
        request = fill_request(self.system, self._request(replace(asked[0], seed=self.seed))).request
        names = ("subjects", "styles", "elements")
        return {
            **sampling_protocol(request, asked, [self.seed], self.limit, self.drawings),
            "data": shards.read_index(self.data).digest,
            "judge": {name: value for name, value in self.judge.facts.items() if name not in names},
            "recipe": json.loads(dumps(self.system.recipe)),
        }

    def _sheets(self, model: SceneAnswers) -> dict[str, str]:
        """Writes a sheet a group, failures left in, and gives their files by title."""
        sheets: dict[str, str] = {}
        for group, title in GROUPS.items():
            part = model.of(group, "zh").mixed(SHOWN)
            if part.questions:
                name = f"{group.replace(' ', '-')}.png"
                sheet(part.images, [f"{q.text} #{q.seed}" for q in part.questions], self.out / name, 8)
                sheets[str(title)] = name
        return sheets


def _nearest(data: Path, asked: Sequence[SceneQuestion]) -> list[Image.Image]:
    """For each question the first training picture of its subject, or the one that holds most of what it names."""
    wanted = {q.subject for q in asked if q.subject}
    lines = {q.text: frozenset(q.elements) for q in asked if q.elements}
    of: dict[str, bytes] = {}
    best: dict[str, tuple[int, bytes]] = dict.fromkeys(lines, (0, b""))
    for _, png, record in shards.read(data):
        labels = record["labels"]
        if labels["type"] != "verse" and labels["subject"] in wanted:
            of.setdefault(labels["subject"], png)
        there = labels["elements"].keys()
        for text, names in lines.items():
            count = len(names & there)
            if count > best[text][0]:
                best[text] = (count, png)
    white = Image.new("RGB", (64, 64), (255, 255, 255))
    pictures = [of.get(q.subject, b"") or best.get(q.text, (0, b""))[1] for q in asked]
    return [read_picture(png) if png else white for png in pictures]


def _judge_table(facts: Mapping[str, Any]) -> list[list[str]]:
    """Its accuracies on true pictures."""
    names = ("n", "subject", "style", "subject and style", "elements seen", "elements seen that are not there")
    rows = [[name, *(str(cells.get(one, "–")) for one in names)] for name, cells in facts.get("accuracy", {}).items()]
    return [["", *names], *rows]
