"""Optional changes of a diffusers UNet's step: DeepCache, token merging, normalized attention guidance."""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from bimo.core.errors import RequestError
from bimo.core.tensors import DeepFeatures, Nag, TextEncoding

#: The stride of destination tokens: one of each 2x2 positions (arXiv:2303.17604).
STRIDE = 2


def deep(network: Any, inputs: Mapping[str, Any], features: DeepFeatures) -> Tensor:
    """The output of a UNet2DConditionModel, [R, C, h, w]: of a full step, which caches the features before the last
    layer, or of the first convolution, those features and the last layer alone.

    DeepCache (arXiv:2312.00858) at its outermost branch: inner layers hardly change from step to step.
    """
    last = network.up_blocks[-1]
    if not features.reused or features.value is None:
        skipped = network.conv_in.out_channels

        def keep(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            # The layer's input is the inner features concatenated with the skip of the first convolution.
            features.value = args[0][:, :-skipped]

        hook = last.resnets[-1].register_forward_pre_hook(keep)
        try:
            return network(**inputs, return_dict=False)[0]
        finally:
            hook.remove()
    x, t, words = inputs["sample"], inputs["timestep"], inputs["encoder_hidden_states"]
    added = inputs.get("added_cond_kwargs")
    time = network.time_embedding(network.get_time_embed(sample=x, timestep=t), inputs.get("timestep_cond"))
    label = network.get_class_embed(sample=x, class_labels=inputs.get("class_labels"))
    time = time if label is None else time + label
    extra = network.get_aug_embed(emb=time, encoder_hidden_states=words, added_cond_kwargs=added)
    time = time if extra is None else time + extra
    words = network.process_encoder_hidden_states(encoder_hidden_states=words, added_cond_kwargs=added)
    mask = inputs.get("encoder_attention_mask")
    x = last.resnets[-1](torch.cat([features.value, network.conv_in(x)], dim=1), time)
    if last.has_cross_attention:
        bias = None if mask is None else (1 - mask.to(x.dtype))[:, None] * -10000.0
        x = last.attentions[-1](x, encoder_hidden_states=words, encoder_attention_mask=bias, return_dict=False)[0]
    return network.conv_out(network.conv_act(network.conv_norm_out(x)))


@contextmanager
def shortened(
    network: nn.Module, x: Tensor, token_merging: float, nag: Nag | None, negative: TextEncoding | None
) -> Generator[None]:
    """In this context a UNet's self-attentions at full resolution merge tokens, and its cross-attentions are guided
    away from the negative prompt. Raises RequestError if it has neither.
    """
    from diffusers.models.attention import BasicTransformerBlock

    places = x.shape[-2] * x.shape[-1]
    changed: list[tuple[Any, Any]] = []
    try:
        for module in network.modules():
            if not isinstance(module, BasicTransformerBlock):
                continue
            if token_merging:
                changed.append((module.attn1, module.attn1.processor))
                module.attn1.processor = cast(
                    Any, _Merging(module.attn1.processor, (x.shape[-2], x.shape[-1]), token_merging)
                )
            if nag is not None and negative is not None and module.attn2 is not None:
                changed.append((module.attn2, module.attn2.processor))
                module.attn2.processor = cast(Any, _Nag(nag, network, negative))
        if not changed:
            raise RequestError("this network of {places} places has no attention to merge tokens in", places=places)
        yield
    finally:
        for attention, processor in changed:
            attention.processor = processor


class _Merging:
    """Self-attention over merged tokens, at the resolution of x."""

    def __init__(self, own: Any, size: tuple[int, int], share: float) -> None:
        self.own = own
        self.size = size
        self.share = share

    def __call__(self, attention: Any, hidden_states: Tensor, *args: Any, **named: Any) -> Tensor:
        if hidden_states.shape[1] != self.size[0] * self.size[1]:
            return self.own(attention, hidden_states, *args, **named)
        merge, spread = merging(hidden_states, self.size, self.share)
        return spread(self.own(attention, merge(hidden_states), *args, **named))


def merging(
    x: Tensor, size: tuple[int, int], share: float
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Functions that merge a share of the tokens [B, h w, D] into the most similar ones, and that unmerge the result.

    Token Merging for Stable Diffusion (arXiv:2303.17604): one of each 2x2 positions, chosen at random with its own
    seed, is a destination; of the others the ``share`` of all tokens with the highest cosine similarity are merged.
    """
    rows, (h, w) = x.shape[0], size
    is_target = torch.zeros(h, w, dtype=torch.bool)
    draw = torch.Generator().manual_seed(0)
    tall, wide = h // STRIDE, w // STRIDE
    chosen = torch.randint(STRIDE * STRIDE, (tall, wide), generator=draw)
    down, right = torch.meshgrid(torch.arange(tall), torch.arange(wide), indexing="ij")
    is_target[down * STRIDE + chosen // STRIDE, right * STRIDE + chosen % STRIDE] = True
    targets = is_target.flatten().nonzero()[:, 0].to(x.device)
    others = (~is_target).flatten().nonzero()[:, 0].to(x.device)
    count = min(len(others), int(share * h * w))
    unit = nn.functional.normalize(x.float(), dim=-1).to(x.dtype)
    likeness, nearest = (unit[:, others] @ unit[:, targets].transpose(1, 2)).max(dim=-1)
    order = likeness.argsort(dim=-1, descending=True)
    merged, alone = order[:, :count], order[:, count:]
    into = nearest.gather(1, merged)

    def rows_of(values: Tensor, index: Tensor) -> Tensor:
        return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))

    def merge(values: Tensor) -> Tensor:
        target, other = values[:, targets], values[:, others]
        sources = rows_of(other, merged)
        place = into[..., None].expand_as(sources)
        target = target.scatter_reduce(1, place, sources, reduce="mean", include_self=True)
        return torch.cat([rows_of(other, alone), target], dim=1)

    def spread(values: Tensor) -> Tensor:
        single, target = values[:, : alone.shape[1]], values[:, alone.shape[1] :]
        whole = values.new_empty(rows, h * w, values.shape[-1])
        whole[:, targets] = target
        other = values.new_empty(rows, len(others), values.shape[-1])
        other.scatter_(1, alone[..., None].expand(-1, -1, values.shape[-1]), single)
        other.scatter_(1, merged[..., None].expand(-1, -1, values.shape[-1]), rows_of(target, into))
        whole[:, others] = other
        return whole

    return merge, spread


class _Nag:
    """Cross-attention guided away from a negative prompt: normalized attention guidance (arXiv:2505.21179).

    z = z+ + (scale - 1) (z+ - z-), limited to ``tau`` times the L1 norm of z+, and blended with z+ by ``alpha``
    (equations 7 to 10).
    """

    def __init__(self, nag: Nag, network: Any, negative: TextEncoding) -> None:
        self.nag = nag
        self.words = network.process_encoder_hidden_states(
            encoder_hidden_states=negative.tokens, added_cond_kwargs=None
        )
        self.mask = negative.mask

    def __call__(
        self,
        attention: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        query = attention.to_q(hidden_states)
        positive = _attend(attention, query, encoder_hidden_states, attention_mask)
        bias = None if self.mask is None else (1 - self.mask.to(query.dtype))[:, None] * -10000.0
        away = _attend(attention, query, self.words.to(query.dtype), bias)
        led = positive + (self.nag.scale - 1) * (positive - away)
        ratio = led.abs().sum(-1, keepdim=True) / positive.abs().sum(-1, keepdim=True).clamp(min=1e-12)
        led = led * (self.nag.tau / ratio.clamp(min=self.nag.tau))
        mixed = self.nag.alpha * led + (1 - self.nag.alpha) * positive
        return attention.to_out[1](attention.to_out[0](mixed)) / attention.rescale_output_factor


def _attend(attention: Any, query: Tensor, words: Tensor, bias: Tensor | None) -> Tensor:
    """[R, N, D] attending to text [R, L, D'] -> [R, N, D], before the output projection."""
    heads: list[Tensor] = [
        rows.unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        for rows in (query, attention.to_k(words), attention.to_v(words))
    ]
    mask = None if bias is None else bias[:, None]
    attended = nn.functional.scaled_dot_product_attention(heads[0], heads[1], heads[2], attn_mask=mask)
    return attended.transpose(1, 2).flatten(2)
