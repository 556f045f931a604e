"""AND, prompt editing and chunks reach the denoiser: each against what is worked out by hand or by plain prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy
import pytest
import torch
from PIL import Image

from bimo.core.errors import RequestError
from bimo.core.recipe import Guidance
from bimo.core.request import Request
from bimo.core.tensors import TextEncoding
from bimo.diffusion import guidance, prompt_weighting
from bimo.diffusion.explanation import explained
from bimo.diffusion.preparation import prepare
from bimo.diffusion.system import System
from bimo.models.layouts.diffusers_folder import read_folder
from bimo.prompts.weighting import emphasis
from bimo.recipes.z_image import z_image
from tests.support.drawing import draw
from tests.support.plain_text_encoder import PlainTextEncoder
from tests.support.tiny_checkpoints import checkpoint

SCHEDULE: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
REQUEST: dict[str, Any] = {"seed": 3, "steps": 4, "guidance": 3.0, "size": (64, 64), "spacing": "trailing"}


@pytest.fixture(scope="module", params=["clip", "bert"])
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> System:
    place = tmp_path_factory.mktemp("sd") / "saved"
    schedule = diffusers.DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    checkpoint(place, request.param, schedule)
    return read_folder(place)


def drawn(system: System, text: str, **settings: Any) -> Image.Image:
    return draw(system, {**REQUEST, "text": text, **settings})[0].image


def apart(one: Image.Image, other: Image.Image) -> float:
    return float(numpy.abs(numpy.asarray(one, dtype=float) - numpy.asarray(other, dtype=float)).max())


def test_the_step_of_an_edit_is_the_last_of_what_stood_before(system: System) -> None:
    red, cat = drawn(system, "red"), drawn(system, "cat")
    assert apart(red, cat) > 2
    assert drawn(system, "[red:cat:4]").tobytes() == red.tobytes()
    assert drawn(system, "[red:cat:0]").tobytes() == cat.tobytes()
    half = drawn(system, "[red:cat:0.5]")
    assert half.tobytes() == drawn(system, "[red:cat:2]").tobytes()
    assert apart(half, red) > 0
    assert apart(half, cat) > 0
    assert drawn(system, "[red|red]").tobytes() == red.tobytes()
    assert drawn(system, "[red|cat|cat|cat]").tobytes() == drawn(system, "[red:cat:1]").tobytes()


def test_a_negative_prompt_is_edited_as_well(system: System) -> None:
    assert drawn(system, "red", negative="[cat:a:4]").tobytes() == drawn(system, "red", negative="cat").tobytes()
    assert apart(drawn(system, "red", negative="[cat:a:2]"), drawn(system, "red", negative="cat")) > 0


def test_and_adds_what_each_prompt_says_beyond_the_empty_one(system: System) -> None:
    # Of one prompt twice it is twice the guidance, of a weight its share, whatever stands first.
    assert apart(drawn(system, "red AND red"), drawn(system, "red", guidance=6.0)) <= 1
    assert apart(drawn(system, "red :0.5 AND red :0.5"), drawn(system, "red")) <= 1
    assert apart(drawn(system, "red AND cat"), drawn(system, "cat AND red")) <= 1
    assert apart(drawn(system, "red AND cat"), drawn(system, "red")) > 1
    with pytest.raises(RequestError, match="guidance_every"):
        drawn(system, "red AND cat", guidance_every=2)


def test_joined_answers_are_those_of_the_equation() -> None:
    null, one, other, branch = torch.randn(4, 1, 2, 3, 3, generator=torch.Generator().manual_seed(1))
    answer = torch.cat([null, one, branch, other])
    found = guidance.join(Guidance(scale=2.0), answer, 3, (1.0, 0.5))
    torch.testing.assert_close(found, torch.cat([null, null + (one - null) + 0.5 * (other - null), branch]))


def test_chunks_stand_side_by_side_and_the_shorter_prompt_is_filled_up(system: System) -> None:
    (both,) = system.encode(["red cat", "a"])
    (empty,) = system.encode([""])
    prompts = [emphasis("red cat BREAK a"), emphasis("a")]
    ((found,), _) = prompt_weighting.encoded(system, prompts, chunked=True)
    expected = torch.stack([torch.cat([both.tokens[0], both.tokens[1]]), torch.cat([both.tokens[1], empty.tokens[0]])])
    torch.testing.assert_close(found.tokens, expected)


def test_a_long_prompt_is_cut_and_said_or_read_in_chunks(system: System) -> None:
    words = "red cat " * 20
    cut = prepare(system, {**REQUEST, "text": words})
    whole = prepare(system, {**REQUEST, "text": words, "long_prompt": "chunks"})
    assert len(cut.warnings) == 1
    assert whole.warnings == ()
    # Three chunks of CLIP's 14 tokens and two marks, two of BERT's 22.
    assert whole.prompt[0].tokens.shape[1] == 48
    reading = explained(system, {**REQUEST, "text": words, "long_prompt": "chunks"}).prompts[0].readings[0]
    assert sum(len(chunk) for chunk in reading.chunks) >= 40
    assert explained(system, {**REQUEST, "text": words}).prompts[0].readings[0].lost


def test_a_transformer_reads_no_chunks_and_says_so() -> None:
    class Plain(PlainTextEncoder):
        def encode(self, texts: Sequence[str], skip: int = 0) -> TextEncoding:
            return TextEncoding(torch.ones(len(texts), 2, 4))

    tiny = System(z_image.tiny())
    tiny.text[0] = Plain()
    with pytest.raises(RequestError, match="long_prompt"):
        prompt_weighting.chunked(tiny, Request(text="a", long_prompt="chunks"))
    assert not prompt_weighting.chunked(tiny, Request(text="a BREAK b"))


def test_an_explanation_names_weights_and_protected_text(system: System) -> None:
    found = explained(system, {**REQUEST, "text": "(red:1.5) cat “a” [a:cat:0.5]<lora:x:0.5>"} | {})
    assert found.protected == ("a",)
    assert [(tag.name, tag.weight.value) for tag in found.loras] == [("x", 0.5)]
    assert [prompt.until for prompt in found.prompts] == [2, 4]
    tokens = found.prompts[0].readings[0].chunks[0]
    assert {token.weight for token in tokens} == {1.0, 1.5}


def test_an_adapter_that_is_not_attached_is_said(system: System, tmp_path: Path) -> None:
    from bimo.core.lora_weight import LoraWeight
    from bimo.engine.adapters import of_prompt
    from bimo.prompts.a1111 import LoraTag

    with pytest.raises(RequestError, match=r"ink.*not attached"):
        drawn(system, "red <lora:ink:0.8>")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "ink.safetensors").write_bytes(b"")
    assert of_prompt([LoraTag("ink", LoraWeight(0.8))], tmp_path) == (
        (tmp_path / "below" / "ink.safetensors", LoraWeight(0.8)),
    )
    for name in ("../ink", "inc", str(tmp_path / "below" / "ink")):
        with pytest.raises(RequestError, match="no LoRA"):
            of_prompt([LoraTag(name)], tmp_path)
    with pytest.raises(RequestError, match="--lora-folder"):
        of_prompt([LoraTag("ink")], None)
