"""What each part of the second edition is good for: its own questions with one thing changed or left out at a time.

Every setting draws the same questions with the same seeds and is looked at by the same judge
(`bimo.xiaomo.evaluation`), so a difference to the model's own settings is taken question by question: its interval is
that of resampled questions, both languages of one together, and an arrow stands where it leaves out 0. Drafts are off
but in the row that has them, as the program that makes them also made what the judge learned from.

    OMP_NUM_THREADS=1 python bench/ablations.py SCENES --out RUN [--model xiaomo-2] [--limit 20] [--languages zh en]
        [--steps 4 8 20 50] [--guidance 1 1.5 3 5] [--judge-steps 1500] [--table]

SCENES is what `bimo data scenes` wrote; the judge is trained once and kept there. Pictures and answers are kept one by
one: the same command goes on where it was stopped. --table only writes what there is.

What is left out, one at a time:
  the painter              the first level's answer, decoded
  the first level          its answer is withheld from the painter, as from a tenth of the rows in training
  the boxes of elements    withheld from both levels, as from 15 % of the rows in training
  both                     the words alone
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from PIL import Image

from bimo.core.files import write_whole
from bimo.core.request import Request
from bimo.core.tensors import Conditioning
from bimo.diffusion.conditioner import Conditioner, Drawing
from bimo.diffusion.system import System
from bimo.engine.engine import Engine
from bimo.evaluation.drawing_cache import DrawingCache
from bimo.evaluation.intervals import Interval, bootstrap
from bimo.evaluation.progress import OnProgress, ProgressLines
from bimo.xiaomo.conditioners import Earlier
from bimo.xiaomo.evaluation.baselines import first_level
from bimo.xiaomo.evaluation.scene_judge import STEPS as JUDGE_STEPS
from bimo.xiaomo.evaluation.scene_judge import SceneJudge, scene_judge_for
from bimo.xiaomo.evaluation.scene_run import SceneAnswers, SceneQuestion, measures, scene_questions
from bimo.xiaomo.evaluation.scene_truth import SIDE
from bimo.xiaomo.evaluation.truth import stacked
from bimo.xiaomo.layout_condition import LayoutBoxes

OWN = "own settings"
BATCH = 8
STEPS, GUIDANCE = (4, 8, 20, 50), (1.0, 1.5, 3.0, 5.0)
#: The measure of each group that stands in the table, and the column's head.
HEADLINES = {
    "scene": ("subject and style", "subject and style, pairs seen"),
    "unseen scene": ("subject and style", "subject and style, never seen together"),
    "verse": ("elements", "elements of verses never seen"),
    "dish": ("dish", "dish"),
    "no fish": ("no fish", "鱼香肉丝 without fish"),
}
#: An answer: the question's key, and whether it is right. Both languages of a question have one key.
Right = list[tuple[str, bool]]


@dataclass(frozen=True)
class Setting:
    """One row: what the requests have besides, and the kinds of conditioners whose value is withheld."""

    name: str
    request: Mapping[str, Any] = field(default_factory=dict[str, Any])
    without: tuple[type[Conditioner], ...] = ()
    first_level_alone: bool = False


class _NoEarlier(Earlier):
    """The first level's answer withheld: zeros."""

    def from_request(self, system: System, drawing: Drawing, shape: tuple[int, ...]) -> Conditioning:
        """Spatial [1, C, h, w], zeros."""
        return self.unconditional(super().from_request(system, drawing, shape))


class _NoBoxes(LayoutBoxes):
    """Boxes withheld: zeros, and the map that says that there are none."""

    def from_request(self, system: System, drawing: Drawing, shape: tuple[int, ...]) -> Conditioning:
        """Spatial [1, channels, h, w]."""
        return Conditioning(spatial=self.covered({}, (shape[-2], shape[-1]))[None])


WITHHELD: dict[type[Conditioner], type[Conditioner]] = {Earlier: _NoEarlier, LayoutBoxes: _NoBoxes}


