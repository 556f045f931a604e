"""A folder of Z-Image, Qwen-Image, LongCat-Image or CogView4 draws in bimo as in diffusers' own pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from bimo.core.types import Picture
from bimo.diffusion.drive import draw
from bimo.parts.denoisers.flow import unpacked
from bimo.parts.published.folder import read_folder
from tests.parity.tiny_flow_checkpoints import saved

KINDS = ("z_image", "qwen_image", "longcat_image", "cogview4", "lumina")
REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {"text": "一只红苹果"},
    "negative": {"text": "red 苹果，写着“福 到”和'a don't'", "negative": "小桥 red"},
    "another size": {"text": "小桥流水人家", "negative": "x", "size": (96, 64)},
    "unguided": {"text": "红苹果", "guidance": None},
}


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folder and diffusers' pipeline by kind, saved when first asked for."""
    made: dict[str, tuple[Path, Any]] = {}

    def place(kind: str) -> tuple[Path, Any]:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind) / "saved"
            made[kind] = (folder, saved(folder, kind))
        return made[kind]

    return place


def by_diffusers(pipeline: Any, kind: str, request: dict[str, Any]) -> list[numpy.ndarray]:
    """The pictures of diffusers' own pipeline for a request of bimo."""
    count = request.get("count", 1)
    width, height = request.get("size", (64, 64))
    scale = {"true_cfg_scale" if kind == "qwen_image" else "guidance_scale": request["guidance"]}
    if kind == "longcat_image":
        scale["enable_prompt_rewrite"] = False
    if kind == "lumina":
        scale["cfg_trunc_ratio"] = 0.25
    pictures: list[numpy.ndarray] = []
    # One call a picture: with more, some pipelines ask for a negative prompt of another type.
    for index in range(count):
        drawn = pipeline(
            request["text"],
            negative_prompt=request.get("negative") or None,
            width=width,
            height=height,
            num_inference_steps=request["steps"],
            generator=torch.Generator().manual_seed(request["seed"] + index),
            **scale,
        )
        pictures += [numpy.asarray(image) for image in drawn.images]
    return pictures


def compare(pictures: list[Picture], expected: list[numpy.ndarray]) -> None:
    assert len(pictures) == len(expected)
    for picture, array in zip(pictures, expected, strict=True):
        found = numpy.asarray(picture.image).astype(int)
        assert found.shape == array.shape
        assert numpy.abs(found - array).max() <= 1
        assert array.std() > 5  # a flat picture would prove nothing


def latents(system: Any, request: dict[str, Any]) -> list[torch.Tensor]:
    """What is drawn before it is decoded, [1, C, h, w] each: there a little of a word more shows."""
    kept: list[torch.Tensor] = []
    space = system.space("image")
    own = space.decode
    space.decode = lambda x: (kept.append(x), own(x))[1]
    draw(system, request)
    space.decode = own
    return kept


@pytest.mark.parametrize("kind", KINDS)
def test_latents_are_those_of_diffusers_and_words_move_them(places: Any, kind: str) -> None:
    folder, pipeline = places(kind)
    system = read_folder(folder)
    scale = {"true_cfg_scale" if kind == "qwen_image" else "guidance_scale": 4.0}
    if kind == "longcat_image":
        scale["enable_prompt_rewrite"] = False
    if kind == "lumina":
        scale["cfg_trunc_ratio"] = 0.25
    request = {"text": "小桥 “a b”", "negative": "red", "seed": 4, "steps": 4, "guidance": 4.0, "size": (64, 96)}
    expected = pipeline(
        request["text"],
        negative_prompt="red",
        width=64,
        height=96,
        num_inference_steps=4,
        generator=torch.Generator().manual_seed(4),
        output_type="latent",
        **scale,
    ).images
    if expected.ndim == 3:
        expected = unpacked(expected, 12, 8)
    found = latents(system, request)[0]
    assert torch.allclose(found, expected, atol=2e-4)
    for change in ({"text": "小桥 “a c”"}, {"negative": "rex"}, {"guidance": 3.9}):
        assert not torch.allclose(latents(system, {**request, **change})[0], expected, atol=2e-3)


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("kind", KINDS)
def test_draws_as_diffusers(places: Any, kind: str, name: str) -> None:
    folder, pipeline = places(kind)
    request = {
        "seed": 3,
        "steps": 4 if kind == "lumina" else 3,
        "guidance": 4.0,
        "size": (64, 64),
        "negative": "",
        **REQUESTS[name],
    }
    if request["guidance"] is None:
        request["guidance"] = 0.0 if kind == "z_image" else 1.0
    compare(draw(read_folder(folder), request), by_diffusers(pipeline, kind, request))


@pytest.mark.parametrize("kind", KINDS)
def test_two_drawn_together_are_as_two_of_diffusers(places: Any, kind: str) -> None:
    folder, pipeline = places(kind)
    request = {"text": "一只红 red 苹果", "negative": "桥", "seed": 5, "steps": 2, "guidance": 3.0, "count": 2}
    request["size"] = (64, 64)
    compare(draw(read_folder(folder), request, batch=2), by_diffusers(pipeline, kind, request))
