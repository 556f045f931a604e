"""Composition of conditions: each changes the picture by itself, is weighed by itself, and enters as it should."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from bimo.core.errors import RecipeError
from bimo.core.part import Part
from bimo.core.recipe import Defaults, Guidance, Recipe
from bimo.core.tensors import Conditioning, TextEncoding
from bimo.diffusion.denoiser import Denoiser
from bimo.diffusion.preparation import prepare
from bimo.diffusion.sampling import sample
from bimo.diffusion.schedules.single_step import SingleStepRegression
from bimo.diffusion.system import System
from bimo.models.cascade.pixel_unet import PixelUnet
from bimo.models.composer.denoiser import Composed
from bimo.recipes.composer import composer
from bimo.recipes.pai_ldm import enlarge
from bimo.recipes.pai_ldm import image as small_picture
from tests.support.drawing import draw
from tests.support.tiny_checkpoints import clip_words

SIZE = (128, 128)
TEXT = "a red cat"


@torch.no_grad()
def test_maps_are_summed_before_x_and_scalars_join_the_words() -> None:
    torch.manual_seed(0)
    part = Composed(
        denoiser=PixelUnet(spatial=64 + 3, text=768), maps=(("a", 1), ("b", 2)), scalars=(("palette", 275),)
    )
    net = part.tiny().build().eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([1.0, 500.0])
    maps, low = torch.rand(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    words = TextEncoding(
        torch.randn(2, 5, 16), torch.tensor([[True] * 5, [True] * 2 + [False] * 3]), torch.randn(2, 16)
    )
    palette = torch.rand(2, 16)
    conditioning = Conditioning((words,), words.pooled, torch.cat([maps, low], dim=1), {"palette": palette})

    def convolved(layers: Any, value: Tensor) -> Tensor:
        return layers[2](functional.silu(layers[0](value)))

    summed = convolved(net.maps["a"], maps[:, :1]) + convolved(net.maps["b"], maps[:, 1:])
    tokens = torch.cat([words.tokens, net.tokens["palette"](palette).reshape(2, 4, 16)], dim=1)
    assert words.mask is not None
    assert words.pooled is not None
    mask = torch.cat([words.mask, torch.ones(2, 4, dtype=torch.bool)], dim=1)
    vector = words.pooled + net.pooled["palette"](palette)
    inner = Conditioning((TextEncoding(tokens, mask),), vector, torch.cat([summed, low], dim=1))
    assert torch.allclose(net(x, t, conditioning), net.denoiser(x, t, inner), atol=1e-5)
    with pytest.raises(RecipeError, match="maps a 1, b 2"):
        net(x, t, Conditioning((words,), words.pooled, maps[:, :1], {"palette": palette}))
    with pytest.raises(RecipeError, match="words and a pooled text of 16"):
        net(x, t, Conditioning((words,), None, torch.cat([maps, low], dim=1), {"palette": palette}))


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> System:
    """Composer at toy width with random weights everywhere: its own begin at zero, where no condition matters."""
    torch.manual_seed(0)
    made = System(composer.tiny()).eval()
    for level in made.recipe.levels:
        for parameter in made.level(level.name).denoiser.parameters():
            nn.init.normal_(parameter, std=0.15)
    # What a scalar adds to the words is little at this width; make it count.
    base: Any = made.level("base").denoiser
    for layer in (*base.pooled.values(), *base.tokens.values()):
        nn.init.normal_(layer.weight, std=1.0)
    folder = tmp_path_factory.mktemp("words") / "words.0"
    clip_words(folder)
    made.text_encoders[0].load_tokenizer(folder)
    return made


def image(colours: Sequence[str]) -> Image.Image:
    """Bands of colours."""
    made = Image.new("RGB", SIZE)
    for at, colour in enumerate(colours):
        made.paste(colour, (0, at * 128 // len(colours), 128, 128))
    return made


def pixels(system: System, branches: dict[str, float] | None = None, **pictures: Image.Image) -> numpy.ndarray:
    request: dict[str, Any] = {"text": TEXT, "size": SIZE, "seed": 1, "steps": 1, "condition_images": pictures}
    drawn = draw(system, request | {"guidance_weights": branches or {}})[0]
    return numpy.asarray(drawn.image, dtype=float)


@pytest.mark.slow
def test_variation_recolouring_and_style(system: System) -> None:
    one, other = image(["red", "blue", "white"]), image(["green", "yellow"])
    plain = pixels(system)
    # A picture varied: its embedding stands where the prior's would.
    varied = pixels(system, semantics=one)
    # Recoloured: its outlines and embedding stay, the palette is another's; and the style of another, its own outlines.
    recoloured = pixels(system, semantics=one, sketch=one, palette=other)
    same_colours = pixels(system, semantics=one, sketch=one, palette=one)
    styled = pixels(system, semantics=other, sketch=one, palette=one)
    pictures = [plain, varied, recoloured, same_colours, styled]
    for index, first in enumerate(pictures):
        assert all(numpy.abs(first - second).max() > 0 for second in pictures[index + 1 :])
    assert numpy.array_equal(varied, pixels(system, semantics=one))


@pytest.mark.parametrize("name", ["depth", "instances", "intensity"])
def test_every_map_by_itself(system: System, name: str) -> None:
    assert numpy.abs(pixels(system, **{name: image(["white", "black"])}) - pixels(system)).max() > 0


def test_a_condition_has_a_weight_of_its_own(system: System) -> None:
    one = image(["red", "blue"])
    request = {
        "text": TEXT,
        "size": SIZE,
        "seed": 1,
        "condition_images": {"palette": one},
        "guidance_weights": {"more-palette": 3.0},
    }
    painting = sample(system, prepare(system, request))
    with torch.inference_mode():
        denoiser_input = next(painting)
        while denoiser_input.level != "base":
            denoiser_input = painting.send(system.denoise(denoiser_input))
    # No words and no conditions; all of them; all but the palette.
    assert [bool(row.any()) for row in denoiser_input.conditioning.scalars["palette"]] == [False, True, False]
    assert torch.equal(
        denoiser_input.conditioning.scalars["semantics"][1], denoiser_input.conditioning.scalars["semantics"][2]
    )
    assert torch.equal(
        denoiser_input.conditioning.streams[0].tokens[1], denoiser_input.conditioning.streams[0].tokens[2]
    )
    base = pixels(system, palette=one)
    # At this width a weight of 3 moves one pixel by 1 of 255: another processor's rounding may take it away.
    assert numpy.abs(pixels(system, {"more-palette": 300.0}, palette=one) - base).max() > 0
    # Without a palette there is nothing to weigh: both branches are the same.
    assert numpy.abs(pixels(system, {"more-palette": 3.0}) - pixels(system)).max() <= 1


@dataclass(frozen=True, kw_only=True)
class Nothing(Part):
    """A denoiser that answers zeros, so that what its level draws is known."""

    def build(self) -> NothingDenoiser:
        return NothingDenoiser()


class NothingDenoiser(Denoiser):
    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        return torch.zeros_like(x)


def test_esrgan_enlarges_what_another_level_drew() -> None:
    first = replace(
        small_picture, denoiser=Nothing(), schedule=SingleStepRegression(), steps=1, guidance=Guidance(scale=1.0)
    )
    recipe = Recipe(name="pai", levels=(first, enlarge), request=Defaults(size=(128, 128)))
    torch.manual_seed(0)
    system = System(replace(recipe.tiny(), request=recipe.request)).eval()
    drawn = numpy.asarray(draw(system, TEXT, seed=1)[0].image, dtype=float) / 255
    with torch.no_grad():
        small = system.space("image").decode(torch.zeros(1, 4, 4, 4)).clamp(-1, 1)
        assert small.shape == (1, 3, 32, 32)
        net: Any = system.level("enlarge").denoiser
        wanted = net(torch.zeros(1, 3, 128, 128), torch.ones(1), Conditioning(spatial=small))[0] / 2 + 0.5
    assert numpy.abs(drawn - wanted.clamp(0, 1).permute(1, 2, 0).numpy()).max() <= 1 / 255
