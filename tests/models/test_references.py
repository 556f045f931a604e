"""Pictures that are edited: counts at full size, what of them stays where it is, what is said where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from bimo.core.errors import RecipeError, RequestError, WeightsError
from bimo.core.part import dumps, loads
from bimo.core.tensors import Conditioning
from bimo.diffusion.denoiser import Denoiser
from bimo.diffusion.preparation import prepare
from bimo.diffusion.space import Space
from bimo.diffusion.system import System
from bimo.engine.engine import Engine
from bimo.models.flow_tokens import references_of
from bimo.models.qwen_image.denoiser import QwenImage
from bimo.models.qwen_image.references import References
from bimo.models.text_encoders.language_model import LanguageModel
from bimo.models.text_encoders.qwen_vision import QwenVision
from bimo.recipes.qwen_image_edit import qwen_image_edit, qwen_image_edit_2509, qwen_image_edit_2511, seeing
from tests.support.drawing import draw
from tests.support.edit_checkpoints import photo
from tests.support.tiny_systems import tiny_system

AREA = 256 * 256


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_full_size() -> None:
    """Qwen2.5-VL-7B without the head that speaks, which has as many numbers as its table of words; the transformer is
    Qwen-Image's.
    """
    with torch.device("meta"):
        encoder = seeing.build()
        assert encoder.visual is not None
        assert parameters(encoder.visual) == 676_550_144
        assert parameters(encoder) == 8_292_166_656 - 152_064 * 3_584
        assert parameters(QwenImage(zero_cond_t=True).build()) == 20_430_401_088


@pytest.mark.parametrize("recipe", [qwen_image_edit, qwen_image_edit_2509, qwen_image_edit_2511], ids=lambda r: r.name)
def test_as_data_they_read_back_equal(recipe: Any) -> None:
    assert loads(dumps(recipe)) == recipe
    assert recipe.text_encoders[0].template.count("{}") == 1


class Unshuffled(Space):
    """x is the picture itself, 8 x 8 pixels a place: nothing is lost."""

    channels, factor = 192, 8

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        return 192, size[1] // 8, size[0] // 8

    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return functional.pixel_unshuffle(pixels, 8)

    def decode(self, x: Tensor) -> Tensor:
        return functional.pixel_shuffle(x, 8)


class Copying(Denoiser):
    """Draws what the first reference has at the same place, counted from the middle as Qwen-Image's rotary positions
    are: what a model does with what is to stay.
    """

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        reference = references_of(conditioning)[0]
        high, wide = (own - other for own, other in zip(x.shape[-2:], reference.shape[-2:], strict=True))
        sides = (wide // 2, wide - wide // 2, high // 2, high - high // 2)
        own = functional.pad(reference, sides)
        return (x - own) / (t / 1000)[:, None, None, None]


@pytest.fixture(scope="module")
def copying(tmp_path_factory: pytest.TempPathFactory) -> System:
    system = tiny_system(qwen_image_edit_2509, tmp_path_factory.mktemp("words"))
    level = system.level("image")
    level.space, level.denoiser = Unshuffled(), Copying()
    level.conditioners = (References(count=3, area=AREA),)
    return system


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((1000, 667), None),
        ((667, 1000), None),
        ((333, 210), None),
        ((1024, 1024), (384, 384)),
        ((1000, 667), (480, 320)),
        ((600, 400), (192, 128)),
        ((700, 410), (560, 320)),
    ],
)
def test_what_is_kept_is_neither_shifted_nor_zoomed(
    copying: System, shape: tuple[int, int], size: tuple[int, int] | None
) -> None:
    """At any size of its shape; brought back to the picture's own size it lies on it to a fraction of a pixel."""
    image = photo(*shape, seed=40)
    request = {"text": "把帽子换成红色", "image": image, "size": size, "seed": 1, "steps": 2}
    drawn = draw(copying, request)[0].image
    assert drawn.size == (size or References(area=AREA).size_for(prepare(copying, request).request))
    resized = image.resize(drawn.size, resample=Image.Resampling.LANCZOS)
    assert numpy.abs(pixels(drawn) - pixels(resized)).max() <= 1
    back, own = (pixels(each.resize(shape, resample=Image.Resampling.LANCZOS)) for each in (drawn, image))
    inner = (slice(8, -8), slice(8, -8))
    error = numpy.abs(back - own)[inner].mean()
    for axis, step in ((0, 2), (0, -2), (1, 2), (1, -2)):
        assert error < 0.5 * numpy.abs(numpy.roll(back, step, axis) - own)[inner].mean()


def test_of_another_shape_it_is_coded_in_its_own(copying: System) -> None:
    own = References(area=AREA)
    assert own.coded_size(photo(1000, 667), (320, 208)) == (320, 208)
    assert own.coded_size(photo(1000, 667), (256, 256)) == (320, 224)
    drawn = draw(copying, {"text": "红", "image": photo(640, 320), "size": (256, 256), "seed": 1, "steps": 2})[0].image
    assert drawn.size == (256, 256)


