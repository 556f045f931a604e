"""What the second edition begins as: it reads and answers as the first edition did, in its own shapes and latents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch

from bimo.core.errors import TrainingError
from bimo.core.tensors import Conditioning
from bimo.data.loader import Pictures
from bimo.diffusion.system import System
from bimo.xiaomo.carry_over import BATCH, carried_over
from bimo.xiaomo.first_level import ExpectedDenoiser
from bimo.xiaomo.recipe import xiaomo
from bimo.xiaomo.second_edition import MAPS, xiaomo_2
from bimo.xiaomo.style_operator import Restyled, RestyledDenoiser

pytestmark = pytest.mark.slow

KNOWN = ("红色", "绿色", "方块", "一个")


def systems() -> tuple[System, System]:
    """A tiny first edition, and a second with more words, positions, maps and channels."""
    torch.manual_seed(0)
    first = System(xiaomo.tiny()).eval()
    recipe = xiaomo_2.tiny()
    restyled = recipe.levels[0].denoiser
    assert isinstance(restyled, Restyled)
    wider = replace(restyled, content=replace(restyled.content, maps=12))
    second = System(replace(recipe, levels=(replace(recipe.levels[0], denoiser=wider), *recipe.levels[1:]))).eval()
    first.text_encoders[0].build_tokenizer(("一个红色的方块", "red"), KNOWN)
    second.text_encoders[0].build_tokenizer(("一个红色的方块", "red"), ("月亮", *KNOWN, "红方块"))
    with torch.no_grad():
        for parameter in first.level("expected").denoiser.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return first, second


def features(denoiser: ExpectedDenoiser, system: System, conditions: list[Conditioning], side: int) -> torch.Tensor:
    """What the last convolution reads, [2, maps, h, w]."""
    seen: list[torch.Tensor] = []
    hook = denoiser.mix[-1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    words = system.encode(["一个红色的方块", "绿色的方块"])
    with torch.inference_mode():
        denoiser(torch.zeros(2, denoiser.part.channels, side, side), torch.ones(2), system.condition(words, conditions))
    hook.remove()
    return seen[0]


def test_words_and_maps_are_what_they_were(tiny_shards: Path) -> None:
    first, second = systems()
    second.load_state_dict(carried_over(first, second, Pictures(tiny_shards)), strict=False)
    words = ["一个红色的方块", "red"]
    torch.testing.assert_close(second.encode(words)[0].tokens, first.encode(words)[0].tokens)
    pose = Conditioning(scalars={"pose": torch.tensor([[0.0, 0.9, 0.02, 0.0, 5.0]] * 2)})
    old = cast(ExpectedDenoiser, first.level("expected").denoiser)
    new = cast(RestyledDenoiser, second.level("expected").denoiser).content
    boxes = Conditioning(spatial=torch.zeros(2, MAPS, 16, 16))
    before, after = features(old, first, [pose], 16), features(new, second, [pose, boxes], 16)
    assert after.shape[1] == 12
    torch.testing.assert_close(after[:, : before.shape[1]], before, atol=1e-4, rtol=1e-4)
    # A new word is the mean of what it is made of.
    table = second.text_encoders[0].state_dict()["model.embeddings.word_embeddings.weight"]
    places = cast("dict[str, int]", second.text_encoders[0].tokenizer.get_vocab())  # type: ignore[attr-defined]
    torch.testing.assert_close(table[places["红方块"]], table[[places["红"], places["方块"]]].mean(0))


def test_the_last_convolution_fits_the_latents_better_than_their_mean(tiny_shards: Path) -> None:
    first, second = systems()
    pictures = Pictures(tiny_shards)
    second.load_state_dict(carried_over(first, second, pictures), strict=False)
    rows = list(range(min(BATCH, len(pictures))))
    space = second.space("expected")
    with torch.inference_mode():
        latents = space.encode(pictures.fitted((256, 256)).pixels(rows, keep=False))
        boxes = Conditioning(spatial=torch.zeros(len(rows), MAPS, 16, 16))
        assert pictures.poses is not None
        told = [boxes, Conditioning(scalars={"pose": pictures.poses[rows]})]
        conditioning = second.condition(second.encode([pictures.captions[row][0] for row in rows]), told)
        answer = second.level("expected").denoiser(latents, torch.ones(len(rows)), conditioning)
    error = float((answer - latents).square().mean())
    assert error < 0.8 * float((latents - latents.mean((0, 2, 3), keepdim=True)).square().mean())


@pytest.mark.parametrize(
    ("change", "problem"), [({"things": 0}, "no first level with layers"), ({"maps": 4}, "larger")]
)
def test_other_systems_are_refused(tiny_shards: Path, change: dict[str, int], problem: str) -> None:
    first, second = systems()
    level = second.recipe.levels[0]
    restyled = level.denoiser
    assert isinstance(restyled, Restyled)
    other = replace(restyled, content=replace(restyled.content, **change))
    levels = (replace(level, denoiser=other), *second.recipe.levels[1:])
    strange = System(replace(second.recipe, levels=levels)).eval()
    strange.text_encoders[0].build_tokenizer(("一个红色的方块",), KNOWN)
    with pytest.raises(TrainingError, match=problem):
        carried_over(first, strange, Pictures(tiny_shards))
