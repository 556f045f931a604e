"""The judge: a small residual network (arXiv:1512.03385) that says which kind and which style a picture shows.

It is trained on true artwork alone and sees no picture of the system it judges. A cosine classifier (arXiv:1801.05599)
makes its embedding one in which neighbours are of one kind.
"""

# torch leaves parts of its interface untyped; what crosses it here is named where it is used.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from bimo.core.errors import BimoError, DataError
from bimo.core.files import write_whole
from bimo.core.messages import say
from bimo.evaluation.progress import OnProgress
from bimo.xiaomo.artwork.lexicon import EFFECTS
from bimo.xiaomo.evaluation.truth import Artwork, Bytes, Truth, examination, gather, tensor, training_batch

WEIGHTS_FILE = "judge.safetensors"
FACTS_FILE = "judge.json"
VERSION = 1
WIDTH = 256
SHARPNESS = 20.0
BATCH = 128
STEPS = 1400
BLIND_STEPS = 700
MATRIX_RATE = 0.03
OTHER_RATE = 4e-3
INNER = ("trunk", "embed", "manner")
SMOOTHING = 0.05
EXAMINED = {"drawn": 150, "effect": 60, "held out": 400}


def convolution(inside: int, outside: int, kernel: int, stride: int, padding: int) -> nn.Sequential:
    """A convolution, batch normalisation, relu."""
    layer = nn.Conv2d(inside, outside, kernel, stride, padding, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outside), nn.ReLU(inplace=True))


class Residual(nn.Module):
    """relu(x + two 3 x 3 convolutions of x)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = convolution(width, width, 3, 1, 1)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> the same shape."""
        return torch.relu(x + self.second(self.first(x)))


def features_and_texture(trunk: Iterable[nn.Module], x: Tensor) -> tuple[Tensor, Tensor]:
    """[B, 3, H, W] -> the last stage's features [B, C, h, w], and the means and standard deviations over positions of
    every stage's features [B, D].
    """
    texture: list[Tensor] = []
    for stage in trunk:
        x = stage(x)
        texture += [x.mean((2, 3)), (x.var((2, 3)) + 1e-5).sqrt()]
    return x, torch.cat(texture, 1)


class JudgeNetwork(nn.Module):
    """[B, 3, 64, 64] in [-1, 1] -> cosines with kinds [B, K] times a sharpness, styles [B, S], embedding [B, 256].

    Where a part lies tells kinds apart, so the last 4 x 4 places are read by one matrix and not averaged; a style shows
    in the mean and spread of the features of every stage as well.
    """

    def __init__(self, kinds: int, styles: int) -> None:
        super().__init__()
        self.trunk = nn.ModuleList(
            (
                nn.Sequential(convolution(3, 48, 4, 4, 0), Residual(48)),
                nn.Sequential(convolution(48, 96, 2, 2, 0), Residual(96)),
                convolution(96, 128, 2, 2, 0),
            )
        )
        places, texture = 128 * 16, 2 * (48 + 96 + 128)
        self.embed = nn.Sequential(nn.Linear(places, WIDTH, bias=False), nn.BatchNorm1d(WIDTH, affine=False))
        self.manner = nn.Sequential(
            nn.BatchNorm1d(texture, affine=False), nn.Linear(texture, 128, bias=False), nn.BatchNorm1d(128), nn.ReLU()
        )
        self.kind = nn.Parameter(torch.randn(kinds, WIDTH) / WIDTH**0.5)
        self.style = nn.Linear(128 + WIDTH, styles)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures -> (kinds, styles, embedding of length 1)."""
        x, texture = features_and_texture(self.trunk, x)
        embedded = self.embed(x.flatten(1))
        embedding = nn.functional.normalize(embedded, dim=1)
        kinds = SHARPNESS * embedding @ nn.functional.normalize(self.kind, dim=1).T
        return kinds, self.style(torch.cat([self.manner(texture), embedded], 1)), embedding


class Orthogonal(torch.optim.Optimizer):
    """Momentum whose step is made orthogonal by four Newton-Schulz iterations (Muon; arXiv:2502.16982), for matrices
    and, flattened, convolutions. It learns from half the pictures that AdamW needs here.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.9) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                momentum.mul_(group["momentum"]).add_(parameter.grad)
                ahead = (parameter.grad + group["momentum"] * momentum).reshape(len(parameter), -1)
                taller = max(1.0, ahead.shape[0] / ahead.shape[1]) ** 0.5
                parameter.add_(_orthogonal(ahead).reshape(parameter.shape), alpha=-group["lr"] * taller)


