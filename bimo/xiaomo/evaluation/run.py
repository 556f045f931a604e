"""Evaluates a system on held-out questions: draws, lets the judge look, puts baselines beside, writes a report."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image

from bimo.core.errors import DataError
from bimo.core.part import dumps
from bimo.core.request import Request
from bimo.data.sheets import sheet
from bimo.diffusion.request_filling import fill_request
from bimo.diffusion.system import System
from bimo.engine.engine import Engine
from bimo.evaluation.drawing_cache import DrawingCache
from bimo.evaluation.figures import Figure
from bimo.evaluation.intervals import share
from bimo.evaluation.pixel_rules import foreground, pieces
from bimo.evaluation.progress import OnProgress, ProgressLines
from bimo.evaluation.report import Report, shown
from bimo.xiaomo.artwork.lexicon import DEFAULT_STYLE
from bimo.xiaomo.evaluation.baselines import (
    DRAFTED,
    FIRST,
    NEAREST,
    first_level,
    nearest_picture,
    rules_on_truth,
    true_pictures,
)
from bimo.xiaomo.evaluation.judge import Judge, held_out_pairs, judge_for
from bimo.xiaomo.evaluation.measures import Drawn, by_style, figures, kind_and_style, spread
from bimo.xiaomo.evaluation.prompts import (
    ASKED,
    SECOND_SEED,
    SEED_SHEET,
    SHEET,
    UNKNOWN_EN,
    UNKNOWN_ZH,
    Question,
    everyday,
    free,
    questions,
)
from bimo.xiaomo.evaluation.report import LABELS, NOTES, judge_tables, sampling_protocol
from bimo.xiaomo.evaluation.scene_run import SceneEvaluation
from bimo.xiaomo.evaluation.truth import Artwork, read_artwork, seen_pairs, stacked

SHEET_SEEDS = 4
UNSEEN_SHOWN = 60
MODEL = "model"


def evaluate(
    model: System | Engine,
    data: Path | None,
    out: Path,
    *,
    limit: int | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    batch: int = 16,
    seed: int = 1,
    judge: Judge | None = None,
) -> dict[str, Any]:
    """Measures a system, or one that an engine draws with, and gives the report that is also in ``out/report.json``, a
    page and sheets beside it.

    ``limit`` shrinks the number of questions of each group and language, for a quick look; ``batch`` pictures are
    drawn together; ``steps`` and ``guidance`` are the system's own where None. A folder of scenes is asked about
    scenes, verses and dishes, one of artwork about things. Pictures are kept in ``out/pictures`` and the judge in
    ``data``, so that the same call goes on where it was stopped. Raises DataError for a folder without data.
    """
    if data is None:
        raise DataError("the true pictures are needed; give with --data the folder that bimo data artwork wrote")
    engine = model if isinstance(model, Engine) else Engine(model)
    engine.system.eval()
    if _holds_scenes(data):
        with ProgressLines() as bar:
            scenes = SceneEvaluation(engine, data, out, limit, steps, batch, seed, bar.update, guidance=guidance)
            return scenes.report().as_dict()
    artwork = read_artwork(data)
    with ProgressLines() as bar:
        things = _Evaluation(engine, artwork, out, limit, steps, batch, seed, judge, bar.update, guidance)
        return things.report().as_dict()


def _holds_scenes(data: Path) -> bool:
    """Whether `bimo data scenes` wrote a folder, and not `bimo data artwork`."""
    try:
        return json.loads((data / "report.json").read_text("utf-8"))["kind"] == "scenes"
    except (OSError, ValueError, KeyError, TypeError):
        return False


class _Evaluation:
    """One evaluation, from the data to the report."""

    def __init__(
        self,
        engine: Engine,
        artwork: Artwork,
        out: Path,
        limit: int | None,
        steps: int | None,
        batch: int,
        seed: int,
        judge: Judge | None,
        on_progress: OnProgress,
        guidance: float | None = None,
    ) -> None:
        self.guidance = guidance
        self.system, self.artwork, self.out, self.limit = engine.system, artwork, out, limit
        self.steps, self.batch, self.seed, self.on_progress = steps, batch, seed, on_progress
        self.judge = judge or judge_for(artwork, on_progress)
        self.drawings = DrawingCache(engine, out / "pictures", batch, on_progress)
        self.words = _words(artwork)
        self.notes: list[str] = []

    def report(self) -> Report:
        """Draws everything, measures it and writes the report."""
        asked = self._questions()
        bare = [q for q in asked if q.group == "bare" and q.language == "zh"]
        again = [replace(q, seed=q.seed + SECOND_SEED) for q in bare[: self._size("seeds")]]
        looked = free(SHEET[: self.limit], "sheet", self.seed)
        rows = free(SEED_SHEET[: self.limit], "seeds", self.seed)
        seeds = [replace(q, seed=self.seed + number) for q in rows for number in range(SHEET_SEEDS)]
        images = self.drawings.draw([self._request(q) for q in (*asked, *again, *looked, *seeds)])
        model = self._drawn(asked, images[: len(asked)])
        second = self._drawn(again, images[len(asked) : len(asked) + len(again)])
        painters = {MODEL: model, **self._baselines(asked)}
        asked_true, pixels = true_pictures(self.artwork, asked)
        true = Drawn(asked_true, [Image.fromarray(each) for each in pixels], self.judge.see(pixels))
        found = figures(self.judge, painters, true) + self._warnings(asked) + self._spreads(model, second)
        shown_ = images[len(asked) + len(again) :]
        report = Report(
            kind="evaluation",
            recipe=self.system.recipe.name,
            weights=self.drawings.weights,
            when=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            protocol=self._protocol(asked),
            figures=[figure.as_dict() for figure in found],
            tables=self._tables(model),
            pictures=self._sheets(model, looked, shown_[: len(looked)], seeds, shown_[len(looked) :]),
            notes=[*map(str, NOTES), *self.notes],
        )
        report.write(self.out, LABELS)
        return report

    def _size(self, group: str) -> int:
        return ASKED[group] if self.limit is None else min(ASKED[group], self.limit)

    def _questions(self) -> list[Question]:
        seen = seen_pairs(self.artwork)
        single = frozenset(
            kind.hexcode
            for kind in self.artwork.kinds
            if self.artwork.usable(kind, DEFAULT_STYLE)
            and len(pieces(foreground(self.artwork.picture(kind, DEFAULT_STYLE)))) == 1
        )
        return questions(self.artwork, seen, held_out_pairs(self.artwork), single, self.limit, self.seed)

    def _request(self, question: Question, draft: float = 0) -> Request:
        return Request(text=question.text, seed=question.seed, steps=self.steps, guidance=self.guidance, draft=draft)

    def _drawn(self, asked: Sequence[Question], images: Sequence[Image.Image]) -> Drawn:
        return Drawn(list(asked), list(images), self.judge.see(stacked(images)))

    def _baselines(self, asked: Sequence[Question]) -> dict[str, Drawn | None]:
        nearest = self._drawn(asked, [nearest_picture(self.artwork, q) for q in asked])
        images = first_level(self.system, [self._request(q) for q in asked], self.batch, self.on_progress)
        painters = {NEAREST: nearest, FIRST: None if images is None else self._drawn(asked, images)}
        if share := self.system.recipe.request.draft:
            painters[DRAFTED] = self._drawn(asked, self.drawings.draw([self._request(q, share) for q in asked]))
        return painters

    def _spreads(self, model: Drawn, second: Drawn) -> list[Figure]:
        """Two seeds of one prompt, against two kinds of one seed."""
        first = model.of("bare", "zh")
        count = len(second.questions)
        first = first.rows(range(count))
        turned = first.rows([*range(1, count), 0] if count else [])
        spreads: list[Figure] = []
        for name, (pixels, embedding) in (("two seeds", spread(first, second)), ("two kinds", spread(first, turned))):
            spreads += [
                Figure("seeds", f"pixels, {name}", "zh", "mean", pixels),
                Figure("seeds", f"embedding, {name}", "zh", "mean", embedding),
            ]
        return spreads

    def _warnings(self, asked: Sequence[Question]) -> list[Figure]:
        """Unknown words that the text encoders name, and known words and captions that they call unknown."""
        warnings: list[Figure] = []
        for language, listed in (("zh", UNKNOWN_ZH), ("en", UNKNOWN_EN)):
            outside = [word for word in listed if word.lower() not in self.words]
            named = [_named(self._unknown(word), word) for word in outside[: self.limit]]
            seen = [bool(self._unknown(q.text)) for q in asked if q.group == "seen" and q.language == language]
            usual = [q.text for q in asked if q.group == "bare" and q.language == language]
            known = [bool(self._unknown(text)) for text in usual if text.lower() in self.words]
            warnings += [
                Figure("warning", "unknown word named", language, "share", share(named)),
                Figure("warning", "false alarm, seen captions", language, "share", share(seen)),
                Figure("warning", "false alarm, known everyday words", language, "share", share(known)),
            ]
        return warnings

    def _unknown(self, text: str) -> list[str]:
        return [word for budget in self.system.budgets(text) for word in budget.unknown]

    def _protocol(self, asked: Sequence[Question]) -> dict[str, Any]:
        settings = {"steps": self.steps, "guidance": self.guidance}
        request = fill_request(self.system, {"text": SHEET[0], "seed": self.seed, **settings}).request
        rows = everyday()
        known = {
            "zh": sum(zh.lower() in self.words for _, zh, _ in rows),
            "en": sum(en.lower() in self.words for _, _, en in rows),
        }
        seeds = [self.seed, self.seed + SECOND_SEED]
        return {
            **sampling_protocol(request, asked, seeds, self.limit, self.drawings),
            "data": self.artwork.digest,
            "everyday words that are training words": {name: f"{n} / {len(rows)}" for name, n in known.items()},
            "judge": {k: v for k, v in self.judge.facts.items() if k not in ("kinds", "styles")},
            "recipe": json.loads(dumps(self.system.recipe)),
        }

    def _tables(self, model: Drawn) -> dict[str, list[list[str]]]:
        tables = judge_tables(self.judge.facts)
        rules = rules_on_truth(self.artwork)
        if rules:
            body = [[name, str(found.n), shown(vars(found), "share")] for name, found in rules.items()]
            tables["像素规则在真图上 the pixel rules on true canvases"] = [["rule", "n", "right"], *body]
        titles = {"seen": "见过的，按风格 seen captions by style", "unseen": "没见过的，按风格 unseen pairs by style"}
        for group, title in titles.items():
            found = by_style(self.judge, model, group)
            if found:
                names = list(next(iter(found.values())))
                body = [
                    [style, str(cells[names[0]].n), *(shown(vars(cells[name]), "share") for name in names)]
                    for style, cells in found.items()
                ]
                tables[title] = [["style", "n", *names], *body]
        return tables

    def _sheets(
        self,
        model: Drawn,
        looked: Sequence[Question],
        looks: Sequence[Image.Image],
        seeds: Sequence[Question],
        seen: Sequence[Image.Image],
    ) -> dict[str, str]:
        """Writes the sheets and gives their files by title."""
        sheets: dict[str, str] = {}

        def add(name: str, title: str, make: Callable[[Path], Path]) -> None:
            make(self.out / name)
            sheets[title] = name

        texts = [q.text for q in looked]
        add("sheet.png", "六十句固定的话 sixty fixed prompts, failures left in", lambda path: sheet(looks, texts, path))
        unseen = model.of("unseen").mixed(UNSEEN_SHOWN)
        if unseen.questions:
            right, titles = kind_and_style(self.judge, unseen), [q.text for q in unseen.questions]
            title = "没见过的组合（绿框：评判器认为对） unseen pairs (green: right to the judge)"
            add("unseen.png", title, lambda path: sheet(unseen.images, titles, path, right=right))
        composed = [*model.of("composition").questions, *model.of("unseen colour").questions]
        pictures = [*model.of("composition").images, *model.of("unseen colour").images]
        if composed:
            title = "训练中没有的组合画面 compositions never seen"
            add("compositions.png", title, lambda path: sheet(pictures, [q.text for q in composed], path))
        titles = [f"{q.text} #{q.seed}" for q in seeds]
        title = "同一句话，四个种子 one prompt, four seeds"
        add("seeds.png", title, lambda path: sheet(seen, titles, path, columns=SHEET_SEEDS * 2))
        return sheets


def _words(artwork: Artwork) -> frozenset[str]:
    path = artwork.folder / "words.txt"
    return frozenset(path.read_text("utf-8").splitlines()) if path.is_file() else frozenset()


def _named(unknown: Sequence[str], word: str) -> bool:
    """Whether one of the words called unknown is the word or a part of it, or holds it."""
    asked = word.lower()
    return any(part.lower() in asked or asked in part.lower() for part in unknown if part)
