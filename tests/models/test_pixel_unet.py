"""The networks of cascades, each against a few lines of its own: joined attention, the four tokens, ESRGAN's blocks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bimo.core.errors import RecipeError, WeightsError
from bimo.core.tensors import Conditioning, TextEncoding
from bimo.models.cascade.pixel_unet import AttentionBlock, PixelUnet, ResidualBlock
from bimo.models.cascade.prior import Prior, RootLength
from bimo.models.pai_diffusion.esrgan import Esrgan, fill, published_name


def shaken(module: nn.Module) -> nn.Module:
    """The module with random weights everywhere: many of its own begin at zero and would hide what they do."""
    torch.manual_seed(3)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    return module.eval()


@torch.no_grad()
def test_text_and_pixels_share_one_attention() -> None:
    block = shaken(AttentionBlock(8, 6, 4, 4))
    x, words = torch.randn(2, 8, 2, 3), torch.randn(2, 5, 6)
    mask = torch.tensor([[True, True, False, False, False], [True] * 5])
    found = block(x, words, mask)
    for row in range(2):
        qkv = block.to_qkv(block.norm(x))[row].reshape(24, 6).T
        told = block.context_kv(words[row][mask[row]])
        heads = []
        for head in range(2):
            at = slice(4 * head, 4 * head + 4)
            q, k, v = (part[:, at] for part in qkv.split(8, dim=1))
            k, v = torch.cat([told[:, :8][:, at], k]), torch.cat([told[:, 8:][:, at], v])
            heads.append((q @ k.T / math.sqrt(4)).softmax(1) @ v)
        wanted = x[row] + block.proj(torch.cat(heads, dim=1).T.reshape(1, 8, 2, 3))[0]
        assert torch.allclose(found[row], wanted, atol=1e-5)
    # Words that are all padding are as good as none.
    hidden = block(x, words, torch.zeros(2, 5, dtype=torch.bool))
    assert torch.allclose(hidden, block(x, None, None), atol=1e-5)


@torch.no_grad()
def test_time_scales_and_shifts_or_only_shifts() -> None:
    x, time = torch.randn(2, 8, 4, 4), torch.randn(2, 16)
    for film in (True, False):
        block = shaken(ResidualBlock(8, 16, 8, 4, film, 0.5, 0.0))
        first = block.layer1[2](functional.avg_pool2d(functional.silu(block.layer1[0](x)), 2))
        told = block.embedding[1](functional.silu(time))[..., None, None]
        normal = block.layer2[0]
        second = normal(first) * (1 + told[:, :8]) + told[:, 8:] if film else normal(first + told)
        wanted = block.layer2[3](functional.silu(second)) + functional.avg_pool2d(x, 2)
        assert torch.allclose(block(x, time), wanted, atol=1e-5)


def test_the_generators_way_down_only_shifts() -> None:
    # The published constructor hands the dropout to the switch, so weights have half the rows on the way down.
    state = PixelUnet(text=1024, encoder_film=False).tiny().build().state_dict()
    assert state["encoder.1.0.embedding.1.weight"].shape == (8, 32)  # shift alone
    assert state["encoder.2.embedding.1.weight"].shape == (16, 32)  # halves the side: scale and shift
    assert state["middle.0.embedding.1.weight"].shape == state["decoder.0.0.embedding.1.weight"].shape == (64, 32)
    assert state["head.2.weight"].shape[0] == 6


def test_published_names() -> None:
    state = PixelUnet(text=1024, spatial=3, answer=3, noise="low_res_noise", attend=(4,)).tiny().build().state_dict()
    heads = {name.split(".")[0] for name in state}
    assert heads == {
        *("time_embedding", "noise_time_embedding", "pool_embedding", "text_embedding"),
        *("encoder", "middle", "decoder", "head"),
    }
    assert state["encoder.0.weight"].shape == (8, 6, 3, 3)
    # One block a level, each level but the last followed by one that halves.
    assert "encoder.5.1.context_kv.weight" in state
    assert "encoder.3.1.context_kv.weight" not in state
    assert "decoder.1.1.embedding.1.weight" in state
    flat = PixelUnet(middle=False, attend=()).tiny().build().state_dict()
    assert "middle.1.layer1.0.weight" in flat
    assert "middle.2.layer1.0.weight" not in flat


def embedding(x: Tensor, layers: nn.Sequential) -> Tensor:
    return layers[2](functional.silu(layers[0](x)))


@torch.no_grad()
def test_what_is_read_beside_x() -> None:
    torch.manual_seed(0)
    y = torch.randn(2, 16)
    times = torch.tensor([3.0, 700.0])
    angles = times[:, None] * 10000 ** (-torch.arange(4) / 4)
    waves = torch.cat([angles.cos(), angles.sin()], dim=1)
    net = shaken(PixelUnet(embed=768, reads="semantics").tiny().build())
    time, context, mask = net._read(times, Conditioning(scalars={"semantics": y}))
    assert torch.allclose(time, embedding(waves, net.time_embedding) + embedding(y, net.y_embedding), atol=1e-5)
    assert mask is None
    assert context is not None
    assert torch.allclose(context, embedding(y, net.context_embedding).reshape(2, 4, 16), atol=1e-5)
    net = shaken(PixelUnet(text=1024, spatial=3, answer=3, noise="low_res_noise").tiny().build())
    words = TextEncoding(torch.randn(2, 5, 16), torch.ones(2, 5, dtype=torch.bool), y)
    noisy = Conditioning((words,), y, torch.zeros(2, 3, 8, 8), {"low_res_noise": times[:, None]})
    clean = Conditioning((words,), y, torch.zeros(2, 3, 8, 8), {"low_res_noise": torch.zeros(2, 1)})
    difference = net._read(times, noisy)[0] - net._read(times, clean)[0]
    none = torch.cat([torch.ones(2, 4), torch.zeros(2, 4)], dim=1)
    of_level = embedding(waves, net.noise_time_embedding) - embedding(none, net.noise_time_embedding)
    assert torch.allclose(difference, of_level, atol=1e-5)
    assert net(torch.randn(2, 3, 8, 8), times, noisy).shape == (2, 3, 8, 8)


def test_what_does_not_go_together_is_reported() -> None:
    with pytest.raises(RecipeError, match="no multiple"):
        PixelUnet(width=100).build()
    net = PixelUnet(embed=768, reads="semantics").tiny().build()
    with pytest.raises(RecipeError, match="given 6 channels"):
        net(torch.zeros(1, 3, 8, 8), torch.zeros(1), Conditioning(spatial=torch.zeros(1, 3, 8, 8)))
    with pytest.raises(RecipeError, match="an embedding of 16"):
        net(torch.zeros(1, 3, 8, 8), torch.zeros(1), Conditioning(scalars={"semantics": torch.zeros(1, 4)}))
    with pytest.raises(RecipeError, match="pooled"):
        PixelUnet(text=16).tiny().build()(torch.zeros(1, 3, 8, 8), torch.zeros(1), Conditioning())


@torch.no_grad()
def test_the_prior_reads_four_tokens_in_turn() -> None:
    prior = shaken(Prior().tiny().build())
    x, words, t = torch.randn(2, 16), torch.randn(2, 16), torch.tensor([5.0, 900.0])
    angles = t[:, None] * 10000 ** (-torch.arange(8) / 8)
    waves = torch.cat([angles.cos(), angles.sin()], dim=1)
    tokens = [embedding(words, prior.text_embedding), embedding(waves, prior.time_embedding)]
    tokens += [embedding(x, prior.vision_embedding), prior.eos_embedding[0].expand(2, -1)]
    h = torch.stack(tokens, dim=1) + prior.pos_embedding
    for block in prior.blocks:
        q, k, v = block.attn.to_qkv(block.norm1(h)).split(16, dim=2)
        heads = []
        for at in (slice(0, 8), slice(8, 16)):
            scores = q[..., at] @ k[..., at].transpose(1, 2) / math.sqrt(8)
            later = torch.ones(4, 4).triu(1).bool()
            heads.append(scores.masked_fill(later, float("-inf")).softmax(2) @ v[..., at])
        h = h + block.attn.proj(torch.cat(heads, dim=2))
        h = h + block.ffn[2](functional.gelu(block.ffn[0](block.norm2(h))))
    wanted = prior.head(prior.norm(h[:, 3]))
    found = prior(x, t, Conditioning(vector=words))
    assert torch.allclose(found, wanted, atol=1e-5)
    with pytest.raises(RecipeError, match="pooled text of 16"):
        prior(x, t, Conditioning())


def test_pooled_words_at_the_length_of_pictures() -> None:
    pooled = torch.randn(2, 9) * 7
    joined = RootLength().build().fuse((TextEncoding(torch.zeros(2, 1, 9), None, pooled),))
    assert joined.vector is not None
    assert torch.allclose(joined.vector.norm(dim=1), torch.full((2,), 3.0))
    assert torch.allclose(functional.cosine_similarity(joined.vector, pooled), torch.ones(2))
    with pytest.raises(RecipeError, match="no text encoder"):
        RootLength().build().fuse((TextEncoding(torch.zeros(2, 1, 9)),))


@torch.no_grad()
def test_esrgan_equals_a_manual_computation() -> None:
    net = shaken(Esrgan().tiny().build())
    small = torch.rand(1, 3, 4, 4) * 2 - 1
    state = net.state_dict()

    def convolved(h: Tensor, name: str) -> Tensor:
        return functional.conv2d(h, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    first = h = convolved(small.flip(1) / 2 + 0.5, "conv_first")
    for block in range(2):
        entered = h
        for dense in (1, 2, 3):
            seen = h
            for index in (1, 2, 3, 4):
                more = functional.leaky_relu(convolved(seen, f"body.{block}.rdb{dense}.conv{index}"), 0.2)
                seen = torch.cat([seen, more], dim=1)
            h = h + 0.2 * convolved(seen, f"body.{block}.rdb{dense}.conv5")
        h = entered + 0.2 * h
    h = first + convolved(h, "conv_body")
    for name in ("conv_up1", "conv_up2"):
        h = functional.leaky_relu(convolved(h.repeat_interleave(2, 2).repeat_interleave(2, 3), name), 0.2)
    h = convolved(functional.leaky_relu(convolved(h, "conv_hr"), 0.2), "conv_last")
    found = net(torch.zeros(1, 3, 16, 16), torch.ones(1), Conditioning(spatial=small))
    assert torch.allclose(found, h.flip(1) * 2 - 1, atol=1e-4)
    with pytest.raises(RecipeError, match="enlarges a picture"):
        net(torch.zeros(1, 3, 12, 16), torch.ones(1), Conditioning(spatial=small))


def test_esrgans_file_fills_a_denoiser(tmp_path: Path) -> None:
    made = shaken(Esrgan().tiny().build())
    old = {
        f"model.1.sub.{b}.RDB{d}.conv{c}.0": f"body.{b}.rdb{d}.conv{c}"
        for b in (0, 1)
        for d in (1, 2, 3)
        for c in range(1, 6)
    }
    old |= {"model.0": "conv_first", "model.1.sub.2": "conv_body", "model.3": "conv_up1", "model.6": "conv_up2"}
    old |= {"model.8": "conv_hr", "model.10": "conv_last"}
    state = {
        f"{theirs}.{n}": made.state_dict()[f"{ours}.{n}"] for theirs, ours in old.items() for n in ("weight", "bias")
    }
    torch.save(state, tmp_path / "RRDB_ESRGAN_x4.pth")
    other: Any = Esrgan().tiny().build()
    fill(other, tmp_path / "RRDB_ESRGAN_x4.pth")
    assert all(torch.equal(value, made.state_dict()[name]) for name, value in other.state_dict().items())
    del state["model.8.bias"]
    torch.save(state, tmp_path / "RRDB_ESRGAN_x4.pth")
    with pytest.raises(WeightsError, match=r"conv_hr\.bias"):
        fill(other, tmp_path / "RRDB_ESRGAN_x4.pth")


def test_every_spelling_of_esrgans_names() -> None:
    ours = set(Esrgan().tiny().build().state_dict())
    new = {
        name.replace("body.", "RRDB_trunk.", 1)
        .replace("conv_RRDB_trunk.", "trunk_conv.")
        .replace("rdb", "RDB")
        .replace("conv_up", "upconv")
        .replace("conv_hr", "HRconv")
        for name in ours
    }
    assert new.isdisjoint(ours - {n for n in ours if n.startswith(("conv_first", "conv_last"))})
    assert {published_name(name) for name in new} == ours
    old = {
        f"model.1.sub.{block}.RDB{dense}.conv{index}.0.{last}"
        for block in range(2)
        for dense in (1, 2, 3)
        for index in range(1, 6)
        for last in ("weight", "bias")
    }
    old |= {f"model.{n}.{last}" for n in ("0", "1.sub.2", "3", "6", "8", "10") for last in ("weight", "bias")}
    assert {published_name(name) for name in old} == ours
    assert {published_name(name) for name in ours} == ours


@pytest.mark.parametrize(
    ("part", "count"),
    [
        (Esrgan(), 16_697_987),  # that of RRDB_ESRGAN_x4.pth
        (Prior(), 1_230_121_728),
        (PixelUnet(embed=768, reads="semantics"), 2_144_325_126),
    ],
)
def test_sizes_at_full_width(part: Esrgan | Prior | PixelUnet, count: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in part.build().parameters()) == count
