"""Denoisers of published systems at half their width, with random weights: for bench/processor.py."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

#: Denoisers of diffusers, at half their published width -> their class.
NETWORKS = {
    "hunyuan-dit": "HunyuanDiT2DModel",
    "kolors": "UNet2DConditionModel",
    "z-image": "ZImageTransformer2DModel",
}
#: How many repeated blocks of each are made, of the published 40, 10 (in the innermost of a UNet's blocks) and 30.
LAYERS = {"hunyuan-dit": 40, "kolors": 10, "z-image": 15}


def network(name: str, layers: int) -> Any:
    """A denoiser of diffusers at half its published width, with random weights."""
    import diffusers
    import torch

    torch.manual_seed(0)
    settings: dict[str, dict[str, Any]] = {
        "hunyuan-dit": {
            "num_attention_heads": 16,
            "attention_head_dim": 44,
            "in_channels": 4,
            "patch_size": 2,
            "sample_size": 128,
            "hidden_size": 704,
            "num_layers": layers,
            "mlp_ratio": 4.3637,
            "cross_attention_dim": 1024,
            "cross_attention_dim_t5": 2048,
            "pooled_projection_dim": 1024,
            "use_style_cond_and_image_meta_size": False,
            "learn_sigma": True,
        },
        "kolors": {
            "sample_size": 64,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "block_out_channels": (160, 320, 640),
            "attention_head_dim": (5, 10, 20),
            "transformer_layers_per_block": (1, 2, layers),
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 5632,
            "encoder_hid_dim": 4096,
            "encoder_hid_dim_type": "text_proj",
        },
        "z-image": {"dim": 1920, "n_heads": 15, "n_kv_heads": 15, "n_layers": layers},
    }
    made = getattr(diffusers, NETWORKS[name])(**settings[name])
    awake(made)
    return made.eval()


def inputs_of(name: str, side: int, dtype: Any) -> dict[str, Any]:
    """What a denoiser is asked for a latent of so many places a side."""
    import torch

    torch.manual_seed(1)

    def numbers(*shape: int) -> Any:
        return torch.randn(*shape).to(dtype)

    if name == "hunyuan-dit":
        from diffusers.models.embeddings import get_2d_rotary_pos_embed

        rows = side // 2
        return {
            "hidden_states": numbers(2, 4, side, side),
            "timestep": torch.tensor([500.0, 500.0]).to(dtype),
            "encoder_hidden_states": numbers(2, 77, 1024),
            "text_embedding_mask": torch.ones(2, 77, dtype=torch.bool),
            "encoder_hidden_states_t5": numbers(2, 256, 2048),
            "text_embedding_mask_t5": torch.ones(2, 256, dtype=torch.bool),
            "image_meta_size": None,
            "style": None,
            "image_rotary_emb": get_2d_rotary_pos_embed(44, ((0, 0), (rows, rows)), (rows, rows), output_type="pt"),
        }
    if name == "kolors":
        return {
            "sample": numbers(2, 4, side, side),
            "timestep": torch.tensor([500, 500]),
            "encoder_hidden_states": numbers(2, 256, 4096),
            "added_cond_kwargs": {"text_embeds": numbers(2, 4096), "time_ids": numbers(2, 6)},
        }
    return {
        "x": [numbers(16, 1, side, side)],
        "t": torch.tensor([0.5]).to(dtype),
        "cap_feats": [numbers(64, 2560)],
    }


def awake(module: Any) -> None:
    """Sets zero-initialised gates to other values, as blocks would otherwise have no effect."""
    import torch

    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1 and not bool(parameter.any()):
                parameter.normal_(0, 0.02)


class Answer:
    """A network's output, saved as pictures are."""

    def __init__(self, output: Any) -> None:
        self.output = output

    def save(self, file: str) -> None:
        """Writes a tensor."""
        import torch

        torch.save(self.output, file)


def of_network(folder: Path, name: str, side: str) -> Callable[[int, int, Callable[[], None]], Answer]:
    """A "drawing" of the network alone: the same input for every step, of a size in pixels."""
    import diffusers
    import torch

    from bimo.core.pages import freed_kept
    from bimo.engine import packing

    half = side.endswith("bf16")
    dtype = torch.bfloat16 if half else torch.float32
    module = getattr(diffusers, NETWORKS[name]).from_pretrained(folder / name, torch_dtype=dtype).eval()
    if side.startswith("openvino"):
        from bimo.engine.openvino import ConvertedBlock, repeated
        from bimo.engine.openvino_cache import ConversionCache

        cache = ConversionCache(folder / f"{name}-converted")
        for path, block in repeated(module):
            ConvertedBlock(path, block, "bf16" if half else "f32", cache)
    elif side == "torch-bf16":
        packing.pack(module)
    working = nullcontext if side.startswith("diffusers") else freed_kept

    def draw(size: int, steps: int, note: Callable[[], None]) -> Any:
        inputs = inputs_of(name, size // 8, dtype)
        output: Any = None
        with torch.inference_mode(), working():
            for _ in range(steps):
                note()
                output = module(**inputs, return_dict=False)[0]
        note()
        return Answer((output[0] if isinstance(output, list) else output).float())

    return draw
