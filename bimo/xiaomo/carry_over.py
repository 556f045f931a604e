"""Initialises the second edition from the first: its text encoder and first level, widened to the new shapes.

A network is widened without changing its function (arXiv:1511.05641, section 2.2): new feature maps keep their
initialisation, and nothing that existed reads them. As the latents differ, the last convolution is fitted anew, by
ridge regression on the latents of pictures of one object.
"""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from bimo.core.errors import TrainingError
from bimo.core.tensors import Conditioning
from bimo.data.loader import Pictures
from bimo.diffusion.system import System
from bimo.models.text_encoders.bert import BertTextEncoder
from bimo.xiaomo.conditioners import POSE_AT_REST
from bimo.xiaomo.first_level import ExpectedDenoiser
from bimo.xiaomo.style_operator import RestyledDenoiser

LEVEL = "expected"
CONTENT = "expected.denoiser.content."
#: The last convolution of the first level, whose output are latents.
LAST = "mix.5."
WORDS = "text.0.model.embeddings.word_embeddings.weight"
POSITIONS = "text.0.model.embeddings.position_embeddings.weight"
#: The type of canvases with a single object, on which the first level is most accurate.
SINGLE = "single"
BATCH = 64
#: Relative to the mean of the squared features.
RIDGE = 1e-4


def carried_over(first: System, second: System, pictures: Pictures, count: int = 6000) -> dict[str, Tensor]:
    """The tensors of ``second``, whose vocabulary is built, that are initialised from ``first``. ``count`` pictures of
    one object are used to fit the last convolution.

    Raises TrainingError for systems of other shapes, and if there are no pictures of one object.
    """
    content, state = _content(second), second.state_dict()
    carried = _words(first, second, state) | _widened(first, _content(first), state)
    second.load_state_dict(carried, strict=False)
    return carried | _last_layer(second, content, pictures, count)


def _content(system: System) -> ExpectedDenoiser:
    denoiser = system.level(LEVEL).denoiser
    content = denoiser.content if isinstance(denoiser, RestyledDenoiser) else denoiser
    if not isinstance(content, ExpectedDenoiser) or content.layers is None:
        raise TrainingError("{name} has no first level with layers to begin from", name=system.recipe.name)
    return content


def _words(first: System, second: System, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The text encoder; a new word is initialised with the mean of its tokens in the old vocabulary."""
    old_state = first.state_dict()
    carried = {n: v for n, v in old_state.items() if n.startswith("text.") and v.shape == state[n].shape}
    old, new = (cast(BertTextEncoder, system.text_encoders[0]) for system in (first, second))
    places: Mapping[str, int] = old.tokenizer.get_vocab()
    unknown = places["[UNK]"]
    table, words = old_state[WORDS], state[WORDS].clone()
    for word, place in cast("Mapping[str, int]", new.tokenizer.get_vocab()).items():
        if word in places:
            words[place] = table[places[word]]
            continue
        pieces = [piece for piece in cast("Sequence[int]", old.tokens(word).ids)[1:-1] if piece != unknown]
        if pieces:
            words[place] = table[pieces].mean(0)
    positions = state[POSITIONS].clone()
    positions[: len(old_state[POSITIONS])] = old_state[POSITIONS]
    return carried | {WORDS: words, POSITIONS: positions}


def _widened(first: System, old: ExpectedDenoiser, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The first level's tensors; in larger ones the old tensor is the first block, and does not read the rest."""
    carried: dict[str, Tensor] = {}
    for name, value in old.state_dict().items():
        if name.startswith(LAST):
            continue
        wide = state[CONTENT + name].clone()
        if any(own < theirs for own, theirs in zip(wide.shape, value.shape, strict=True)):
            raise TrainingError(
                "{name} of {system} is {shape}, larger than the second edition's {wide}",
                name=name,
                system=first.recipe.name,
                shape=tuple(value.shape),
                wide=tuple(wide.shape),
            )
        rows = len(value)
        wide[:rows] = 0
        wide[tuple(slice(0, size) for size in value.shape)] = value
        carried[CONTENT + name] = wide
    return carried


@torch.inference_mode()
def _last_layer(second: System, content: ExpectedDenoiser, pictures: Pictures, count: int) -> dict[str, Tensor]:
    """The last convolution by ridge regression of the latents of pictures on its input features."""
    space = second.space(LEVEL)
    last = cast(nn.Conv2d, content.get_submodule(LAST[:-1]))
    rows = [row for row, labels in enumerate(pictures.labels) if labels.get("type") == SINGLE][:count]
    if not rows:
        raise TrainingError("no picture of {folder} is of one thing", folder=pictures.folders[0])
    side = content.part.size
    still = torch.tensor([POSE_AT_REST] * len(pictures))
    poses = still if pictures.poses is None else torch.where(pictures.poses.isnan(), still, pictures.poses)
    fitted = pictures.fitted((space.factor * side, space.factor * side))
    features: list[Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    size = last.in_channels * 9 + 1
    squares, products = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, last.out_channels).double()
    try:
        for begin in range(0, len(rows), BATCH):
            some = rows[begin : begin + BATCH]
            latents = space.encode(fitted.pixels(some, keep=False))
            encodings = second.encode([pictures.captions[row][0] for row in some])
            no_boxes = torch.zeros(len(some), content.part.spatial, side, side)
            conditions = [Conditioning(spatial=no_boxes), Conditioning(scalars={content.part.pose: poses[some]})]
            features.clear()
            content(latents, torch.ones(len(some)), second.condition(encodings, conditions))
            x = nn.functional.unfold(features[0], 3, padding=1).transpose(1, 2).flatten(0, 1).double()
            x = torch.cat([x, torch.ones(len(x), 1).double()], dim=1)
            y = latents.flatten(2).transpose(1, 2).flatten(0, 1).double()
            squares += x.T @ x
            products += x.T @ y
    finally:
        hook.remove()
    ridge = RIDGE * squares.diagonal().mean() * torch.eye(size).double()
    solved = torch.linalg.solve(squares + ridge, products).float()
    names = f"{CONTENT}{LAST}weight", f"{CONTENT}{LAST}bias"
    return dict(zip(names, (solved[:-1].T.reshape(last.weight.shape).contiguous(), solved[-1]), strict=True))
