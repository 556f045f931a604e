"""PanGu-Draw v3 has no pipeline in diffusers: each of its ways against a few lines that compute it on their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

from bimo.core import module_weights
from bimo.core.errors import RequestError
from bimo.diffusion.system import System
from bimo.recipes.pangu_draw import BASE_SIZES, HIGH_SIZES, pangu_draw, pangu_draw_high, pangu_unet
from bimo.recipes.taiji_sd import taiji_sd
from bimo.recipes.wukong_inpainting import wukong_inpainting
from tests.support.comparison import compare
from tests.support.drawing import draw
from tests.support.tiny_checkpoints import bert_words, clip_words

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (64, 240)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> System:
    folder = tmp_path_factory.mktemp("words")
    bert_words(folder / "zh")
    clip_words(folder / "en")
    torch.manual_seed(2)
    made = System(pangu_draw.tiny()).eval()
    for tower, name in zip(made.text_encoders, ("zh", "en"), strict=True):
        tower.load_tokenizer(folder / name)
    with torch.no_grad():
        for parameter in made.text.parameters():
            parameter.mul_(2)
    return made


def encoded(system: System, text: str) -> tuple[Tensor, Tensor]:
    """The states of both towers side by side, and the pooled text of the larger."""
    zh: Any = system.text[0]
    en: Any = system.text[1]
    ids = en.ids([text])[0]
    answer = en.model(ids, output_hidden_states=True)
    end = int((ids[0] == en.tokenizer.token_to_id("<|endoftext|>")).int().argmax())
    pooled = en.projection(answer.last_hidden_state[:, end])
    return torch.cat([zh.model(zh.ids([text])[0]).last_hidden_state, answer.hidden_states[-2]], dim=-1), pooled


def place_of(number: int, width: int) -> Tensor:
    """A number as cosines and sines, [1, width]."""
    speeds = numpy.exp(-numpy.log(10000.0) * numpy.arange(width // 2) / (width // 2))
    return torch.tensor(numpy.concatenate([numpy.cos(number * speeds), numpy.sin(number * speeds)]))[None].float()


def answered(unet: Any, x: Tensor, t: float, tokens: Tensor, pooled: Tensor, place: int) -> Tensor:
    """One expert's answer, its embedding of the time added to that of (pooled text, place in the list)."""
    added = unet.add_embedding(torch.cat([pooled, place_of(place, 8)], dim=1))
    hook = unet.add_embedding.register_forward_hook(lambda *_: added)
    # The numbers given here are not read: the hook stands for what they are made into.
    settings = {"text_embeds": pooled, "time_ids": torch.full((1, 1), -1.0)}
    answer = unet(x, t, tokens, added_cond_kwargs=settings).sample
    hook.remove()
    return answer


