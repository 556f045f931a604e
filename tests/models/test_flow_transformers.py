"""Transformers of flow matching: counts at full size, packing, the rows of an ask apart, and that they learn."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch

from bimo.core.errors import RecipeError
from bimo.core.tensors import Conditioning, TextEncoding
from bimo.diffusion.schedules.flow import Flow
from bimo.models.cogview4.denoiser import CogView4
from bimo.models.ernie_image.denoiser import ErnieImage
from bimo.models.ernie_image.space import Flux2Latent
from bimo.models.flow_tokens import packed, unpacked
from bimo.models.hunyuan_image.denoiser import HunyuanImage
from bimo.models.longcat_image.denoiser import LongCatImage
from bimo.models.lumina.denoiser import Lumina2
from bimo.models.ovis_image.denoiser import OvisImage
from bimo.models.qwen_image.denoiser import QwenImage
from bimo.models.qwen_image.space import QwenLatent
from bimo.models.z_image.denoiser import ZImage

KINDS: dict[str, Any] = {
    "z_image": ZImage(),
    "qwen_image": QwenImage(),
    "longcat_image": LongCatImage(),
    "cogview4": CogView4(),
    "lumina": Lumina2(),
    "ovis_image": OvisImage(),
    "ernie_image": ErnieImage(),
    "hunyuan_image": HunyuanImage(),
}
#: The channels of x, where they are not 16, and how many texts are read, where it is not one.
CHANNELS = {"ernie_image": 128, "hunyuan_image": 64}
STREAMS = {"hunyuan_image": 2}
#: Parameters at full size. Of those in COUNTS the class's defaults are taken for the published model; the others are
#: the published sizes as the recipes tell them.
COUNTS = {"z_image": 6_154_908_736, "qwen_image": 20_430_401_088, "ovis_image": 7_370_449_728}
#: As many tensors as the index of its published files names, or numbers as these hold bytes: 34.9 GB of 16 bits.
NAMED = {"ernie_image": (8_033_490_048, 409), "hunyuan_image": (17_425_795_520, 1264)}
ABOUT = {"longcat_image": 6.27, "cogview4": 6.37, "lumina": 2.61}


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_full_size(kind: str) -> None:
    with torch.device("meta"):
        found = KINDS[kind].build().model
        if kind in NAMED:
            assert (parameters(found), len(found.state_dict())) == NAMED[kind]
        elif kind in COUNTS:
            reference = type(found)()
            own = {name: value.shape for name, value in found.state_dict().items()}
            assert own == {name: value.shape for name, value in reference.state_dict().items()}
            assert parameters(found) == COUNTS[kind]
        else:
            assert parameters(found) / 1e9 == pytest.approx(ABOUT[kind], abs=0.005)


def test_space_of_qwen_at_full_size() -> None:
    with torch.device("meta"):
        assert parameters(QwenLatent().build()) == parameters(diffusers.AutoencoderKLQwenImage())


def test_space_of_ernie_at_full_size() -> None:
    with torch.device("meta"):
        found, expected = Flux2Latent().build().model, diffusers.AutoencoderKLFlux2()
    shapes = [{name: value.shape for name, value in model.state_dict().items()} for model in (found, expected)]
    assert shapes[0] == shapes[1]


def test_space_of_ernie_goes_there_and_back() -> None:
    """2x2 places of the latent are one of x, standardised by the batch norm among the weights with an eps of 1e-5."""
    torch.manual_seed(0)
    space = Flux2Latent().tiny().build().eval()
    space.model.bn.running_mean.normal_()
    space.model.bn.running_var.uniform_(1e-5, 2)
    pipeline = diffusers.ErnieImagePipeline
    pixels = torch.rand(2, 3, 32, 64) * 2 - 1
    mean, variance = (v.view(1, -1, 1, 1) for v in (space.model.bn.running_mean, space.model.bn.running_var))
    with torch.inference_mode():
        x = space.encode(pixels)
        z = space.model.encode(pixels).latent_dist.mode()
        assert tuple(x.shape[1:]) == space.shape((64, 32)) == (128, 2, 4)
        assert torch.allclose(x, (pipeline._patchify_latents(z) - mean) / (variance + 1e-5).sqrt(), atol=1e-5)
        assert torch.allclose(space.decode(x), space.model.decode(z).sample, atol=1e-4)
        one, two = (space.encode(pixels, torch.Generator().manual_seed(i)) for i in (1, 2))
        middle, deviation = space.posterior(pixels)
    assert torch.allclose(middle, x, atol=1e-6)
    assert not torch.equal(one, two)
    assert 0.5 < ((one - middle) / deviation).std() < 1.5


def test_space_of_qwen_goes_there_and_back() -> None:
    """x is standardised channel by channel, and decoding undoes it before the autoencoder sees it."""
    torch.manual_seed(0)
    space = QwenLatent().tiny().build()
    pixels = torch.rand(2, 3, 16, 24) * 2 - 1
    with torch.inference_mode():
        x = space.encode(pixels)
        z = space.model.encode(pixels[:, :, None]).latent_dist.mode()
        mean, deviation = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (QwenLatent().mean, QwenLatent().deviation))
        assert tuple(x.shape[1:]) == space.shape((24, 16)) == (16, 2, 3)
        assert torch.allclose(x[:, :, None], (z - mean) / deviation, atol=1e-6)
        assert torch.allclose(space.decode(x), space.model.decode(z).sample[:, :, 0], atol=1e-5)
        one, two = (space.encode(pixels, torch.Generator().manual_seed(i)) for i in (1, 2))
    assert not torch.equal(one, two)


def test_packing_is_that_of_the_pipelines() -> None:
    x = torch.randn(2, 16, 4, 6)
    assert torch.equal(packed(x), diffusers.QwenImagePipeline._pack_latents(x, 2, 16, 4, 6))
    assert torch.equal(unpacked(packed(x), 4, 6), x)


def conditioning(kind: str, lengths: tuple[int, ...]) -> Conditioning:
    tokens = torch.randn(len(lengths), max(lengths), 16, generator=torch.Generator().manual_seed(2))
    text = TextEncoding(tokens, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])
    return Conditioning((text,) * STREAMS.get(kind, 1))


def row(words: Conditioning, length: int) -> Conditioning:
    """The first row, of so many tokens and without a mask."""
    return Conditioning(tuple(TextEncoding(stream.tokens[:1, :length]) for stream in words.streams))


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["z_image", "qwen_image", "cogview4", "lumina", "ovis_image", "ernie_image", "hunyuan_image"]
)
def test_a_row_is_the_same_beside_a_longer_text(kind: str) -> None:
    torch.manual_seed(0)
    denoiser = KINDS[kind].tiny().build().eval()
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    both = conditioning(kind, (3, 7))
    x, t = torch.randn(2, CHANNELS.get(kind, 16), 4, 4), torch.tensor([700.0, 300.0])
    with torch.inference_mode():
        together = denoiser(x, t, both)
        alone, whole = (denoiser(x[:1], t[:1], row(both, length)) for length in (3, 7))
    assert together.shape == x.shape
    assert torch.allclose(together[:1], alone, atol=1e-4)
    assert not torch.allclose(whole, alone, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_overfitted(kind: str) -> None:
    torch.manual_seed(0)
    denoiser = KINDS[kind].tiny().build()
    schedule, words = Flow(), conditioning(kind, (5, 5))
    generator = torch.Generator().manual_seed(4)
    x, noise = torch.randn(2, 2, CHANNELS.get(kind, 16), 4, 4, generator=generator).unbind()
    t = torch.tensor([400.0, 800.0])
    optimiser = torch.optim.Adam(denoiser.parameters(), lr=1e-2)
    losses: list[float] = []
    for _ in range(40):
        loss = (denoiser(schedule.add_noise(x, noise, t), t, words) - schedule.target(x, noise, t)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_does_not_read_is_reported(kind: str) -> None:
    denoiser = KINDS[kind].tiny().build()
    stream = TextEncoding(torch.zeros(1, 3, 16))
    with pytest.raises(RecipeError):
        denoiser(torch.zeros(1, CHANNELS.get(kind, 16), 4, 4), torch.zeros(1), Conditioning((stream,) * 3))
    with pytest.raises(RecipeError):
        denoiser(
            torch.zeros(1, CHANNELS.get(kind, 16), 4, 4),
            torch.zeros(1),
            Conditioning((stream,) * STREAMS.get(kind, 1), spatial=torch.zeros(1, 1, 4, 4)),
        )
