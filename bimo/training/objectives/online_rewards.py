"""Online reward fine-tuning in rounds: the trained level draws, a reward scores, and the round is trained on."""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, cast

import torch
from torch import Tensor, nn

from bimo.core.errors import BimoError, DataError, RecipeError, TrainingError
from bimo.core.files import write_whole
from bimo.core.messages import say
from bimo.core.part import Part, dump
from bimo.data.loader import Pictures
from bimo.data.shards import Sample, finished, shard_name, write_index, write_shard
from bimo.diffusion.system import System
from bimo.engine.engine import Engine
from bimo.training.batch_sampler import BatchSampler
from bimo.training.distributed.processes import ALONE, Processes
from bimo.training.logging import counted
from bimo.training.objectives.objective import Objective
from bimo.training.objectives.preferences import DiffusionDPO
from bimo.training.objectives.rewards import TOTAL, ColourfulReward, Judges, Shown, of_rewards
from bimo.training.seeds import mixed
from bimo.training.train_inputs import Prospect, TrainInputs, Vocabulary
from bimo.training.train_loader import TrainLoader

ROUND_FILE = "round.json"
#: Two standard errors on either side: about 95 %.
SPREAD = 1.96


@dataclass(frozen=True, kw_only=True)
class OnlineRewards(Objective):
    """Reward fine-tuning on the system's own drawings, with a reward in place of human feedback (RLAIF).

    In a round the current level draws ``draws`` pictures for each of ``requests`` captions of the data, ``reward``
    scores them, and ``every`` steps train on them by ``learn``: `DiffusionDPO` on the best against the worst for one
    caption (Diffusion-DPO, arXiv:2311.12908, equation 14, with pairs of its own drawings ranked by a model as in
    arXiv:2402.04792), or `Reward`, which weighs each by exp of its score (arXiv:2302.12192, equation 3). The reward
    need not be differentiable; for differentiable ones see `bimo.training.objectives.draft.DRaFT`.

    ``steps``, ``size`` and ``guidance`` are those of sampling, 0 and None for the recipe's; ``batch`` are drawn
    together. Captions come in shuffled order, seeds from (seed of the run, stage, round, place). Drawings and scores
    are saved in the run's folder, ``stage-N/round-R``: an interruption loses the drawings of one batch, existing ones
    are not drawn again.

    Labels for ``learn``: ``score``; ``pair``, one for each caption of a round; ``advantage``, the score minus the mean
    for its caption, divided by the standard deviation of that in the round, so that captions with only good drawings
    weigh no more than others.
    """

    captions: ClassVar = "selected"
    varies_rows: ClassVar = False

    reward: Part
    learn: Objective = field(default_factory=lambda: DiffusionDPO(worst=True))
    requests: int = 16
    draws: int = 4
    every: int = 25
    batch: int = 8
    steps: int = 0
    size: tuple[int, int] | None = None
    guidance: float | None = None
    sees: str = "texts"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("requests", 1), ("draws", 2), ("every", 1), ("batch", 1)):
            if getattr(self, name) < least:
                raise RecipeError(
                    "{name} of OnlineRewards must be at least {least}; got {value}",
                    name=name,
                    least=least,
                    value=getattr(self, name),
                )

    def tiny(self) -> Self:
        """Two drawings for each of four captions, by two steps; a reward without weights."""
        few = {"requests": min(self.requests, 4), "draws": 2, "every": min(self.every, 2), "steps": 2}
        return replace(self, reward=ColourfulReward(), learn=self.learn.tiny(), size=(128, 128), **few)

    @property
    def draws_every(self) -> int:
        """A round."""
        return self.every

    def extra(self, system: System, vocabulary: Vocabulary) -> nn.Module | None:
        """That of ``learn``."""
        return self.learn.extra(system, vocabulary)

    def problems(self, prospect: Prospect) -> Iterator[BimoError]:
        """Missing captions, and missing user functions that the reward names."""
        yield from _undrawable(prospect.pictures)
        yield from of_rewards(self.reward, prospect.judges)
        if self.learn.maps:
            yield RecipeError(
                "what is drawn has no map {maps}; leave mask out of learn", maps=", ".join(self.learn.maps)
            )

    def loss(self, inputs: TrainInputs) -> Tensor:
        """That of ``learn``."""
        return self.learn.loss(inputs)

    def batches(
        self, blank: TrainInputs, pictures: Pictures, out: Path, folder: Path, seed: int, processes: Processes = ALONE
    ) -> RoundLoader:
        """The batches of the stage. Raises RecipeError if a share of the data is to be held out: only its captions are
        used.
        """
        if blank.stage.validation:
            raise RecipeError(
                "stage {name!r} learns from its own drawings, of which none is held out; leave validation out",
                name=blank.stage.name,
            )
        if processes.sharded:
            raise TrainingError(
                "stage {name!r} draws, for which each process needs all weights; begin it without FSDP",
                name=blank.stage.name,
            )
        return RoundLoader(self, blank, pictures, out, folder, seed, processes)


@dataclass(frozen=True)
class PlannedDrawing:
    """A drawing of a round: its key, its caption, the row of that, and its seed."""

    key: str
    pair: str
    text: str
    row: int
    seed: int