def by_hand(
    system: System, text: str, branches: dict[str, float], scale: float, steps: int, seed: int, negative: str = ""
) -> numpy.ndarray:
    """Euler's steps from sigma to sigma over the noise of 1000 steps, the guidance a sum of branches."""
    prefixes = {"aesthetic": "義 ", "anime": "饅 ", "photography": "霙 "}
    level: Any = system.level("image")
    place = system.recipe.request.sizes.index(SIZE)
    betas = numpy.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    signal = numpy.cumprod(1 - betas)
    times = [999 - round(1000 / steps * i) for i in range(steps)]
    sigmas = [*(float(((1 - signal[t]) / signal[t]) ** 0.5) for t in times), 0.0]
    given = encoded(system, text)
    null = encoded(system, negative)
    others = [(weight, encoded(system, prefixes[name] + text)) for name, weight in branches.items()]
    x = torch.randn(1, 4, SIZE[1] // 8, SIZE[0] // 8, generator=torch.Generator().manual_seed(seed)) * sigmas[0]
    for t, sigma, following in zip(times, sigmas, sigmas[1:], strict=False):
        expert = (level.denoiser.high if t >= 500 else level.denoiser.low).model
        seen = x / (sigma**2 + 1) ** 0.5
        e, c = (answered(expert, seen, t, *told, place) for told in (null, given))
        noise = e + scale * (c - e)
        for weight, told in others:
            noise = noise + weight * (answered(expert, seen, t, *told, place) - c)
        x = x + noise * (following - sigma)
    pixels = level.space.decode(x)[0]
    return (pixels / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).mul(255).round().to(torch.uint8).numpy()


@pytest.mark.parametrize(
    "branches", [{"aesthetic": 4.0}, {"aesthetic": 0.0}, {"aesthetic": 2.0, "anime": 1.5, "photography": 3.0}]
)
def test_draws_as_computed_by_hand(system: System, branches: dict[str, float]) -> None:
    request = {"text": "一只红苹果", "size": SIZE, "seed": 3, "steps": 4, "guidance": 6.0, "guidance_weights": branches}
    on = {name: weight for name, weight in branches.items() if weight}
    with torch.inference_mode():
        expected = by_hand(system, "一只红苹果", on, 6.0, 4, 3)
    compare(draw(system, request), [expected])


def test_the_negative_prompt_is_read(system: System) -> None:
    request = {
        "text": "红",
        "size": SIZE,
        "seed": 3,
        "steps": 2,
        "guidance": 6.0,
        "guidance_weights": {"aesthetic": 0.0},
    }
    with torch.inference_mode():
        expected = by_hand(system, "红", {}, 6.0, 2, 3, "苹果")
    compare(draw(system, request | {"negative": "苹果"}), [expected])


def test_where_nothing_is_said_beauty_is_asked_for(system: System) -> None:
    request = {"text": "红", "size": SIZE, "seed": 3, "steps": 2}
    plain = draw(system, request)[0].image.tobytes()
    assert plain == draw(system, request | {"guidance_weights": {"aesthetic": 4.0}})[0].image.tobytes()
    assert plain != draw(system, request | {"guidance_weights": {"aesthetic": 0.0}})[0].image.tobytes()


def test_no_other_size_is_drawn(system: System) -> None:
    with pytest.raises(RequestError, match="64x240"):
        draw(system, {"text": "红", "size": (160, 160), "seed": 1, "steps": 1})
    assert (len(BASE_SIZES), len(HIGH_SIZES)) == (11, 10)


def test_full_size() -> None:
    def count(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    with module_weights.unfilled():
        unet = pangu_unet.build()
        systems = [System(recipe) for recipe in (taiji_sd, wukong_inpainting)]
    # Stable Diffusion XL's, whose six numbers are one: five times 256 fewer that a layer of 1280 reads.
    assert count(unet) == 2_567_463_684 - 5 * 256 * 1280
    taiji, wukong = (system.level("image").denoiser for system in systems)
    sd = 859_520_964
    assert count(wukong) == sd + 5 * 320 * 9  # type: ignore[arg-type]
    # Words of another width in 16 layers of attention, and two layers for the pooled text.
    wider = 2 * (1792 - 768) * (5 * 320 + 5 * 640 + 6 * 1280)
    assert count(taiji) == sd + wider + 1024 * 1280 + 1280 + 1280 * 1280 + 1280  # type: ignore[arg-type]
    assert pangu_draw_high.levels[0].denoiser == pangu_draw.levels[0].denoiser


def test_words_of_the_shipped_size_fit(tmp_path: Path) -> None:
    """Both towers answer 77 tokens, 768 and 1280 wide, whatever they are made of."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    with module_weights.unfilled():
        encoders = [part.build() for part in pangu_draw.text_encoders]  # type: ignore[attr-defined]
        config = CLIPTextConfig(
            hidden_size=1280,
            intermediate_size=5120,
            num_hidden_layers=32,
            num_attention_heads=20,
            projection_dim=1280,
            hidden_act="gelu",
        )
        larger = CLIPTextModelWithProjection(config)
    assert (
        sum(p.numel() for p in encoders[1].parameters()) == sum(p.numel() for p in larger.parameters()) == 694_659_840
    )
    layer = 4 * (768 * 768 + 768) + 2 * 768 * 3072 + 3072 + 768 + 4 * 768
    assert sum(p.numel() for p in encoders[0].parameters()) == 123_060_480 - layer
