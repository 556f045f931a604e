"""A drawing is a coroutine: the same alone and among others, at any size and step, stopped at any time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from bimo.core.errors import RequestError
from bimo.core.part import Part
from bimo.core.picture import Picture
from bimo.core.recipe import Defaults, Guidance, Level, Recipe
from bimo.core.tensors import Conditioning, DenoiserInput, TextEncoding
from bimo.diffusion.batching import denoise_together, run_batched
from bimo.diffusion.denoiser import Denoiser
from bimo.diffusion.image_inputs import to_image
from bimo.diffusion.preparation import prepare
from bimo.diffusion.request_filling import fill_request
from bimo.diffusion.sampling import sample
from bimo.diffusion.schedules.ddpm import Ddpm
from bimo.diffusion.schedules.flow import Flow
from bimo.diffusion.schedules.single_step import SingleStepRegression
from bimo.diffusion.space import Space
from bimo.diffusion.system import System
from bimo.prompts.token_budget import Budget
from tests.support.drawing import draw
from tests.support.plain_text_encoder import PlainTextEncoder


@dataclass(frozen=True, kw_only=True)
class Letters(Part):
    """A tower whose tokens are the code points; ``length`` 0 is as long as the longest text, hidden beyond each."""

    length: int = 8

    def build(self) -> LettersTower:
        return LettersTower(self)


class LettersTower(PlainTextEncoder):
    def __init__(self, part: Letters) -> None:
        super().__init__()
        self.part = part
        self.calls: list[list[str]] = []

    def encode(self, texts: Sequence[str], skip: int = 0) -> TextEncoding:
        self.calls.append(list(texts))
        length = self.part.length or max(1, *map(len, texts))
        tokens = torch.zeros(len(texts), length, 4)
        mask = torch.zeros(len(texts), length, dtype=torch.bool)
        mask[:, 0] = True
        for row, text in enumerate(texts):
            for at, letter in enumerate(text[:length]):
                tokens[row, at] = torch.tensor([(ord(letter) % p) / p for p in (7, 11, 13, 17)])
                mask[row, at] = True
        return TextEncoding(tokens, None if self.part.length else mask)

    def budget(self, text: str) -> Budget:
        limit = self.part.length or 100
        return Budget(len(text), limit, text[limit:])


@dataclass(frozen=True, kw_only=True)
class Squares(Part):
    """A space whose positions are squares of 2 x 2 pixels."""

    def build(self) -> SquaresSpace:
        return SquaresSpace()


class SquaresSpace(Space):
    channels, factor = 3, 2

    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return nn.functional.avg_pool2d(pixels, 2)

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        return 3, size[1] // 2, size[0] // 2

    def decode(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(x, scale_factor=2.0)


@dataclass(frozen=True, kw_only=True)
class Mixer(Part):
    """A denoiser that heeds x, t and the words."""

    def build(self) -> MixerDenoiser:
        return MixerDenoiser()


class MixerDenoiser(Denoiser):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 3, 3, padding=1)
        self.words = nn.Linear(4, 3)
        self.rows: list[int] = []

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        self.rows.append(len(x))
        stream = conditioning.streams[0]
        mask = torch.ones(stream.tokens.shape[:2]) if stream.mask is None else stream.mask.float()
        told = (stream.tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return torch.tanh(self.mix(x) + self.words(told)[..., None, None]) * (0.5 + t[:, None, None, None] / 2000)


def built(*levels: Level, length: int = 8) -> System:
    torch.manual_seed(0)
    recipe = Recipe(
        name="toy", text_encoders=(Letters(length=length),), levels=levels, request=Defaults(size=(16, 16), steps=4)
    )
    return System(recipe).eval()


def level(**fields: Any) -> Level:
    return Level(**{"name": "image", "space": Squares(), "denoiser": Mixer(), "schedule": Ddpm(), **fields})


LEVELS = {
    "ddim": (level(sampler="ddim"),),
    "pndm": (level(sampler="pndm"),),
    "euler": (level(sampler="euler"),),
    "euler-a": (level(sampler="euler-a"),),
    "dpm++": (level(sampler="dpm++"),),
    "flow": (level(schedule=Flow()),),
    "guidance in the middle": (level(sampler="ddim", guidance=Guidance(interval=(0.3, 0.7), rescale=0.5)),),
    "null of zeros": (level(sampler="ddim", guidance=Guidance(unconditional="zeros")),),
    "two levels": (
        level(name="first", schedule=SingleStepRegression(), steps=1, guidance=Guidance(scale=1.0)),
        level(space="first"),
    ),
}


def pixels(picture: Picture) -> numpy.ndarray:
    return numpy.asarray(picture.image).astype(int)


def latents(system: System, requests: list[dict[str, Any]]) -> list[Tensor]:
    """The decoded pictures as floats, drawn together."""
    kept: list[Tensor] = []
    space: Any = system.space(system.recipe.levels[-1].name)
    own = space.decode
    space.decode = lambda x: kept.append(own(x)) or kept[-1]
    try:
        pictures = run_batched(
            system, [sample(system, prepare(system, r), r.get("index", 0)) for r in map(dict, requests)]
        )
    finally:
        del space.decode
    # Decoded in the order of ending: put back by what was drawn.
    by_image = [(to_image(value[0]).tobytes(), value) for value in kept]
    found: list[Tensor] = []
    for picture in pictures:
        at = next(i for i, (data, _) in enumerate(by_image) if data == picture.image.tobytes())
        found.append(by_image.pop(at)[1])
    return found


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize("length", [8, 0])
def test_a_picture_is_the_same_alone_and_in_a_batch(name: str, length: int) -> None:
    system = built(*LEVELS[name], length=length)
    requests: list[dict[str, Any]] = [
        {"text": "红苹果", "seed": 1},
        {"text": "小桥流水", "seed": 2, "steps": 7, "negative": "猫"},
        {"text": "a", "seed": 3, "guidance": 1.0},
        {"text": "山水", "seed": 1, "size": (24, 8), "steps": 2},
    ]
    together = latents(system, requests)
    for request, value in zip(requests, together, strict=True):
        assert torch.allclose(latents(system, [request])[0], value, atol=1e-5)


def test_drawings_of_one_size_share_calls_and_join_and_leave() -> None:
    system = built(*LEVELS["ddim"])
    denoiser: Any = system.level("image").denoiser
    requests = [{"text": "a", "seed": 1, "steps": 2}, {"text": "b", "seed": 2, "steps": 5}]
    run_batched(system, [sample(system, prepare(system, request)) for request in requests])
    assert denoiser.rows == [4, 4, 2, 2, 2]

    # By hand: a second drawing joins after the first has taken two steps.
    first, second = (sample(system, prepare(system, request)) for request in (requests[1], requests[0]))
    pictures: list[Picture] = []
    asks: dict[Any, DenoiserInput] = {}
    with torch.inference_mode():
        asks[first] = next(first)
        for step in range(8):
            if step == 2:
                asks[second] = next(second)
            current = list(asks)
            for painting, answer in zip(current, denoise_together(system, [asks[p] for p in current]), strict=True):
                try:
                    asks[painting] = painting.send(answer)
                except StopIteration as stop:
                    del asks[painting]
                    pictures.append(stop.value)
            if not asks:
                break
    alone = [draw(system, request)[0] for request in requests]
    assert len(pictures) == 2
    for picture in pictures:
        match = next(p for p in alone if p.seed == picture.seed)
        assert numpy.abs(pixels(picture) - pixels(match)).max() <= 1


@pytest.mark.parametrize(("name", "sigma"), [("ddim", 1.0), ("flow", 1.0)])
def test_first_noise_is_that_of_the_seeded_generator(name: str, sigma: float) -> None:
    system = built(*LEVELS[name])
    prepared = prepare(system, {"text": "a", "seed": 40, "count": 3})
    for index in range(3):
        denoiser_input = next(sample(system, prepared, index))
        noise = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(40 + index))
        assert torch.equal(denoiser_input.x, (noise * sigma).expand(2, -1, -1, -1))
        assert (denoiser_input.step, denoiser_input.steps) == (0, 4)


def test_the_second_picture_is_that_of_the_next_seed() -> None:
    system = built(*LEVELS["pndm"])
    two = draw(system, "红", seed=5, count=2)
    assert [p.seed for p in two] == [5, 6]
    assert draw(system, "红", seed=6)[0].image.tobytes() == two[1].image.tobytes()
    assert draw(system, two[1].metadata()["request"])[0].image.tobytes() == two[1].image.tobytes()
    assert two[0].image.tobytes() != two[1].image.tobytes()


def test_words_are_encoded_once_for_all_pictures() -> None:
    system = built(*LEVELS["ddim"])
    draw(system, "红", seed=5, count=3, negative="蓝")
    tower: Any = system.text[0]
    assert tower.calls == [["蓝", "红"]]


def test_closing_a_drawing_cancels_it() -> None:
    system = built(*LEVELS["ddim"])
    painting = sample(system, prepare(system, {"text": "a", "seed": 1}))
    denoiser_input = next(painting)
    with torch.inference_mode():
        painting.send(system.denoise(denoiser_input))
    painting.close()
    with pytest.raises(StopIteration):
        next(painting)


def test_progress_counts_and_may_cancel() -> None:
    system = built(*LEVELS["ddim"])
    reported: list[tuple[int, int, int, int]] = []
    draw(system, "a", seed=1, count=2, progress=lambda *seen: reported.append(seen))
    assert reported == [(picture, 2, step, 4) for picture in range(2) for step in range(4)]

    def stop(picture: int, count: int, step: int, steps: int) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(system, "a", seed=1, progress=stop)


def test_a_request_is_filled_from_the_recipe() -> None:
    system = built(level(sampler="ddim", guidance=Guidance(scale=3.0)))
    request = fill_request(system, {"text": "a"}).request
    assert (request.size, request.steps, request.guidance, request.sampler) == ((16, 16), 4, 3.0, "ddim")
    assert request.seed is not None
    system.recipe = replace(system.recipe, request=Defaults(size=(8, 8), guidance=9.0, negative="b"))
    request = fill_request(system, {"text": "a", "guidance": 0.0}).request
    assert (request.size, request.steps, request.guidance, request.negative) == ((8, 8), 20, 0.0, "b")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"text": " "}, "empty"),
        ({"text": "a", "size": (15, 16)}, "multiple of 2; use 14 or 16"),
        ({"text": "a", "size": (1, 16)}, "use 2 or 4"),
        ({"text": "a", "steps": 0}, "steps"),
        ({"text": "a", "sampler": "ddmi"}, "did you mean ddpm, ddim"),
        ({"text": "a", "stesp": 3}, "stesp"),
        ({"text": "a", "guidance": float("nan")}, "guidance"),
    ],
)
def test_invalid_requests_are_reported(request_: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as raised:
        draw(built(*LEVELS["ddim"]), request_)
    assert message in raised.value.en


def test_lost_text_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIMO_LANGUAGE", "en")
    picture = draw(built(*LEVELS["ddim"]), "一二三四五六七八九十", seed=1)[0]
    assert any("九十" in warning for warning in picture.warnings)
    assert not draw(built(*LEVELS["ddim"]), "一二", seed=1, steps=8)[0].warnings


def test_bytes_of_an_image_are_rounded() -> None:
    values = torch.tensor([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0])
    image = to_image(values.expand(3, 1, -1))
    assert numpy.asarray(image)[0, :, 0].tolist() == [0, 0, 128, 191, 255, 255]