class RoundLoader:
    """A `bimo.training.train_loader.TrainLoader` whose pictures are drawn at the start of each round. ``folder`` is
    that of the stage.
    """

    def __init__(
        self,
        part: OnlineRewards,
        blank: TrainInputs,
        pictures: Pictures,
        out: Path,
        folder: Path,
        seed: int,
        processes: Processes = ALONE,
    ) -> None:
        self.part, self.blank, self.pictures, self.out, self.folder = part, blank, pictures, out, folder
        self.seed, self.processes = seed, processes
        self.prefix = blank.system.recipe.request.prefix
        self.held_out: BatchSampler | None = None
        self._current: tuple[int, TrainLoader | None] = (-1, None)

    @property
    def runs_encoders(self) -> bool:
        """Each round draws, and reads other words."""
        return True

    @property
    def order(self) -> BatchSampler:
        """The order of the captions, which does not depend on the batch size: one a process is enough."""
        return BatchSampler(self.pictures.groups, [(0, 0)] * len(self.pictures), self.processes.count, self.seed)

    def inputs(self, number: int, generator: torch.Generator, order: BatchSampler | None = None) -> TrainInputs:
        """As in TrainLoader: a batch of the round that its number belongs to."""
        stage = self.blank.stage
        which = number // (self.part.every * stage.accumulate)
        if self._current[0] != which:
            self._current = (which, self._round(which))
        return cast(TrainLoader, self._current[1]).inputs(number, generator)

    def _round(self, which: int) -> TrainLoader:
        folder = self.folder / f"round-{which + 1:04d}"
        plan = self.plan(which)
        if not plan:
            raise TrainingError(
                "round {which} has not one caption to draw; most captions of the data are empty", which=which + 1
            )
        stamp = _stamp(self.part, plan)
        if finished(folder / shard_name(0), stamp) is None:
            folder.mkdir(parents=True, exist_ok=True)
            system = self.blank.system
            modes = {name: module.training for name, module in system.named_modules()}
            system.eval()
            # The step's random numbers do not depend on whether drawings existed.
            with torch.random.fork_rng(), torch.autocast(self.processes.device.type, enabled=False), torch.no_grad():
                self._draw(plan, folder)
                self.processes.wait()
                if self.processes.is_main_process:
                    self._score(which, plan, folder, stamp)
                self.processes.wait()
            for name, module in system.named_modules():
                module.training = modes[name]
        drawn = Pictures(folder)
        # Other labels and maps of the data are unknown for drawings.
        learn = self.part.learn
        pictures = learn.pictures(self.blank.system, drawn, folder)
        with self.processes.main_process_first():
            return cast(TrainLoader, learn.batches(self.blank, pictures, self.out, folder, self.seed, self.processes))

    def plan(self, which: int) -> list[PlannedDrawing]:
        """The drawings of a round: each caption of the data once before any is repeated."""
        part, rows = self.part, [row for group in self.pictures.groups for row in group]
        drawings: list[PlannedDrawing] = []
        for place in range(part.requests):
            epoch, at = divmod(which * part.requests + place, len(rows))
            source = torch.Generator().manual_seed(mixed(self.seed, epoch))
            row = rows[int(torch.randperm(len(rows), generator=source)[at])]
            source.manual_seed(mixed(self.seed, which, place))
            captions = [text for text in self.pictures.captions[row] if text.strip()]
            if not captions:
                continue
            text = captions[int(torch.randint(len(captions), (1,), generator=source))]
            first = int(torch.randint(2**31 - part.draws, (1,), generator=source))
            for draw in range(part.draws):
                key = f"{which + 1:04d}-{place:04d}-{draw:02d}"
                drawings.append(PlannedDrawing(key, f"{which + 1}-{place}", text, row, first + draw))
        return drawings

    def _draw(self, planned: Sequence[PlannedDrawing], folder: Path) -> None:
        """Draws the missing pictures in batches, split over the processes. A batch is drawn completely even if some of
        it exists.
        """
        part, system = self.part, self.blank.system
        engine = Engine(system, device=self.processes.device)
        title = say("drawing round {name}", name=folder.name[-4:])
        firsts = range(0, len(planned), part.batch)[self.processes.rank :: self.processes.count]
        for first in counted(firsts, title):
            some = planned[first : first + part.batch]
            if all((folder / f"{one.key}.png").is_file() for one in some):
                continue
            requests = [request_of(system, part, one.text, one.seed) for one in some]
            for one, picture in zip(some, engine.draw_together(requests), strict=True):
                picture.save(folder / f"{one.key}.png")

    def _score(self, which: int, planned: Sequence[PlannedDrawing], folder: Path, stamp: str) -> None:
        """Scores a round: writes its shard, and round.json with the statistics."""
        from PIL import Image

        judges = self.blank.judges or Judges()
        by_name: dict[str, list[float]] = {}
        for first in range(0, len(planned), self.part.batch):
            some = planned[first : first + self.part.batch]
            pixels: list[Tensor] = []
            for one in some:
                with Image.open(folder / f"{one.key}.png") as image:
                    pixels.append(pixels_of(image))
            labels = [self.pictures.labels[one.row] for one in some]
            shown = Shown(torch.stack(pixels), [one.text for one in some], labels)
            for name, values in judges.scores(self.part.reward, shown).items():
                by_name.setdefault(name, []).extend(values.tolist())
        scores = by_name[TOTAL]
        advantages = advantages_of([one.pair for one in planned], scores)
        rows: list[Sample] = []
        for place, one in enumerate(planned):
            own = {name: values[place] for name, values in by_name.items()}
            own |= {"advantage": advantages[place]}
            known = {name: value for name, value in own.items() if value == value}  # NaN equals nothing
            labels = {**self.pictures.labels[one.row], "pair": one.pair, "seed": one.seed, **known}
            row: dict[str, object] = {"captions": [{"text": one.text}], "labels": labels}
            row |= self.blank.system.conditions_of_seed(one.seed)
            rows.append((one.key, (folder / f"{one.key}.png").read_bytes(), row))
        record: dict[str, Any] = {"round": which + 1, "step": which * self.part.every, "drawings": len(planned)}
        record |= {"scores": {name: summary(values) for name, values in by_name.items()}}
        if not record["scores"][TOTAL]["count"]:
            raise TrainingError(
                "the reward has nothing to say of any of the {count} drawings of round {which}; see whether it "
                "suits the captions of the data",
                count=len(planned),
                which=which + 1,
            )
        if len({value for value in scores if value == value}) == 1:
            raise TrainingError(
                "every drawing of round {which} scores {scores:.4g}: there is no better or worse to learn from; "
                "take another reward, or more draws",
                which=which + 1,
                scores=max(scores),
            )
        write_whole(folder / ROUND_FILE, json.dumps(record, ensure_ascii=False, indent=1).encode())
        write_index(folder, [write_shard(folder / shard_name(0), rows, stamp)])
        total = record["scores"][TOTAL]
        print(
            say(
                "round {which}: {total} drawings, mean {total_2:.4f} ± {total_3:.4f}",
                which=which + 1,
                total=total["count"],
                total_2=total["mean"],
                total_3=total["error"],
            )
        )


