"""The names that transformers' layers have in their authors' code, where diffusers' classes have others."""

from __future__ import annotations

from collections.abc import Mapping

#: Names in HunyuanDiT's authors' blocks -> diffusers' names.
HUNYUAN_BLOCK = {
    "attn2.q_proj": "attn2.to_q",
    "attn1.out_proj": "attn1.to_out.0",
    "attn2.out_proj": "attn2.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
    "default_modulation.1": "norm1.linear",
}
#: HunyuanDiT's other layers -> its authors' names.
HUNYUAN = {
    "pos_embed.proj": "x_embedder.proj",
    "text_embedder.linear_1": "mlp_t5.0",
    "text_embedder.linear_2": "mlp_t5.2",
    "time_extra_emb.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_extra_emb.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_extra_emb.extra_embedder.linear_1": "extra_embedder.0",
    "time_extra_emb.extra_embedder.linear_2": "extra_embedder.2",
    "time_extra_emb.style_embedder": "style_embedder",
    "proj_out": "final_layer.linear",
}
#: Lumina-Image 2.0's and Z-Image's, by suffixes of diffusers' names.
LUMINA = {
    r"(.+)\.attn\.to_out\.0": r"\1.attention.out",
    r"(.+)\.attn\.norm_([qk])": r"\1.attention.\2_norm",
    r"(.+)\.feed_forward\.linear_(\d)": r"\1.feed_forward.w\2",
    r"(context_refiner\.\d+)\.norm1": r"\1.attention_norm1",
    r"(.+)\.norm1\.linear": r"\1.adaLN_modulation.1",
    r"(.+)\.norm1\.norm": r"\1.attention_norm1",
    r"(.+)\.norm2": r"\1.attention_norm2",
    r"norm_out\.linear_1": "final_layer.adaLN_modulation.1",
    r"norm_out\.linear_2": "final_layer.linear",
    r"time_caption_embed\.timestep_embedder\.linear_1": "t_embedder.mlp.0",
    r"time_caption_embed\.timestep_embedder\.linear_2": "t_embedder.mlp.2",
    r"time_caption_embed\.caption_embedder\.(\d)": r"cap_embedder.\1",
}
Z_IMAGE = {
    r"(.+)\.attention\.to_out\.0": r"\1.attention.out",
    r"(.+)\.attention\.norm_([qk])": r"\1.attention.\2_norm",
    r"all_x_embedder\.2-1": "x_embedder",
    r"all_final_layer\.2-1\.(.+)": r"final_layer.\1",
}
#: Transformers of double-stream and single-stream blocks, as FLUX's authors name them: Ovis-Image's, LongCat's.
STREAMS = {
    r"transformer_blocks\.(\d+)\.norm1\.linear": r"double_blocks.\1.img_mod.lin",
    r"transformer_blocks\.(\d+)\.norm1_context\.linear": r"double_blocks.\1.txt_mod.lin",
    r"transformer_blocks\.(\d+)\.attn\.to_out\.0": r"double_blocks.\1.img_attn.proj",
    r"transformer_blocks\.(\d+)\.attn\.to_add_out": r"double_blocks.\1.txt_attn.proj",
    r"transformer_blocks\.(\d+)\.ff\.net\.0\.proj": r"double_blocks.\1.img_mlp.0",
    r"transformer_blocks\.(\d+)\.ff\.net\.2": r"double_blocks.\1.img_mlp.2",
    r"transformer_blocks\.(\d+)\.ff_context\.net\.0\.proj": r"double_blocks.\1.txt_mlp.0",
    r"transformer_blocks\.(\d+)\.ff_context\.net\.2": r"double_blocks.\1.txt_mlp.2",
    r"single_transformer_blocks\.(\d+)\.norm\.linear": r"single_blocks.\1.modulation.lin",
    r"single_transformer_blocks\.(\d+)\.proj_out": r"single_blocks.\1.linear2",
    r"x_embedder": "img_in",
    r"context_embedder": "txt_in",
    r"(?:time_embed|time_text_embed|timestep_embedder)(?:\.timestep_embedder)?\.linear_1": "time_in.in_layer",
    r"(?:time_embed|time_text_embed|timestep_embedder)(?:\.timestep_embedder)?\.linear_2": "time_in.out_layer",
    r"proj_out": "final_layer.linear",
}
REFINER_BLOCK = r"context_embedder\.token_refiner\.refiner_blocks\.(\d+)"
AUTHORS_REFINER = r"txt_in.individual_token_refiner.blocks.\1"
#: HunyuanImage-2.1's in its authors' code, where they differ; some files have its fused layers split.
HUNYUAN_IMAGE = {
    r"transformer_blocks\.(\d+)\.norm1\.linear": r"double_blocks.\1.img_mod.linear",
    r"transformer_blocks\.(\d+)\.norm1_context\.linear": r"double_blocks.\1.txt_mod.linear",
    r"transformer_blocks\.(\d+)\.attn\.to_([qkv])": r"double_blocks.\1.img_attn_\2",
    r"transformer_blocks\.(\d+)\.attn\.add_([qkv])_proj": r"double_blocks.\1.txt_attn_\2",
    r"transformer_blocks\.(\d+)\.ff\.net\.0\.proj": r"double_blocks.\1.img_mlp.fc1",
    r"transformer_blocks\.(\d+)\.ff\.net\.2": r"double_blocks.\1.img_mlp.fc2",
    r"transformer_blocks\.(\d+)\.ff_context\.net\.0\.proj": r"double_blocks.\1.txt_mlp.fc1",
    r"transformer_blocks\.(\d+)\.ff_context\.net\.2": r"double_blocks.\1.txt_mlp.fc2",
    r"transformer_blocks\.(\d+)\.attn\.norm_([qk])": r"double_blocks.\1.img_attn_\2_norm",
    r"transformer_blocks\.(\d+)\.attn\.norm_added_([qk])": r"double_blocks.\1.txt_attn_\2_norm",
    r"single_transformer_blocks\.(\d+)\.attn\.norm_([qk])": r"single_blocks.\1.\2_norm",
    r"single_transformer_blocks\.(\d+)\.norm\.linear": r"single_blocks.\1.modulation.linear",
    r"single_transformer_blocks\.(\d+)\.attn\.to_([qkv])": r"single_blocks.\1.linear1_\2",
    r"single_transformer_blocks\.(\d+)\.proj_mlp": r"single_blocks.\1.linear1_mlp",
    r"single_transformer_blocks\.(\d+)\.proj_out": r"single_blocks.\1.linear2.fc",
    r"x_embedder\.proj": "img_in.proj",
    r"context_embedder\.proj_in": "txt_in.input_embedder",
    r"context_embedder\.time_text_embed\.timestep_embedder\.linear_1": "txt_in.t_embedder.mlp.0",
    r"context_embedder\.time_text_embed\.timestep_embedder\.linear_2": "txt_in.t_embedder.mlp.2",
    r"context_embedder\.time_text_embed\.text_embedder\.linear_(\d)": r"txt_in.c_embedder.linear_\1",
    rf"{REFINER_BLOCK}\.norm(\d)": rf"{AUTHORS_REFINER}.norm\2",
    rf"{REFINER_BLOCK}\.attn\.to_out\.0": rf"{AUTHORS_REFINER}.self_attn_proj",
    rf"{REFINER_BLOCK}\.ff\.net\.0\.proj": rf"{AUTHORS_REFINER}.mlp.fc1",
    rf"{REFINER_BLOCK}\.ff\.net\.2": rf"{AUTHORS_REFINER}.mlp.fc2",
    rf"{REFINER_BLOCK}\.norm_out\.linear": rf"{AUTHORS_REFINER}.adaLN_modulation.1",
    r"context_embedder_2\.linear_(\d)": r"byt5_in.fc\1",
    r"context_embedder_2\.norm": "byt5_in.layernorm",
    r"time_guidance_embed\.timestep_embedder\.linear_1": "time_in.mlp.0",
    r"time_guidance_embed\.timestep_embedder\.linear_2": "time_in.mlp.2",
    r"time_guidance_embed\.timestep_embedder_r\.linear_1": "time_r_in.mlp.0",
    r"time_guidance_embed\.timestep_embedder_r\.linear_2": "time_r_in.mlp.2",
    r"time_guidance_embed\.guidance_embedder\.linear_1": "guidance_in.mlp.0",
    r"time_guidance_embed\.guidance_embedder\.linear_2": "guidance_in.mlp.2",
}


def tables(layers: Mapping[str, object]) -> tuple[Mapping[str, str], ...]:
    """Tables of diffusers' names -> the authors' names for a transformer's layers, one for each naming scheme found in
    files.
    """
    if "noise_refiner.0.attn.to_q" in layers:
        return (LUMINA,)
    if "noise_refiner.0.attention.to_q" in layers:
        return (Z_IMAGE,)
    if "context_embedder.proj_in" in layers:
        return (STREAMS, HUNYUAN_IMAGE)
    return (STREAMS,) if "single_transformer_blocks.0.proj_mlp" in layers else ()
