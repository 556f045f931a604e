"""A picture that is none is told of: values that are no numbers, one colour all over."""

import pytest
import torch

from bimo.diffusion import image_inputs


def test_a_picture_with_something_on_it_is_not_reported() -> None:
    pixels = torch.full((3, 4, 4), -1.0)
    pixels[0, 0, 0] = 0.0
    assert image_inputs.warnings_of(pixels) == ()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_black_and_reported(value: float) -> None:
    pixels = torch.linspace(-1, 1, 48).reshape(3, 4, 4)
    pixels[:, 0, 0] = value
    (output,) = image_inputs.warnings_of(pixels)
    assert "--dtype fp32" in output
    colour = image_inputs.to_image(pixels).getpixel((0, 0))
    assert colour == ((0, 0, 0) if value != value else (255, 255, 255))


def test_one_colour_is_no_filters_doing() -> None:
    pixels = torch.tensor([1.0, -1.0, 0.5]).reshape(3, 1, 1).expand(3, 4, 4)
    (output,) = image_inputs.warnings_of(pixels)
    assert "no filter" in output