def test_a_picture_held_upright_by_its_tag_is_seen_so(copying: System) -> None:
    lying = photo(300, 200)
    tag = Image.Exif()
    tag[0x0112] = 6  # to be turned by a quarter
    lying.info["exif"] = tag.tobytes()
    turned = Image.open(saved(lying, tag))
    size = References(area=AREA).size_for(prepare(copying, {"text": "红", "image": turned}).request)
    assert size == (224, 320)


def saved(image: Image.Image, tag: Image.Exif) -> Any:
    import io

    stream = io.BytesIO()
    image.save(stream, "PNG", exif=tag)
    stream.seek(0)
    return stream


def pixels(image: Image.Image) -> numpy.ndarray:
    return numpy.asarray(image).astype(float)


def test_a_reference_has_the_places_of_what_is_drawn() -> None:
    """Row and column turn a token of a reference as the token at its place; only the frame's axis differs."""
    model = QwenImage().tiny().build().model
    turned, _ = model.pos_embed([[(1, 4, 6), (1, 4, 6)]], max_txt_seq_len=3, device=torch.device("cpu"))
    drawn, reference = turned.chunk(2)
    assert torch.equal(drawn[:, 2:], reference[:, 2:])
    assert not torch.equal(drawn[:, :2], reference[:, :2])


def test_references_move_what_is_drawn_and_only_that_comes_back() -> None:
    torch.manual_seed(0)
    denoiser = QwenImage(zero_cond_t=True).tiny().build().eval()
    from bimo.core.tensors import TextEncoding

    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, t = torch.randn(2, 16, 4, 6), torch.tensor([700.0, 300.0])
    text = (TextEncoding(torch.randn(2, 5, 16)),)
    pictures = {"reference.1": torch.randn(2, 16, 6, 4), "reference.2": torch.randn(2, 16, 2, 2)}
    with torch.inference_mode():
        found = denoiser(x, t, Conditioning(text, pictures=pictures))
        without = denoiser(x, t, Conditioning(text))
        one = denoiser(x[:1], t[:1], Conditioning((TextEncoding(text[0].tokens[:1]),), pictures=first(pictures)))
    assert found.shape == x.shape
    assert torch.allclose(found[:1], one, atol=1e-4)
    assert not torch.allclose(found, without, atol=1e-3)


def first(pictures: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value[:1] for name, value in pictures.items()}


def test_edits_of_pictures_of_several_shapes_are_drawn_together_as_alone(copying: System) -> None:
    """A call of the denoiser has references of one size."""
    images = (photo(640, 320), photo(300, 300), photo(320, 640))
    requests = [{"text": "红", "image": image, "size": (256, 256), "seed": 1, "steps": 2} for image in images]
    together = Engine(copying).draw_together(requests)
    for request, found in zip(requests, together, strict=True):
        assert found.image.tobytes() == draw(copying, request)[0].image.tobytes()


def test_without_a_picture_it_says_so(copying: System) -> None:
    prepared = prepare(copying, {"text": "红苹果", "size": (64, 64)})
    assert any("none: this is drawn from the words alone" in one for one in prepared.warnings)
    prepared = prepare(copying, {"text": "红苹果", "size": (64, 64), "image": photo()})
    assert not any("words alone" in one for one in prepared.warnings)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"tile_size": 64, "size": (128, 128)}, "looks at whole pictures"),
        ({"hires": 2}, "cannot draw over a larger picture"),
        ({"outpaint": (8, 8, 8, 8), "size": None}, "does not go on from it"),
        ({"condition_images": {"image-4": photo()}}, "reads no picture 'image-4'"),
    ],
)
def test_what_does_not_go_with_it_is_refused(copying: System, more: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as raised:
        draw(copying, {"text": "红", "image": photo(), "size": (64, 64), "steps": 2, "seed": 1, **more})
    assert message in raised.value.en


def test_a_vision_tower_is_for_its_own_family_alone() -> None:
    with pytest.raises(RecipeError, match="qwen2_5_vl"):
        LanguageModel(vision=QwenVision())


def test_a_tokenizer_without_the_mark_of_a_picture_is_refused(tmp_path: Path) -> None:
    system = tiny_system(qwen_image_edit, tmp_path)
    encoder: Any = system.text_encoders[0]
    own = encoder.tokenizer.token_to_id

    class Without:
        def token_to_id(self, token: str) -> int | None:
            return None if token == "<|image_pad|>" else own(token)

    encoder.tokenizer = Without()
    with pytest.raises(WeightsError, match="image_pad"):
        encoder.encode_with(["红"], [[photo()]])
