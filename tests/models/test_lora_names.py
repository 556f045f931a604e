"""Every naming that files of LoRA have for a transformer's layers finds the same ones."""

from __future__ import annotations

from bimo.diffusion.system import System
from bimo.models.adapters.lora_names import layer_names
from bimo.recipes.hunyuan_image import hunyuan_image_2_1_distilled

#: Layers of HunyuanImage-2.1's authors, of ComfyUI and of diffusers: what those who brought the weights to diffusers'
#: layout renamed (scripts/convert_hunyuan_image_to_diffusers.py), "q k v" side by side.
HUNYUAN_IMAGE = {
    "double_blocks.0.img_attn_qkv": "transformer_blocks.0.attn.to_q to_k to_v",
    "double_blocks.0.img_attn.qkv": "transformer_blocks.0.attn.to_q to_k to_v",
    "double_blocks.0.txt_attn_qkv": "transformer_blocks.0.attn.add_q_proj add_k_proj add_v_proj",
    "double_blocks.0.img_attn_k": "transformer_blocks.0.attn.to_k",
    "double_blocks.0.txt_attn_v": "transformer_blocks.0.attn.add_v_proj",
    "double_blocks.0.img_attn_proj": "transformer_blocks.0.attn.to_out.0",
    "double_blocks.0.txt_attn.proj": "transformer_blocks.0.attn.to_add_out",
    "double_blocks.0.img_mod.linear": "transformer_blocks.0.norm1.linear",
    "double_blocks.0.txt_mod.lin": "transformer_blocks.0.norm1_context.linear",
    "double_blocks.0.img_mlp.fc1": "transformer_blocks.0.ff.net.0.proj",
    "double_blocks.0.img_mlp.2": "transformer_blocks.0.ff.net.2",
    "double_blocks.0.txt_mlp.fc2": "transformer_blocks.0.ff_context.net.2",
    "single_blocks.0.linear1_v": "single_transformer_blocks.0.attn.to_v",
    "single_blocks.0.linear1_mlp": "single_transformer_blocks.0.proj_mlp",
    "single_blocks.0.linear2": "single_transformer_blocks.0.proj_out",
    "single_blocks.0.linear2.fc": "single_transformer_blocks.0.proj_out",
    "single_blocks.0.modulation.linear": "single_transformer_blocks.0.norm.linear",
    "img_in.proj": "x_embedder.proj",
    "txt_in.input_embedder": "context_embedder.proj_in",
    "txt_in.c_embedder.linear_2": "context_embedder.time_text_embed.text_embedder.linear_2",
    "txt_in.individual_token_refiner.blocks.0.self_attn_qkv": (
        "context_embedder.token_refiner.refiner_blocks.0.attn.to_q to_k to_v"
    ),
    "txt_in.individual_token_refiner.blocks.0.mlp.fc1": (
        "context_embedder.token_refiner.refiner_blocks.0.ff.net.0.proj"
    ),
    "byt5_in.fc3": "context_embedder_2.linear_3",
    "time_in.mlp.0": "time_guidance_embed.timestep_embedder.linear_1",
    "time_r_in.mlp.2": "time_guidance_embed.timestep_embedder_r.linear_2",
    "guidance_in.mlp.2": "time_guidance_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
}


def test_every_naming_of_hunyuan_image_finds_the_same_layers() -> None:
    system = System(hunyuan_image_2_1_distilled.tiny())
    names = layer_names(system)
    for theirs, ours in HUNYUAN_IMAGE.items():
        first, *others = ours.split()
        at = first.rpartition(".")[0]
        expected = [f"image.denoiser.model.{path}" for path in (first, *(f"{at}.{other}" for other in others))]
        for spelt in (theirs, f"diffusion_model.{theirs}", f"lora_unet_{theirs.replace('.', '_')}"):
            (found,) = names.find(spelt)
            assert [piece.path for piece in found] == expected, spelt
        for path in expected:
            system.get_submodule(path)
            (found,) = names.find(path.replace("image.denoiser.model.", "transformer."))
            assert [piece.path for piece in found] == [path]
    (whole,) = names.find("single_blocks.0.linear1")
    assert [p.path.rpartition(".")[2] for p in whole] == ["to_q", "to_k", "to_v", "proj_mlp"]
