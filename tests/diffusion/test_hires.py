"""Large pictures: drawn over larger, seen in windows; by hand the same, counted right, and stopped in between."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy
import pytest
import torch
from PIL import Image

import bimo
from bimo.core.errors import RequestError
from bimo.core.picture import Picture, metadata_of
from bimo.core.request import checked
from bimo.core.tensors import Conditioning, DenoiserInput
from bimo.diffusion.image_inputs import to_image
from bimo.diffusion.sampling import calls, sample, stopped
from bimo.diffusion.windows import Window, predict_in_windows, windows
from bimo.engine.engine import Engine
from bimo.serve.infotext import infotext, request_of
from tests.support.tiny_checkpoints import checkpoint

SCHEDULE: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
REQUEST: dict[str, Any] = {"text": "猫", "size": (64, 48), "steps": 4, "seed": 3}


@pytest.fixture(scope="module")
def engines(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Engine]:
    folder = tmp_path_factory.mktemp("unet")
    checkpoint(folder, "bert", diffusers.DDIMScheduler(**SCHEDULE, clip_sample=False, steps_offset=1))
    return {"unet": bimo.load(folder), "xiaomo": bimo.load(tiny_folder)}


@pytest.mark.parametrize("name", ["unet", "xiaomo"])
def test_hires_is_image_to_image_of_the_enlarged_picture(engines: dict[str, Engine], name: str) -> None:
    engine = engines[name]
    (picture,) = engine.draw(REQUEST, hires=2, hires_strength=0.5)
    larger = engine.draw(REQUEST)[0].image.resize((128, 96), Image.Resampling.LANCZOS)
    (by_hand,) = engine.draw({**REQUEST, "size": (128, 96)}, image=larger, strength=0.5)
    assert picture.image.tobytes() == by_hand.image.tobytes()
    assert picture.request.size == (64, 48)
    record = metadata_of(picture.png())["request"]
    assert engine.draw(record)[0].image.tobytes() == picture.image.tobytes()


def test_sides_are_multiples_and_ways_of_enlarging_differ(engines: dict[str, Engine]) -> None:
    pictures = [
        engines["unet"].draw(REQUEST, hires=1.3, hires_upscaler=way, hires_steps=2, hires_strength=0.6)[0].image
        for way in ("lanczos", "nearest", "latent")
    ]
    assert {one.size for one in pictures} == {(80, 64)}
    assert len({one.tobytes() for one in pictures}) == 3


def asks(engine: Engine, **settings: Any) -> tuple[int, int, Picture]:
    """How many there were, how many were foreseen, and the picture."""
    prepared = engine.prepare(REQUEST, **settings)
    loop = sample(engine.system, prepared)
    with engine.working():
        denoiser_input, count = next(loop), 1
        while True:
            try:
                denoiser_input = loop.send(engine.denoise([denoiser_input])[0])
                count += 1
            except StopIteration as end:
                return count, calls(engine.system, prepared.request), end.value


@pytest.mark.parametrize("name", ["unet", "xiaomo"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"hires": 2.0, "hires_strength": 0.5},
        {"tile_size": 32},
        {"hires": 1.5, "tile_size": 32, "tile_overlap": 16, "hires_steps": 2, "hires_strength": 1.0},
        {"regions": [{"text": "狗", "box": (0, 0, 0.5, 1)}], "tile_size": 48},
    ],
)
def test_the_number_of_denoiser_calls_is_predicted(
    engines: dict[str, Engine], name: str, settings: dict[str, Any]
) -> None:
    count, foreseen, _ = asks(engines[name], **settings)
    assert count == foreseen


def test_one_window_is_the_whole(engines: dict[str, Engine]) -> None:
    whole, large, small = (engines["unet"].draw(REQUEST, tile_size=side)[0].image for side in (None, 64, 32))
    assert large.tobytes() == whole.tobytes()
    assert small.tobytes() != whole.tobytes()


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 5, 29), (4, 16, 17)])
@pytest.mark.parametrize("overlap", [0, 8, 40])
def test_windows_cover_all_and_blend_to_what_all_agree_on(shape: Any, overlap: int) -> None:
    request = checked({**REQUEST, "tile_size": 48, "tile_overlap": overlap})
    seen = windows(request, shape, 8, 1) or [Window(0, 0, *shape[1:])]
    covered = torch.zeros(shape[1:])
    for window in seen:
        window.cut(covered).add_(1)
        assert (window.height, window.width) == tuple(min(6, side) for side in shape[1:]) or len(seen) == 1
    assert bool((covered > 0).all())
    x, spatial = torch.randn(2, *shape), torch.randn(2, 1, *shape[1:])
    picture = torch.randn(2, 3, shape[1] * 8, shape[2] * 8)
    pictures = {"control": picture, "prompt": torch.ones(2, 4, 768)}
    denoiser_input = DenoiserInput("image", x, torch.ones(2), Conditioning(spatial=spatial, pictures=pictures))
    assert torch.allclose(
        summed(predict_in_windows(denoiser_input, seen)), x + spatial + picture[:, :1, ::8, ::8], atol=1e-5
    )


def summed(loop: Generator[DenoiserInput, torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """What comes out where the denoiser adds up what it is shown."""
    answer: Any = None
    while True:
        try:
            part = loop.send(answer)
        except StopIteration as end:
            return end.value
        map_, seen_picture = part.conditioning.spatial, part.conditioning.pictures["control"]
        assert map_ is not None
        assert part.conditioning.pictures["prompt"].shape == (2, 4, 768)
        answer = part.x + map_ + seen_picture[:, :1, ::8, ::8]


def test_a1111_reads_and_is_read(engines: dict[str, Engine]) -> None:
    settings: dict[str, Any] = {"hires": 2.0, "hires_strength": 0.6, "hires_steps": 2, "hires_upscaler": "latent"}
    settings |= {"subseed": 7, "subseed_strength": 0.25}
    (picture,) = engines["unet"].draw(REQUEST, **settings)
    text = infotext(picture.metadata(), "tiny", (), picture.image.size)
    said = "Denoising strength: 0.6, Hires upscale: 2, Hires steps: 2, Hires upscaler: Latent"
    assert said in text
    assert "Size: 64x48" in text
    assert "Variation seed: 7, Variation seed strength: 0.25" in text
    fields = request_of(text)
    assert {name: fields[name] for name in settings} == settings
    assert engines["unet"].draw(fields)[0].image.tobytes() == picture.image.tobytes()
    plain = replace(picture, request=engines["unet"].draw(REQUEST)[0].request)
    assert "Hires" not in infotext(plain.metadata(), "tiny", (), plain.image.size)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"hires": 0.5}, "a scale from 1 to 8"),
        ({"hires": float("nan")}, "a scale from 1 to 8"),
        ({"hires_strength": 0.4}, "hires_strength without hires"),
        ({"hires": 2, "hires_strength": 0}, "hires_strength is 0"),
        ({"hires": 2, "hires_steps": 0}, "hires_steps"),
        ({"hires": 2, "image": Image.new("RGB", (64, 48)), "mask": Image.new("L", (64, 48))}, "leave the mask"),
        ({"hires": 8, "size": (2048, 64)}, "a side may have 8192"),
        ({"tile_size": 8}, "tile_size"),
        ({"tile_size": 32, "tile_overlap": 32}, "below tile_size"),
        ({"tile_overlap": 8}, "below tile_size"),
        ({"tile_size": 32, "seamless": "both"}, "leave out seamless"),
        ({"tile_size": 32, "step_cache": "deep:3"}, "step caches but easy"),
        ({"hires": 2, "hires_strength": 0.1, "hires_steps": 2}, "less than one"),
        ({"hires": 2, "seamless": "x"}, "a coder has edges"),
    ],
)
def test_impossible_settings_are_refused(engines: dict[str, Engine], fields: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        engines["unet"].draw({**REQUEST, **fields})


def test_what_cannot_be_drawn_over_is_refused_before_the_first_drawing(engines: dict[str, Engine]) -> None:
    with pytest.raises(RequestError, match="less than one"):
        engines["unet"].prepare({**REQUEST, "hires": 2, "hires_strength": 0.1, "hires_steps": 2})


def test_values_stay_in_range(engines: dict[str, Engine]) -> None:
    _, _, picture = asks(engines["unet"], tile_size=32)
    assert numpy.asarray(picture.image).std() > 1


def stopped_after(
    engines: dict[str, Engine], calls: int, **settings: Any
) -> tuple[Picture | None, DenoiserInput | None, torch.Tensor | None]:
    """The picture after so many calls of the denoiser, and what the last of them read and gave."""
    engine = engines["unet"]
    loop = sample(engine.system, engine.prepare(REQUEST, **settings))
    read, given = None, None
    with engine.working():
        waiting = next(loop)
        for _ in range(calls):
            read, (given,) = waiting, engine.denoise([waiting])
            waiting = loop.send(given)
        return stopped(loop), read, given


@pytest.mark.parametrize("sampler", ["ddim", "euler"])
def test_a_stopped_drawing_is_the_clean_picture_of_its_last_step(engines: dict[str, Engine], sampler: str) -> None:
    """Also where x is scaled before the denoiser reads it, as by Euler's sampler."""
    picture, read, given = stopped_after(engines, 3, sampler=sampler, guidance=1.0)
    assert picture is not None and read is not None and given is not None  # noqa: PT018
    alphas = diffusers.DDIMScheduler(**SCHEDULE).alphas_cumprod
    a = alphas[int(read.t[0])]
    clean = (read.x - (1 - a).sqrt() * given) / a.sqrt()
    engine = engines["unet"]
    with engine.working():
        expected = to_image(engine.system.space("image").decode(clean)[0])
    assert picture.image.tobytes() == expected.tobytes()


def test_one_stopped_without_a_step_is_none(engines: dict[str, Engine]) -> None:
    assert stopped_after(engines, 0)[0] is None


def test_one_stopped_before_its_second_pass_is_of_the_first(engines: dict[str, Engine]) -> None:
    hires: dict[str, Any] = {"hires": 2.0, "hires_strength": 0.5}
    sizes: list[tuple[int, int]] = []
    for count in (3, 4, 5):
        picture = stopped_after(engines, count, **hires)[0]
        assert picture is not None
        sizes.append(picture.image.size)
        if count == 4:  # the first pass is whole, the second has no step yet
            assert picture.image.tobytes() == engines["unet"].draw(REQUEST)[0].image.tobytes()
    assert sizes == [(64, 48), (64, 48), (128, 96)]