def _orthogonal(matrix: Tensor) -> Tensor:
    """[n, m] -> about U V of its singular value decomposition U S V."""
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = wide / (wide.norm() + 1e-7)
    for _ in range(4):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.T if wide is not matrix else x


@dataclass(frozen=True)
class Seen:
    """What the judge saw in N pictures: the five likeliest kinds [N, 5], the style [N] (indices), embeddings [N, D]."""

    kinds: NDArray[np.int64]
    style: NDArray[np.int64]
    embedding: NDArray[np.float32]


@dataclass(frozen=True)
class Judge:
    """A trained judge. ``gallery`` [S, K, D] holds the embedding of the true picture of every (style, kind), zeros
    where there is none; ``facts`` its own accuracies and what it was trained on.
    """

    network: nn.Module
    kinds: tuple[str, ...]
    styles: tuple[str, ...]
    gallery: Tensor
    facts: dict[str, Any]

    def see(self, pixels: Bytes) -> Seen:
        """RGB [N, 64, 64, 3] -> what is on them, as they are and mirrored taken together."""
        kinds: list[Tensor] = []
        styles: list[Tensor] = []
        embeddings: list[Tensor] = []
        with torch.inference_mode():
            for first in range(0, len(pixels), 256):
                x = tensor(pixels[first : first + 256]).contiguous(memory_format=torch.channels_last)
                kind, style, embedding = (a + b for a, b in zip(self.network(x), self.network(x.flip(3)), strict=True))
                kinds.append(kind.topk(min(5, kind.shape[1]), dim=1).indices)
                styles.append(style.argmax(1))
                embeddings.append(nn.functional.normalize(embedding, dim=1))
        if not kinds:
            return Seen(np.zeros((0, 5), np.int64), np.zeros(0, np.int64), np.zeros((0, WIDTH), np.float32))
        return Seen(torch.cat(kinds).numpy(), torch.cat(styles).numpy(), torch.cat(embeddings).numpy())

    def nearest(self, embedding: NDArray[np.float32], styles: Sequence[str]) -> list[str]:
        """For embeddings [N, D], the kind of the nearest true picture of each one's asked style."""
        names: list[str] = []
        for row, style in zip(embedding, styles, strict=True):
            pictures = self.gallery[self.styles.index(style)].float()
            cosine = pictures @ torch.from_numpy(np.ascontiguousarray(row))
            names.append(self.kinds[int(cosine.masked_fill(pictures.abs().sum(1) == 0, -2.0).argmax())])
        return names


def judge_for(
    artwork: Artwork, on_progress: OnProgress, *, steps: int = STEPS, blind_steps: int = BLIND_STEPS
) -> Judge:
    """The judge of a data folder: read from it, or trained and kept there where it has none of this data."""
    stored = _read(artwork)
    return stored if stored is not None else train_judge(artwork, on_progress, steps, blind_steps)


def _read(artwork: Artwork) -> Judge | None:
    facts_path, weights_path = artwork.folder / FACTS_FILE, artwork.folder / WEIGHTS_FILE
    if not facts_path.is_file() or not weights_path.is_file():
        return None
    try:
        facts = json.loads(facts_path.read_text("utf-8"))
        if facts["version"] != VERSION or facts["data"] != artwork.digest or facts["kinds"] != _codes(artwork):
            return None
        tensors = load_file(weights_path)
        gallery = tensors.pop("gallery")
        network = JudgeNetwork(len(facts["kinds"]), len(facts["styles"]))
        network.load_state_dict(tensors)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise damaged(weights_path, FACTS_FILE, error) from error
    return Judge(_ready(network), tuple(facts["kinds"]), tuple(facts["styles"]), gallery, facts)


