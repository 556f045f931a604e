"""A decoder whose numbers overflow: the picture is decoded again in float32, and that is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import ImageChops
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bimo.diffusion.decoding import decode
from bimo.hub.loading import load
from tests.support.families import FAMILIES


class Overflowing(nn.Module):
    """Scales by 1000 twice on the way: what float32 holds is more than float16 does."""

    channels, factor = 3, 1

    def __init__(self, black: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1000.0]))
        self.black = black
        self.decoded: list[torch.dtype] = []

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        return 3, size[1], size[0]

    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return pixels

    def decode(self, x: Tensor) -> Tensor:
        self.decoded.append(self.weight.dtype)
        wide = x.to(self.weight.dtype) * self.weight * self.weight
        if self.black:
            wide = wide.nan_to_num(-1e6, -1e6, -1e6)
        return (wide / self.weight / self.weight).float()


@pytest.mark.parametrize("black", [False, True])
@torch.no_grad()
def test_an_overflow_is_decoded_again_in_float32(black: bool) -> None:
    space, x = Overflowing(black).half(), torch.full((1, 3, 2, 2), 0.5)
    pixels, warnings = decode(space, x)
    torch.testing.assert_close(pixels, x)
    assert "overflowed in fp16" in str(warnings[0])
    assert space.decoded == [torch.float16, torch.float32]
    assert space.weight.dtype == torch.float16


@torch.no_grad()
def test_what_is_sound_or_wrong_before_the_decoder_is_decoded_once() -> None:
    for space, x in (
        (Overflowing().bfloat16(), torch.full((1, 3, 2, 2), 0.5)),
        (Overflowing(), torch.full((1, 3, 2, 2), 0.5)),
        (Overflowing().half(), torch.full((1, 3, 2, 2), float("nan"))),
    ):
        assert decode(space, x)[1] == ()
        assert len(space.decoded) == 1


@torch.no_grad()
def test_a_picture_that_is_black_is_not_blamed_on_the_decoder() -> None:
    space = Overflowing().bfloat16()
    pixels, warnings = decode(space, torch.full((1, 3, 2, 2), -1.0))
    assert warnings == ()
    assert len(space.decoded) == 2
    assert float(pixels.max()) == -1.0


def test_a_published_folder_whose_decoder_overflows_is_drawn_with_a_warning(tmp_path: Path) -> None:
    FAMILIES["hunyuan"][1](tmp_path)
    file = next((tmp_path / "vae").glob("*.safetensors"))
    weights = load_file(file)
    # The norm after it undoes the factor, so that in float32 nothing changes but rounding.
    weights |= {name: weights[name] * 3e4 for name in ("decoder.conv_in.weight", "decoder.conv_in.bias")}
    save_file(weights, file, metadata={"format": "pt"})
    request = {"text": "红苹果", "steps": 2, "size": (64, 64), "seed": 1}
    expected, picture = (load(tmp_path, device="cpu", dtype=dtype).draw(request)[0] for dtype in ("fp32", "fp16"))
    assert not [warning for warning in expected.warnings if "overflowed" in str(warning)]
    assert [warning for warning in picture.warnings if "overflowed in fp16" in str(warning)]
    difference = ImageChops.difference(expected.image, picture.image).getextrema()
    assert max(high for _, high in difference) <= 8  # of the denoiser in float16
    assert max(high for _, high in picture.image.getextrema()) > 100
