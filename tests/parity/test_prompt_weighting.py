"""（词：1.5） moves the tokens of the words alone, away from the empty prompt, as ComfyUI weighs its towers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy
import pytest
import torch

from bimo.core.messages import say
from bimo.diffusion import prompt_weighting
from bimo.diffusion.preparation import prepare
from bimo.diffusion.system import System
from bimo.models.layouts.diffusers_folder import read_folder
from bimo.prompts.weighting import emphasis
from bimo.recipes.z_image import z_image
from tests.parity.test_stable_diffusion import SCHEDULE
from tests.support.chinese_checkpoints import published
from tests.support.comparison import compare
from tests.support.drawing import draw
from tests.support.plain_text_encoder import PlainTextEncoder
from tests.support.tiny_checkpoints import checkpoint, read_by_diffusers

REQUEST: dict[str, Any] = {"seed": 3, "steps": 5, "guidance": 7.5, "size": (64, 64)}


def weighed(tokens: torch.Tensor, empty: torch.Tensor, weights: dict[int, float]) -> torch.Tensor:
    """The law in three lines: away from the empty prompt, place by place."""
    moved = tokens.clone()
    for place, weight in weights.items():
        moved[:, place] = empty[:, place] + weight * (tokens[:, place] - empty[:, place])
    return moved


@pytest.mark.parametrize(
    ("kind", "prompt", "plain", "places"),
    [
        # [CLS] 一 只 红 苹 果 ...; <start> a red cat ...
        ("bert", "一只（红：1.5）苹果", "一只红苹果", {3: 1.5}),
        ("bert", "(一只(红苹果:0.5):1.5)", "一只红苹果", {1: 1.5, 2: 1.5, 3: 0.75, 4: 0.75, 5: 0.75}),
    ],
)
def test_weighed_words_draw_as_weighed_embeddings_do(
    tmp_path: Path, kind: Any, prompt: str, plain: str, places: dict[int, float]
) -> None:
    scheduler = diffusers.DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    checkpoint(tmp_path / "saved", kind, scheduler)
    pipeline = read_by_diffusers(tmp_path / "saved")
    given, null = pipeline.encode_prompt(plain, torch.device("cpu"), 1, True)
    drawn: Any = pipeline(
        prompt_embeds=weighed(given, null, places),
        negative_prompt_embeds=null,
        width=64,
        height=64,
        num_inference_steps=5,
        guidance_scale=7.5,
        generator=torch.Generator().manual_seed(3),
    )
    system = read_folder(tmp_path / "saved")
    expected = [numpy.asarray(image) for image in drawn.images]
    compare(draw(system, {"text": prompt, **REQUEST}), expected)
    with pytest.raises(AssertionError):
        compare(draw(system, {"text": plain, **REQUEST}), expected)


@pytest.mark.parametrize("row", ["damo", "pai", "altdiffusion", "skypaint"])
def test_text_encoders_of_one_token_a_place_are_weighed_where_the_word_stands(tmp_path: Path, row: str) -> None:
    system = read_folder(published(tmp_path / row, row).folder)
    (both,) = system.encode(["红苹果", ""])
    plain, empty = both.tokens[:1], both.tokens[1:]
    ((found,), warnings) = prompt_weighting.encoded(system, [emphasis("红（苹果：2）")])
    assert not warnings
    tower = system.text_encoders[0]
    first, last = (tower.budget(text).used - tower.budget("").used + 1 for text in ("红", "红苹果"))
    torch.testing.assert_close(found.tokens, weighed(plain, empty, dict.fromkeys(range(first, last), 2.0)))


def test_a_system_that_cannot_weigh_says_so_and_draws_the_plain_words() -> None:
    class Chat(PlainTextEncoder):
        def encode(self, texts: Any, skip: int = 0) -> Any:
            from bimo.core.tensors import TextEncoding

            return TextEncoding(torch.ones(len(texts), 2, 4))

    system = System(z_image.tiny())
    system.text[0] = Chat()
    plain, warnings = prompt_weighting.encoded(system, [emphasis("红（苹果：2）")])
    assert torch.equal(plain[0].tokens, torch.ones(1, 2, 4))
    assert warnings == (say("the text encoder of this system cannot weigh words: (word:1.3) changed nothing"),)


def test_what_is_lost_is_counted_without_the_marks(tmp_path: Path) -> None:
    scheduler = diffusers.DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    checkpoint(tmp_path / "saved", "bert", scheduler)
    system = read_folder(tmp_path / "saved")
    limit = system.text_encoders[0].budget("").limit
    fits = "红" * (limit - 2)
    enough = {**REQUEST, "steps": 8}
    assert prepare(system, {"text": f"（{fits}：1.2）", **enough}).warnings == ()
    assert len(prepare(system, {"text": f"（{fits}红：1.2）", **enough}).warnings) == 1