def _codes(artwork: Artwork) -> list[str]:
    return [kind.hexcode for kind in artwork.kinds]


def _ready(network: JudgeNetwork) -> JudgeNetwork:
    return network.eval().requires_grad_(False)


def train_judge(artwork: Artwork, on_progress: OnProgress, steps: int, blind_steps: int) -> Judge:
    """Trains the judge, then one that never saw held-out pairs; examines both and keeps the first."""
    began = time.process_time()
    truth = gather(artwork, on_progress)
    network = _trained(truth, artwork, steps, 0, on_progress, "judge")
    pairs = held_out_pairs(artwork)
    blind = _trained(truth.without(_indices(artwork, pairs)), artwork, blind_steps, 1, on_progress, "blind judge")
    facts: dict[str, Any] = {
        "version": VERSION,
        "data": artwork.digest,
        "parameters": sum(p.numel() for p in network.parameters()),
        "steps": steps,
        "blind steps": blind_steps,
        "batch": BATCH,
        "accuracy": _examined(artwork, network, pairs),
        "blind accuracy": _examined(artwork, blind, pairs),
        "processor seconds": round(time.process_time() - began),
        "styles": list(artwork.styles),
        "kinds": _codes(artwork),
    }
    judge = Judge(_ready(network), tuple(facts["kinds"]), artwork.styles, torch.zeros(0), facts)
    gallery = _gallery(truth, judge)
    judge = replace(judge, gallery=gallery)
    tensors = {name: value.contiguous() for name, value in network.state_dict().items()} | {"gallery": gallery}
    try:
        write_whole(artwork.folder / WEIGHTS_FILE, save(tensors))
        write_whole(artwork.folder / FACTS_FILE, json.dumps(facts, ensure_ascii=False, indent=1).encode())
    except BimoError as error:
        print(say("the judge is not kept: {error}", error=error))
    return judge


