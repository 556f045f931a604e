"""The judge of scenes and dishes: which subject a picture shows, in which manner, and which elements stand in it.

It learns from true pictures alone, as ``judge.Judge`` does, of whose layers it is made; on a share of the set, and on
pictures of what was held out, it is examined.
"""

# torch leaves parts of its interface untyped; what crosses it here is named where it is used.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from bimo.core.files import write_whole
from bimo.data import shards
from bimo.evaluation.progress import OnProgress
from bimo.xiaomo.dishes.table import dishes
from bimo.xiaomo.evaluation.judge import Residual, convolution, damaged, features_and_texture, fit
from bimo.xiaomo.evaluation.scene_truth import (
    EXAMINED,
    Bytes,
    SceneTruth,
    held_out_scenes,
    held_out_verses,
    read_scenes,
    usual_dishes,
)
from bimo.xiaomo.evaluation.truth import tensor

WEIGHTS_FILE = "scene_judge.safetensors"
FACTS_FILE = "scene_judge.json"
VERSION = 1
WIDTH = 256
BATCH = 96
STEPS = 1500
OTHER_RATE = 3e-3
SMOOTHING = 0.05
#: An element counts as seen above the number that so few pictures without it exceed.
FALSE_SHARE = 0.04
EACH_PAIR = 4
INNER = ("trunk", "embed")
#: Ingredients that are a fish to whoever looks; slices and balls of it are not.
FISH = frozenset({"鲈鱼", "红烧鱼", "松鼠鱼", "鱼头"})