@contextmanager
def withheld(system: System, kinds: Sequence[type[Conditioner]]) -> Generator[None]:
    """Withholds the values of these conditioners in drawing; afterwards the system is whole again."""
    levels = [system.level(level.name) for level in system.recipe.levels]
    whole = [level.conditioners for level in levels]
    for level in levels:
        level.conditioners = tuple(_withheld(each) if type(each) in kinds else each for each in level.conditioners)
    try:
        yield
    finally:
        for level, conditioners in zip(levels, whole, strict=True):
            level.conditioners = conditioners


def _withheld(conditioner: Conditioner) -> Conditioner:
    declared = {each.name: getattr(conditioner, each.name) for each in fields(conditioner)}
    return WITHHELD[type(conditioner)](**declared)


def settings(steps: Sequence[int], guidance: Sequence[float], draft: float | None) -> list[Setting]:
    """The model's own settings first, then with one thing changed at a time."""
    rows = [
        Setting(OWN),
        Setting("without the painter", first_level_alone=True),
        Setting("without the first level", without=(Earlier,)),
        Setting("without boxes", without=(LayoutBoxes,)),
        Setting("without first level and boxes", without=(Earlier, LayoutBoxes)),
    ]
    rows += [Setting("with drafts", {"draft": draft})] if draft else []
    rows += [Setting(f"{count} steps", {"steps": count}) for count in steps]
    return rows + [Setting(f"guidance {scale:g}", {"guidance": scale}) for scale in guidance]


class Ablations:
    """The settings of one model, drawn and judged, each kept in a file of its own."""

    def __init__(
        self,
        engine: Engine,
        judge: SceneJudge,
        out: Path,
        limit: int,
        languages: Sequence[str],
        on_progress: OnProgress,
    ) -> None:
        self.engine, self.judge, self.out, self.on_progress = engine, judge, out, on_progress
        self.asked = [question for question in scene_questions(judge, limit) if question.language in languages]

    def run(self, setting: Setting) -> None:
        """Draws and judges one setting, unless that was done with the same questions."""
        path = self.out / f"{setting.name.replace(' ', '-')}.json"
        if path.is_file() and json.loads(path.read_text("utf-8"))["questions"] == len(self.asked):
            return
        requests = [request_of(question, setting) for question in self.asked]
        begun = time.process_time()
        with withheld(self.engine.system, setting.without):
            if setting.first_level_alone:
                images = first_level(self.engine.system, requests, BATCH, self.on_progress)
                if images is None:
                    return
                drawn = len(images)
            else:
                images, drawn = self._drawn(setting, requests)
        spent = time.process_time() - begun
        seen = SceneAnswers(self.asked, images, self.judge.see(stacked(images, SIDE)))
        record = {
            "setting": setting.name,
            "model": self.engine.recipe.name,
            "weights": self.engine.system.weights_hash,
            "questions": len(self.asked),
            "core-seconds a picture": round(spent / drawn, 3) if drawn else None,
            "answers": answers(measures(self.judge), seen),
        }
        write_whole(path, json.dumps(record, ensure_ascii=False).encode())

    def _drawn(self, setting: Setting, requests: Sequence[Request]) -> tuple[list[Image.Image], int]:
        # A picture's name depends on its request and weights, not on what is withheld.
        name = "-".join(["pictures", *(kind.__name__.lower() for kind in setting.without)])
        cache = DrawingCache(self.engine, self.out / name, BATCH, self.on_progress)
        new = not any(cache.path(request).is_file() for request in requests)
        images = cache.draw(requests)
        return images, cache.drawn if new else 0  # a part of them says nothing of the whole


def request_of(question: SceneQuestion, setting: Setting) -> Request:
    """The request of a question with a setting; without drafts where it does not ask for them."""
    return Request(text=question.text, seed=question.seed, **{"draft": 0, **setting.request})


def answers(
    rules: Mapping[str, Mapping[str, Callable[[SceneAnswers], list[bool]]]], seen: SceneAnswers
) -> dict[str, Right]:
    """By "group.measure": the key of each question of the group and whether it is right, once for each thing that the
    measure counts.
    """
    found: dict[str, Right] = {}
    for group, by_name in rules.items():
        rows = seen.of(group)
        for name, rule in by_name.items():
            keys = [q.key for q in rows.questions for _ in (q.elements if name == "elements" else (q,))]
            found[f"{group}.{name}"] = list(zip(keys, rule(rows), strict=True))
    return found


