"""What a half-precision denoiser is told is all that was said, in its numbers."""

import torch

from bimo.core.tensors import Conditioning, TextEncoding
from bimo.diffusion.casting import cast_conditioning


def test_nothing_is_lost_on_the_way_to_a_half_precision_denoiser() -> None:
    words = TextEncoding(torch.zeros(1, 2, 3))
    given = Conditioning(
        (words,),
        torch.zeros(1, 3),
        torch.zeros(1, 1, 2, 2),
        {"pose": torch.zeros(1, 5)},
        {"control": torch.zeros(1)},
        words,
    )
    found = cast_conditioning(given, torch.bfloat16)
    assert found.vector is not None
    assert found.spatial is not None
    assert found.negative is not None
    halved = (found.streams[0].tokens, found.vector, found.spatial, found.scalars["pose"], found.negative.tokens)
    assert {value.dtype for value in halved} == {torch.bfloat16}
    # Adapters take their pictures as they are.
    assert found.pictures.keys() == {"control"}
