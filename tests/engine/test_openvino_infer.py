"""Converted blocks: torch's tensors as they are, bfloat16 and channels last, and products split by their weights."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("openvino")
pytestmark = pytest.mark.slow


class Residual(nn.Module):
    """A residual layer, as of a UNet."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(4, 8), nn.Conv2d(8, 12, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        made = self.conv(nn.functional.silu(self.norm(x))) + time[:, :, None, None]
        return made, made.mean((2, 3))


class Halves(nn.Module):
    """GEGLU's feed-forward and a product in three parts, with and without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.qkv = nn.Linear(16, 64), nn.Linear(32, 36, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.into(x).chunk(2, -1)
        q, k, v = self.qkv(value * nn.functional.gelu(gate)).split([12, 12, 12], -1)
        return nn.functional.scaled_dot_product_attention(q, k, v)


class Turned(nn.Module):
    """Rotary embeddings of neighbouring pairs, as HunyuanDiT's (``real``) or Z-Image's, that scale as well as turn."""

    def __init__(self, real: bool) -> None:
        super().__init__()
        self.into, self.real = nn.Linear(16, 24), real

    def forward(self, x: Tensor, turns: Tensor) -> Tensor:
        heads = self.into(x).view(x.shape[0], -1, 3, 8)
        pairs = heads.reshape(*heads.shape[:-1], -1, 2)
        if not self.real:
            return torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(turns)).flatten(3)
        first, second = pairs.unbind(-1)
        cos, sin = (turns[..., each].repeat_interleave(2, -1) for each in (0, 1))
        return heads * cos + torch.stack([-second, first], dim=-1).flatten(3) * sin


class Gated(nn.Module):
    """SwiGLU's feed-forward."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = (
            nn.Linear(*widths, bias=False) for widths in ((256, 512), (256, 512), (512, 256))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


def block_of(module: nn.Module, precision: Any) -> Any:
    from bimo.engine.openvino import ConvertedBlock
    from bimo.engine.openvino_cache import ConversionCache

    return ConvertedBlock("block", module, precision, ConversionCache(None))


@pytest.mark.parametrize(("precision", "dtype"), [("f32", torch.float32), ("bf16", torch.bfloat16)])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_pictures_of_every_size_and_order_come_back_in_their_dtype(
    precision: str, dtype: torch.dtype, order: torch.memory_format
) -> None:
    torch.manual_seed(0)
    module = Residual().eval()
    inputs = [(torch.randn(2, 8, height, 6), torch.randn(2, 12)) for height in (6, 10)]
    with torch.no_grad():
        expected = [module(*pair) for pair in inputs]
    block_of(module, precision)
    for (x, time), right in zip(inputs, expected, strict=True):
        found = module(x.to(dtype, memory_format=order), time.to(dtype))
        again = module(x.to(dtype), time.to(dtype))
        for one, other, exact in zip(found, again, right, strict=True):
            assert one.dtype == dtype
            assert one.shape == exact.shape
            assert torch.equal(one, other)
            assert (one.float() - exact).norm() < (1e-5 if precision == "f32" else 1e-2) * exact.norm()
        assert found[0].is_contiguous(memory_format=torch.channels_last)


def test_answers_stay_as_they_are_after_the_next_inference() -> None:
    module = Residual().eval()
    block_of(module, "bf16")
    pairs = [(torch.randn(1, 8, 4, 4).bfloat16(), torch.randn(1, 12).bfloat16()) for _ in range(2)]
    first = module(*pairs[0])[0]
    before = first.clone()
    module(*pairs[1])
    assert torch.equal(first, before)


def test_a_split_of_columns_becomes_products_of_their_own() -> None:
    from bimo.engine.openvino_convert import converted

    torch.manual_seed(0)
    module = Halves().eval()
    x = torch.randn(2, 5, 16)
    kinds = Counter(node.get_type_name() for node in converted(module, [x]).get_ops())
    assert not kinds["VariadicSplit"] + kinds["Split"]
    assert kinds["MatMul"] == 5
    with torch.no_grad():
        expected = module(x)
    block_of(module, "f32")
    assert (module(x) - expected).norm() < 1e-5 * expected.norm()


def test_a_split_of_rows_is_left() -> None:
    from bimo.engine.openvino_convert import converted

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            first, second = self.into(x).split([1, 3], 1)
            return first * second

    kinds = Counter(node.get_type_name() for node in converted(Rows(), [torch.randn(2, 4, 4)]).get_ops())
    assert kinds["VariadicSplit"] == kinds["MatMul"] == 1


@pytest.mark.parametrize("real", [True, False])
def test_rotary_embeddings_turn_by_products(real: bool) -> None:
    from bimo.engine.openvino_convert import converted

    torch.manual_seed(0)
    module, x, turns = Turned(real).eval(), torch.randn(2, 5, 16), torch.randn(5, 1, 4, 2)
    model = converted(module, [x, turns])
    kinds = Counter(node.get_type_name() for node in model.get_ordered_ops())
    assert not kinds["Split"] + kinds["VariadicSplit"]
    assert kinds["MatMul"] == (2 if real else 4)
    with torch.no_grad():
        expected = module(x, turns)
    block_of(module, "f32")
    for length in (5, 3):
        found = module(x[:, :length], turns[:length])
        assert (found - expected[:, :length]).norm() < 1e-6 * expected.norm()


def test_rotary_embeddings_turn_by_numbers_that_were_split() -> None:
    class Apart(Turned):
        def forward(self, x: Tensor, turns: Tensor) -> Tensor:
            pairs = self.into(x).view(x.shape[0], -1, 3, 8).reshape(x.shape[0], -1, 3, 4, 2)
            first, second = pairs.unbind(-1)
            cos, sin = turns.chunk(2, -1)
            return torch.stack([first * cos - second * sin, first * sin + second * cos], -1).flatten(3)

    torch.manual_seed(0)
    module, x, turns = Apart(True).eval(), torch.randn(2, 5, 16), torch.randn(5, 1, 8)
    with torch.no_grad():
        expected = module(x, turns)
    block_of(module, "f32")
    assert (module(x, turns) - expected).norm() < 1e-6 * expected.norm()


def test_gated_feed_forwards_are_computed_as_three_products() -> None:
    import openvino

    from bimo.engine.openvino_convert import converted

    torch.manual_seed(0)
    module, x = Gated().eval(), torch.randn(1, 300, 256)
    with torch.no_grad():
        expected = module(x)
    compiled: Any = openvino.Core().compile_model(converted(module, [x]), "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    kinds = Counter(node.get_rt_info()["layerType"].astype(str) for node in compiled.get_runtime_model().get_ops())
    assert not kinds["LLMMLP"]
    assert kinds["FullyConnected"] == 3
    block_of(module, "bf16")
    assert (module(x.bfloat16()).float() - expected).norm() < 1e-2 * expected.norm()