def by_question(right: Sequence[Sequence[Any]]) -> dict[str, float]:
    """The share right of each question."""
    every: dict[str, list[bool]] = {}
    for key, one in right:
        every.setdefault(key, []).append(bool(one))
    return {key: sum(each) / len(each) for key, each in every.items()}


def difference(right: Sequence[Sequence[Any]], own: Sequence[Sequence[Any]]) -> Interval:
    """The mean difference of one setting to another over questions, with the interval of resampled questions. Raises
    ValueError where they were asked other questions.
    """
    one, other = by_question(right), by_question(own)
    if one.keys() != other.keys():
        raise ValueError("the two settings were asked different questions; run both with the same --limit and data")
    return bootstrap([one[key] - other[key] for key in one])


def table(out: Path, order: Sequence[str], judge_facts: Mapping[str, Any]) -> str:
    """The rows of the settings that have answers, and what the judge itself gets right."""
    records = {}
    for path in sorted(out.glob("*.json")):
        record = json.loads(path.read_text("utf-8"))
        records[record["setting"]] = record
    rows = [name for name in order if name in records]
    if not rows:
        raise SystemExit(f"{out} holds no answers yet")
    first = records[rows[0]]
    lines = [
        f"{first['model']}, weights {first['weights'][:12]}; {first['questions']} pictures a row; {_machine()}.",
        "Per cent right with 95 % intervals by resampled questions;",
        f"↑ ↓: the difference to `{OWN}`, question by question, leaves out 0.",
        "",
        "| | " + " | ".join(head for _, head in HEADLINES.values()) + " | core-s a picture |",
        "|---" * (len(HEADLINES) + 2) + "|",
    ]
    for name in rows:
        found, own = records[name]["answers"], records.get(OWN, {}).get("answers", {})
        cells = [_cell(found[key], own.get(key)) for key in (f"{g}.{m}" for g, (m, _) in HEADLINES.items())]
        cost = records[name]["core-seconds a picture"]
        lines.append(f"| {name} | {' | '.join(cells)} | {'–' if cost is None else cost} |")
    lines += ["", f"The judge: {json.dumps(judge_facts.get('accuracy', {}), ensure_ascii=False)}"]
    return "\n".join(lines) + "\n"


def _cell(right: Right, own: Right | None) -> str:
    if not right:
        return "–"
    value = bootstrap(list(by_question(right).values()))
    text = f"{value.value * 100:.0f} [{value.low * 100:.0f}, {value.high * 100:.0f}]"
    if own is None or right == own:
        return text
    apart = difference(right, own)
    return text + (" ↑" if apart.low > 0 else " ↓" if apart.high < 0 else "")


def _machine() -> str:
    from bimo.evaluation.protocol import machine

    return str(machine()["processor"])


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="xiaomo-2")
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--languages", nargs="+", choices=("zh", "en"), default=("zh", "en"))
    parser.add_argument("--steps", type=int, nargs="*", default=STEPS)
    parser.add_argument("--guidance", type=float, nargs="*", default=GUIDANCE)
    parser.add_argument("--judge-steps", type=int, default=JUDGE_STEPS)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    from bimo.hub.loading import load

    engine = load(given.model)
    rows = settings(given.steps, given.guidance, engine.recipe.request.draft)
    given.out.mkdir(parents=True, exist_ok=True)
    with ProgressLines() as bar:
        judge = scene_judge_for(given.data, bar.update, steps=given.judge_steps)
        ablations = Ablations(engine, judge, given.out, given.limit, given.languages, bar.update)
        for setting in [] if given.table else rows:
            ablations.run(setting)
    text = table(given.out, [row.name for row in rows], judge.facts)
    write_whole(given.out / "ablations.md", text.encode())
    print(text)


if __name__ == "__main__":
    main()