def held_out_pairs(artwork: Artwork) -> list[tuple[str, str]]:
    """The (kind, style) pairs of ``held_out.json`` of which there is a true picture. Raises DataError."""
    path = artwork.folder / "held_out.json"
    kinds = {kind.hexcode: kind for kind in artwork.kinds}
    try:
        pairs = [(str(kind), str(style)) for kind, style in json.loads(path.read_text("utf-8"))["styles"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError("{path} cannot be read: {error}. Build the data again", path=path, error=error) from error
    return [(kind, style) for kind, style in pairs if kind in kinds and artwork.exists(kinds[kind], style)]


def _indices(artwork: Artwork, pairs: Sequence[tuple[str, str]]) -> frozenset[tuple[int, int]]:
    number = {code: index for index, code in enumerate(_codes(artwork))}
    return frozenset((number[kind], artwork.styles.index(style)) for kind, style in pairs)


def _trained(
    truth: Truth, artwork: Artwork, steps: int, seed: int, on_progress: OnProgress, title: str
) -> JudgeNetwork:
    """Cross-entropies of kind and style."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = JudgeNetwork(len(artwork.kinds), len(artwork.styles))
    generator = torch.Generator().manual_seed(seed)

    def loss() -> Tensor:
        pixels, kinds, styles = training_batch(truth, BATCH, generator)
        kind, style, _ = network(pixels)
        wrong = nn.functional.cross_entropy(kind, kinds, label_smoothing=SMOOTHING)
        return wrong + nn.functional.cross_entropy(style, styles)

    fit(network, INNER, OTHER_RATE, steps, loss, on_progress, title)
    return network.eval()


def fit(
    network: nn.Module,
    inner: tuple[str, ...],
    rate: float,
    steps: int,
    loss: Callable[[], Tensor],
    on_progress: OnProgress,
    title: str,
) -> None:
    """Steps down ``loss``: matrices of the parameters that begin with ``inner`` by `Orthogonal`, all else by AdamW at
    ``rate``; both rates rise over a tenth of the steps and fall to zero over the last four fifths.
    """
    matrices = [p for n, p in network.named_parameters() if n.startswith(inner) and p.ndim > 1]
    others = [p for n, p in network.named_parameters() if not n.startswith(inner) or p.ndim == 1]
    optimisers = [Orthogonal(matrices, MATRIX_RATE), torch.optim.AdamW(others, lr=rate, weight_decay=0.01)]

    def share(step: int) -> float:
        return min(1.0, (step + 1) / (0.1 * steps)) * min(1.0, (1 - step / steps) / 0.8)

    schedulers = [torch.optim.lr_scheduler.LambdaLR(each, share) for each in optimisers]
    for step in range(steps):
        value = loss()
        network.zero_grad(set_to_none=True)
        value.backward()
        for each in (*optimisers, *schedulers):
            each.step()
        on_progress(f"{title}, loss {float(value.detach()):.2f}", step + 1, steps)


def damaged(weights: Path, facts: str, error: Exception) -> DataError:
    """What is raised where a judge that was kept cannot be read."""
    return DataError(
        "the judge {weights_path} cannot be read: {error}. Delete it and {facts_file}; it is trained again",
        weights_path=weights,
        error=error,
        facts_file=facts,
    )


def _gallery(truth: Truth, judge: Judge) -> Tensor:
    """Embeddings of true pictures at rest, half [S, K, D]."""
    gallery = torch.zeros(len(judge.styles), len(judge.kinds), WIDTH, dtype=torch.half)
    for pool in (truth.sprites, truth.canvases):
        for first in range(0, len(pool.kind), 256):
            rows = slice(first, first + 256)
            part = pool.pixels[rows]
            if part.shape[-1] == 4:
                part = part[..., :3] + (255 - part[..., 3:])
            embedding = torch.from_numpy(judge.see(part).embedding)
            gallery[torch.from_numpy(pool.style[rows]), torch.from_numpy(pool.kind[rows])] = embedding.half()
    return gallery


def _examined(artwork: Artwork, network: JudgeNetwork, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Shares right on true pictures in new poses: overall, by style, and on the held-out pairs."""
    rng = random.Random(3)
    kinds = {kind.hexcode: kind for kind in artwork.kinds}
    withheld = set(pairs)
    asked: list[tuple[str, str]] = []
    for style in artwork.styles:
        every = [(kind.hexcode, style) for kind in artwork.kinds if artwork.exists(kind, style)]
        there = [pair for pair in every if pair not in withheld]
        asked += rng.sample(there, min(len(there), EXAMINED["effect" if style in EFFECTS else "drawn"]))
    unseen = rng.sample(list(pairs), min(len(pairs), EXAMINED["held out"]))
    judge = Judge(network, tuple(_codes(artwork)), artwork.styles, torch.zeros(0), {})
    numbers: dict[str, Any] = {}
    for name, group in (("overall", asked), ("held out", unseen)):
        seen = judge.see(examination(artwork, [(kinds[kind], style) for kind, style in group], 5))
        if not group:
            continue
        index = np.array([judge.kinds.index(kind) for kind, _ in group])
        style = np.array([judge.styles.index(s) for _, s in group])
        first, five, right = seen.kinds[:, 0] == index, (seen.kinds == index[:, None]).any(1), seen.style == style
        numbers[name] = _shares(first, five, right)
        every = {s: style == number for number, s in enumerate(judge.styles)}
        parts = {s: rows for s, rows in every.items() if rows.any()}
        numbers[f"{name} by style"] = {s: _shares(first[rows], five[rows], right[rows]) for s, rows in parts.items()}
    return numbers


def _shares(first: np.ndarray, five: np.ndarray, style: np.ndarray) -> dict[str, float]:
    return {
        "n": len(first),
        "kind top-1": round(float(first.mean()), 4),
        "kind top-5": round(float(five.mean()), 4),
        "style": round(float(style.mean()), 4),
        "both": round(float((first & style).mean()), 4),
    }