def _undrawable(pictures: Pictures) -> Iterator[BimoError]:
    captions = (text for group in pictures.groups for row in group for text in pictures.captions[row])
    if not any(text.strip() for text in captions):
        yield DataError("the data has not one caption to draw")


class Drawn(Protocol):
    """The sampling settings of an objective: 0 and None for the recipe's."""

    @property
    def steps(self) -> int: ...
    @property
    def size(self) -> tuple[int, int] | None: ...
    @property
    def guidance(self) -> float | None: ...


def request_of(system: System, drawn: Drawn, text: str, seed: int) -> dict[str, Any]:
    """The request for a drawing of an objective."""
    settings: dict[str, Any] = {"text": text, "seed": seed, "draft": 0, "conditions": system.conditions_of_seed(seed)}
    settings |= {"steps": drawn.steps} if drawn.steps else {}
    settings |= {} if drawn.size is None else {"size": drawn.size}
    return settings | ({} if drawn.guidance is None else {"guidance": drawn.guidance})


def pixels_of(image: Any) -> Tensor:
    """A PIL image as [3, H, W] in [-1, 1]."""
    import numpy as np

    return torch.as_tensor(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 127.5 - 1


def advantages_of(pairs: Sequence[str], scores: Sequence[float]) -> list[float]:
    """Each score minus the mean of its pair, divided by the standard deviation of all of these; NaN without a score."""
    groups: dict[str, list[float]] = {}
    for pair, score in zip(pairs, scores, strict=True):
        if score == score:
            groups.setdefault(pair, []).append(score)
    means = {pair: statistics.fmean(values) for pair, values in groups.items()}
    over = [score - means.get(pair, 0.0) for pair, score in zip(pairs, scores, strict=True)]
    known = [value for value in over if value == value]
    deviation = statistics.pstdev(known) if len(known) > 1 else 0.0
    return [value / deviation if deviation else value for value in over]


def summary(values: Sequence[float]) -> dict[str, float]:
    """The count of numbers, their mean, and half the width of its 95 % interval."""
    known = [value for value in values if value == value]
    if not known:
        return {"count": 0}
    error = SPREAD * statistics.stdev(known) / len(known) ** 0.5 if len(known) > 1 else 0.0
    return {"count": len(known), "mean": round(statistics.fmean(known), 6), "error": round(error, 6)}


def rounds_of(run: Path) -> list[Mapping[str, Any]]:
    """The statistics of a run's rounds in order: round.json of each, with the number of its stage."""
    records: list[Mapping[str, Any]] = []
    for path in sorted(run.glob(f"stage-*/round-*/{ROUND_FILE}"), key=lambda p: (int(p.parts[-3][6:]), p.parts[-2])):
        records.append(json.loads(path.read_text(encoding="utf-8")) | {"stage": int(path.parts[-3][6:])})
    return records


def _stamp(part: OnlineRewards, planned: Sequence[PlannedDrawing]) -> str:
    text = json.dumps([dump(part), [vars(one) for one in planned]], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
