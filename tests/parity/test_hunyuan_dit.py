"""HunyuanDiT's folders draw in bimo as in diffusers' own pipeline; the authors' files are the same network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from diffusers import HunyuanDiTPipeline

from bimo.models.layouts.diffusers_folder import read_folder
from tests.support.comparison import compare
from tests.support.drawing import draw
from tests.support.hunyuan_checkpoints import checkpoint, read_by_diffusers

CASES: list[tuple[str, dict[str, Any]]] = [
    ("1.2", {"text": "一只红苹果"}),
    ("1.2", {"text": "红苹果", "negative": "小桥，猫", "size": (80, 48)}),
    ("1.2", {"text": "a red cat", "guidance": 1.0}),
    ("1.1", {"text": "小桥流水人家", "size": (48, 96)}),
    ("1.1", {"text": "reds 苹果", "negative": "a", "count": 2}),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of each version."""
    made = {version: tmp_path_factory.mktemp("hunyuan") / f"v{version}" for version in ("1.1", "1.2")}
    for version, folder in made.items():
        checkpoint(folder, version)
    return made


def by_diffusers(pipeline: HunyuanDiTPipeline, request: dict[str, Any]) -> list[numpy.ndarray]:
    """The pictures of diffusers' pipeline for a request of bimo."""
    count = request.get("count", 1)
    width, height = request["size"]
    drawn: Any = pipeline(
        request["text"],
        negative_prompt=request.get("negative"),
        width=width,
        height=height,
        num_inference_steps=request["steps"],
        guidance_scale=request["guidance"],
        num_images_per_prompt=count,
        use_resolution_binning=False,
        generator=[torch.Generator().manual_seed(request["seed"] + i) for i in range(count)],
    )
    return [numpy.asarray(image) for image in drawn.images]


@pytest.mark.parametrize(("version", "request_"), CASES)
def test_draws_as_diffusers(places: dict[str, Path], version: str, request_: dict[str, Any]) -> None:
    request = {"seed": 3, "steps": 4, "guidance": 5.0, "size": (64, 64), **request_}
    drawn = draw(read_folder(places[version]), request, batch=2)
    compare(drawn, by_diffusers(read_by_diffusers(places[version]), request))


def test_what_version_1_1_is_told_of_sizes_and_style_counts(places: dict[str, Path]) -> None:
    """Where the sizes went unheard the case above would prove nothing."""
    system = read_folder(places["1.1"])
    request = {"text": "苹果", "seed": 3, "steps": 2, "guidance": 5.0, "size": (64, 64)}
    before = draw(system, request)[0].image
    with torch.no_grad():
        system.get_parameter("image.denoiser.model.time_extra_emb.style_embedder.weight").add_(1.0)
    assert draw(system, request)[0].image.tobytes() != before.tobytes()


def test_the_answer_of_a_whole_transformer(places: dict[str, Path]) -> None:
    """Both halves of it, and a batch of texts of different lengths."""
    system = read_folder(places["1.2"])
    pipeline = read_by_diffusers(places["1.2"])
    texts = ["", "一只红苹果"]
    x, t = torch.randn(2, 4, 6, 8), torch.tensor([801.0, 3.0])
    streams = [pipeline.encode_prompt(texts, negative_prompt=None, text_encoder_index=i)[::2] for i in (0, 1)]
    part: Any = system.recipe.levels[0].denoiser
    with torch.inference_mode():
        found = system.level("image").denoiser(x, t, system.condition(system.encode(texts)))
        expected = pipeline.transformer(
            x,
            t,
            encoder_hidden_states=streams[0][0],
            text_embedding_mask=streams[0][1],
            encoder_hidden_states_t5=streams[1][0],
            text_embedding_mask_t5=streams[1][1],
            image_meta_size=None,
            style=None,
            image_rotary_emb=part.build().places(3, 4),
            return_dict=False,
        )[0]
    assert found.shape == (2, 8, 6, 8)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