class SceneNetwork(nn.Module):
    """[B, 3, 96, 96] in [-1, 1] -> logits of subjects [B, K], styles [B, S] and elements [B, E].

    What a picture is is read from its last 6 x 6 places, its manner from the mean and spread of every stage, each
    element from wherever it shows most.
    """

    def __init__(self, subjects: int, styles: int, elements: int) -> None:
        super().__init__()
        self.trunk = nn.ModuleList(
            (
                nn.Sequential(convolution(3, 48, 4, 4, 0), Residual(48)),
                nn.Sequential(convolution(48, 96, 2, 2, 0), Residual(96)),
                nn.Sequential(convolution(96, 160, 2, 2, 0), Residual(160)),
            )
        )
        texture = 2 * (48 + 96 + 160)
        self.embed = nn.Sequential(nn.Linear(160 * 36, WIDTH, bias=False), nn.BatchNorm1d(WIDTH), nn.ReLU())
        self.texture = nn.BatchNorm1d(texture, affine=False)
        self.subject = nn.Linear(WIDTH + texture, subjects)
        self.style = nn.Linear(WIDTH + texture, styles)
        self.element = nn.Linear(WIDTH, elements)
        self.shown = nn.Conv2d(160, elements, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures -> (subjects, styles, elements)."""
        x, texture = features_and_texture(self.trunk, x)
        whole = self.embed(x.flatten(1))
        both = torch.cat([whole, self.texture(texture)], 1)
        return self.subject(both), self.style(both), self.element(whole) + self.shown(x).amax((2, 3))


@dataclass(frozen=True)
class SceneSeen:
    """What the judge saw in N pictures: the likeliest subject and style [N] (indices), elements that stand [N, E]."""

    subject: NDArray[np.int64]
    style: NDArray[np.int64]
    elements: NDArray[np.bool_]

    def rows(self, rows: list[int]) -> Self:
        """Some of them."""
        return type(self)(self.subject[rows], self.style[rows], self.elements[rows])


@dataclass(frozen=True)
class SceneJudge:
    """A trained judge; ``thresholds`` [E] are of the logits of elements, ``facts`` its own accuracies."""

    network: SceneNetwork
    subjects: tuple[str, ...]
    styles: tuple[str, ...]
    elements: tuple[str, ...]
    thresholds: Tensor
    facts: dict[str, Any]

    def see(self, pixels: Bytes) -> SceneSeen:
        """RGB [N, 96, 96, 3] -> what is on them."""
        subject, style, logits = _read(self.network, pixels)
        stand = (logits > self.thresholds).numpy()
        return SceneSeen(subject.argmax(1).numpy(), style.argmax(1).numpy(), stand)

    def with_fish(self) -> frozenset[int]:
        """The subjects that are dishes with a fish on the plate."""
        fishy = {name for name, dish in dishes().items() if FISH.intersection(dish.contents)}
        return frozenset(number for number, name in enumerate(self.subjects) if name in fishy)


def _read(network: SceneNetwork, pixels: Bytes) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of pictures, as they are and mirrored taken together."""
    parts: list[tuple[Tensor, ...]] = []
    with torch.inference_mode():
        for first in range(0, len(pixels), 256):
            x = tensor(pixels[first : first + 256]).contiguous(memory_format=torch.channels_last)
            parts.append(tuple((a + b) / 2 for a, b in zip(network(x), network(x.flip(3)), strict=True)))
    if not parts:
        sizes = network.subject.out_features, network.style.out_features, network.element.out_features
        parts.append(tuple(torch.zeros(0, size) for size in sizes))
    subject, style, element = (torch.cat(each) for each in zip(*parts, strict=True))
    return subject, style, element


def scene_judge_for(folder: Path, on_progress: OnProgress, *, steps: int = STEPS) -> SceneJudge:
    """The judge of a built set: read from its folder, or trained and kept there. Raises DataError."""
    return _stored(folder) or train_scene_judge(folder, on_progress, steps)


def _stored(folder: Path) -> SceneJudge | None:
    facts_path, weights_path = folder / FACTS_FILE, folder / WEIGHTS_FILE
    if not facts_path.is_file() or not weights_path.is_file():
        return None
    try:
        facts = json.loads(facts_path.read_text("utf-8"))
        if facts["version"] != VERSION or facts["data"] != shards.read_index(folder).digest:
            return None
        subjects, styles, elements = (tuple(map(str, facts[name])) for name in ("subjects", "styles", "elements"))
        tensors = load_file(weights_path)
        thresholds = tensors.pop("thresholds")
        network = SceneNetwork(len(subjects), len(styles), len(elements))
        network.load_state_dict(tensors)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise damaged(weights_path, FACTS_FILE, error) from error
    return SceneJudge(network.eval().requires_grad_(False), subjects, styles, elements, thresholds, facts)


def train_scene_judge(folder: Path, on_progress: OnProgress, steps: int = STEPS) -> SceneJudge:
    """Trains the judge on a set, but for the rows it is examined on, examines it and keeps it beside the set."""
    began = time.process_time()
    truth = read_scenes(folder, on_progress)
    order = np.random.default_rng(0).permutation(len(truth.pixels))
    examined = max(1, len(order) * EXAMINED // 100)
    network = _trained(truth.rows(order[examined:]), steps, on_progress)
    known = truth.rows(order[:examined])
    _, _, logits = _read(network, truth.rows(order[examined : 5 * examined]).pixels)
    absent = torch.from_numpy(truth.labels.elements[order[examined : 5 * examined]]) == 0
    thresholds = torch.stack([_threshold(logits[absent[:, n], n]) for n in range(logits.shape[1])])
    named = truth.subjects, truth.styles, truth.elements
    judge = SceneJudge(network, *named, thresholds, {})
    facts: dict[str, Any] = {
        "version": VERSION,
        "data": shards.read_index(folder).digest,
        "parameters": sum(p.numel() for p in network.parameters()),
        "steps": steps,
        "batch": BATCH,
        "accuracy": {
            "rows of the set": examine(judge, known),
            "pairs held out": examine(judge, held_out_scenes(truth, EACH_PAIR, on_progress)),
            "verses held out": examine(judge, held_out_verses(truth, on_progress)),
            "dishes": examine(judge, usual_dishes(truth, [n for n in dishes() if n in truth.subjects], on_progress)),
        },
        "processor seconds": round(time.process_time() - began),
    }
    facts |= dict(zip(("subjects", "styles", "elements"), map(list, named), strict=True))
    state = {name: value.contiguous() for name, value in network.state_dict().items()} | {"thresholds": thresholds}
    write_whole(folder / WEIGHTS_FILE, save(state))
    write_whole(folder / FACTS_FILE, json.dumps(facts, ensure_ascii=False, indent=1).encode())
    return SceneJudge(network, *named, thresholds, facts)


def _threshold(without: Tensor) -> Tensor:
    """What ``FALSE_SHARE`` of the pictures without an element exceed; 0 where there is none such."""
    return torch.quantile(without, 1 - FALSE_SHARE) if len(without) else torch.tensor(0.0)


def _trained(truth: SceneTruth, steps: int, on_progress: OnProgress) -> SceneNetwork:
    """Cross-entropies of subject, style and each element, of pictures mirrored, shifted and made brighter or darker."""
    labels = truth.labels
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SceneNetwork(len(truth.subjects), len(truth.styles), len(truth.elements))
    generator = torch.Generator().manual_seed(0)

    def loss() -> Tensor:
        rows = torch.randint(len(truth.pixels), (min(BATCH, len(truth.pixels)),), generator=generator).numpy()
        subject, style, element = network(_disturbed(tensor(truth.pixels[rows]), generator))
        wanted, there = torch.from_numpy(labels.subject[rows]), torch.from_numpy(labels.elements[rows])
        wrong = nn.functional.cross_entropy(style, torch.from_numpy(labels.style[rows]))
        wrong = wrong + 3 * nn.functional.binary_cross_entropy_with_logits(element, there)
        if (wanted >= 0).any():
            wrong = wrong + nn.functional.cross_entropy(subject, wanted, ignore_index=-1, label_smoothing=SMOOTHING)
        return wrong

    fit(network, INNER, OTHER_RATE, steps, loss, on_progress, "judge of scenes")
    return network.eval().requires_grad_(False)


def _disturbed(x: Tensor, generator: torch.Generator) -> Tensor:
    """[B, 3, h, w]: half of the batch mirrored, all moved by a few pixels, noisier, darker or brighter, so that the
    judge looks past what no painter but a procedure does to the pixel.
    """
    half = len(x) // 2
    x = torch.cat([x[:half].flip(3), x[half:]])
    dx, dy = (int(v) for v in torch.randint(-5, 6, (2,), generator=generator))
    x = nn.functional.pad(x, (5, 5, 5, 5), mode="replicate")[:, :, 5 + dy : -5 + dy or None, 5 + dx : -5 + dx or None]
    share = torch.rand(len(x), 3, 1, 1, generator=generator)
    x = x * (0.8 + 0.4 * share[:, :1]) + 0.3 * (share[:, 1:2] - 0.5)
    noise = torch.randn(x.shape, generator=generator)
    return (x + 0.15 * share[:, 2:] * noise).contiguous(memory_format=torch.channels_last)


def examine(judge: SceneJudge, truth: SceneTruth) -> dict[str, Any]:
    """Of true pictures: how often subject and style are right, how many of the elements that stand are seen, and how
    many are seen that do not.
    """
    seen, labels = judge.see(truth.pixels), truth.labels
    known = labels.subject >= 0
    both = known & (labels.style >= 0)
    there, absent = labels.elements == 1, labels.elements == 0
    accuracies: dict[str, Any] = {"n": len(truth.pixels)}
    if known.any():
        right = seen.subject == labels.subject
        accuracies["subject"] = round(float(right[known].mean()), 4)
        accuracies["subject and style"] = round(float((right & (seen.style == labels.style))[both].mean()), 4)
    if len(truth.pixels):
        accuracies["style"] = round(float((seen.style == labels.style)[labels.style >= 0].mean()), 4)
        accuracies["elements seen"] = round(float(seen.elements[there].mean()), 4)
        accuracies["elements seen that are not there"] = round(float(seen.elements[absent].mean()), 4)
    return accuracies
