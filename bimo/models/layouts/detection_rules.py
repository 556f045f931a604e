"""The table of detection rules, the most specific first: names and shapes of tensors by system."""

from __future__ import annotations

from dataclasses import dataclass

from bimo.core.messages import Message

Shape = tuple[int | None, ...] | None
TOKENS = "text_model.embeddings.token_embedding.weight"
BERT_TOKENS = "embeddings.word_embeddings.weight"
LDM_CLIP, LDM_XL = f"cond_stage_model.transformer.{TOKENS}", f"conditioner.embedders.0.transformer.{TOKENS}"
OPEN_CLIP = "cond_stage_model.model.token_embedding.weight"
LDM_UNET = "model.diffusion_model.input_blocks.0.0.weight"


@dataclass(frozen=True)
class Rule:
    """A file is a ``system`` if it has tensors with the names (globs) and shapes (None is any size) of ``needs``, and
    none that matches ``never``.

    ``text`` is the layout of a single file's text encoder, "" for what is not a single file of a whole system.
    ``advice`` tells users how to use something that is not a system.
    """

    system: str
    needs: tuple[tuple[str, Shape], ...]
    why: Message
    text: str = ""
    never: tuple[str, ...] = ()
    advice: Message | None = None


#: The advice for ControlNets and T2I-Adapters.
CONTROL = Message("it goes with a model: -m MODEL --control PICTURE=FOLDER")

RULES = (
    # Adapters that users name in place of a model.
    *(
        Rule(
            "lora",
            ((glob, None),),
            Message("its tensors are named as a LoRA's"),
            advice=Message("it goes with a model: -m MODEL --lora FILE"),
            never=("first_stage_model.*",),
        )
        for glob in ("*lora*", "*.hada_w1_a", "*.lokr_w*", "*.oft_*", "*.dora_scale")
    ),
    *(
        Rule(
            "textual inversion",
            ((glob, None),),
            Message("it holds {name} alone", name=glob.rstrip("*")),
            advice=Message("it is the embedding of a word and goes with a model: -m MODEL --embedding FILE"),
        )
        for glob in ("string_to_param*", "emb_params", "clip_g", "clip_l", "text_encoders_0")
    ),
    *(
        Rule(
            "controlnet",
            ((glob, None),),
            Message("it has a {name}", name=name),
            advice=CONTROL,
            never=("first_stage_model.*",),
        )
        for glob, name in (
            ("*input_hint_block.0.weight", "input_hint_block"),
            ("*controlnet_x_embedder.weight", "controlnet_x_embedder"),
            ("*control_all_x_embedder.*", "control_all_x_embedder"),
            ("*controlnet_cond_embedding.*", "controlnet_cond_embedding"),
        )
    ),
    *(
        Rule("t2i-adapter", ((glob, None),), Message("it is a T2I-Adapter"), advice=CONTROL)
        for glob in ("adapter.body.*", "body.0.block1.weight")
    ),
    Rule(
        "ip-adapter",
        (("image_proj.*", None), ("ip_adapter.*", None)),
        Message("it has image_proj and ip_adapter: an IP-Adapter"),
        advice=Message("it goes with a model and is none itself"),
    ),
    # Single files in LDM's layout.
    Rule(
        "taiyi-sd-zh",
        (("cond_stage_model.transformer." + BERT_TOKENS, (21128, 768)),),
        Message(
            "cond_stage_model.transformer is a BERT of [21128, 768] words, without the segment text_model: Taiyi-SD zh"
        ),
        text="bert",
    ),
    Rule(
        "stable-diffusion-bert",
        (("cond_stage_model.transformer." + BERT_TOKENS, None),),
        Message("cond_stage_model.transformer is a BERT of another size: Taiyi-SD zh's layout"),
        text="bert",
    ),
    Rule(
        "altdiffusion-m18",
        (
            ("cond_stage_model.roberta." + BERT_TOKENS, None),
            ("cond_stage_model.transformation.weight", (1024, None)),
        ),
        Message("it has a roberta and a transformation 1024 wide: AltDiffusion-m18"),
        text="roberta",
    ),
    Rule(
        "altdiffusion-m9",
        (("cond_stage_model.roberta." + BERT_TOKENS, None), ("cond_stage_model.transformation.weight", (768, None))),
        Message("it has a roberta and a transformation 768 wide: AltDiffusion (m2 or m9, whose shapes are the same)"),
        text="roberta",
    ),
    Rule(
        "altdiffusion",
        (("cond_stage_model.roberta." + BERT_TOKENS, None), ("cond_stage_model.transformation.weight", None)),
        Message("it has a roberta and a transformation of another size: AltDiffusion's layout"),
        text="roberta",
    ),
    Rule(
        "sdxl-refiner",
        (("conditioner.embedders.0.model.token_embedding.weight", None),),
        Message("its first encoder is OpenCLIP, there is no CLIP: the refiner of SDXL"),
        advice=Message("it only refines the pictures of another model"),
    ),
    Rule(
        "taiyi-xl",
        ((LDM_XL, (57475, 768)), ("conditioner.embedders.1.model.token_embedding.weight", (57475, 1280))),
        Message("the vocabularies of both encoders have 57475 words: Taiyi-XL"),
        text="xl",
    ),
    Rule(
        "stable-diffusion-xl",
        ((LDM_XL, None), ("conditioner.embedders.1.model.token_embedding.weight", None)),
        Message("it has two encoders, conditioner.embedders: SDXL"),
        text="xl",
    ),
    Rule(
        "pai-diffusion",
        ((LDM_CLIP, (21128, 768)),),
        Message("CLIP's vocabulary is the 21128 words of BERT: PAI-Diffusion"),
        text="clip",
    ),
    Rule(
        "skypaint",
        ((LDM_CLIP, (105879, 768)),),
        Message("CLIP's vocabulary is the 105879 words of multilingual BERT: SkyPaint"),
        text="clip",
    ),
    Rule(
        "stable-diffusion",
        ((LDM_CLIP, None),),
        Message(
            "its encoder is a CLIPTextModel: Stable Diffusion; Taiyi-SD EN, WuKong-HuaHua and MiaoBi have its shapes, "
            "the tokenizer tells them apart"
        ),
        text="clip",
    ),
    Rule(
        "wukong-huahua",
        ((OPEN_CLIP, (49408, 768)),),
        Message("its encoder is a causal transformer that MindSpore wrote, [49408, 768] words: WuKong-HuaHua"),
        text="openclip",
    ),
    Rule(
        "stable-diffusion-2",
        ((OPEN_CLIP, (None, 1024)),),
        Message("its encoder is OpenCLIP 1024 wide: Stable Diffusion 2"),
        text="openclip",
    ),
    Rule(
        "wukong-huahua",
        ((OPEN_CLIP, None),),
        Message("its encoder is a causal transformer without text_projection: WuKong-HuaHua's layout, another size"),
        text="openclip",
        never=("cond_stage_model.model.text_projection",),
    ),
    Rule(
        "stable-diffusion-2",
        ((OPEN_CLIP, None),),
        Message("its encoder is OpenCLIP of another size: Stable Diffusion 2's layout"),
        text="openclip",
    ),
    Rule(
        "unet",
        ((LDM_UNET, None),),
        Message("it is a UNet without a text encoder that is known"),
        advice=Message("name the whole model"),
    ),
    # Weights without the other files of their system.
    Rule(
        "bimo",
        (("text.0.*", None), ("*.denoiser.*", None)),
        Message("it is the weights of a model of bimo"),
        advice=Message("name the folder it is in"),
    ),
    Rule(
        "viscpm-paint",
        (("llm.*", None), ("trans_block.*", None), ("unet.*", None)),
        Message("its tensors are llm, trans_block and unet: VisCPM-Paint"),
        advice=Message("name its recipe, with the file in a folder"),
    ),
    Rule(
        "hunyuan-dit",
        (("mlp_t5.0.weight", None), ("blocks.0.attn2.kv_proj.weight", None)),
        Message("it has mlp_t5 and kv_proj: HunyuanDiT's own weights"),
        advice=Message("name the whole folder of the model"),
    ),
    Rule(
        "unet",
        (("conv_in.weight", None), ("down_blocks.*", None), ("time_embedding.*", None)),
        Message("it is a UNet of diffusers"),
        advice=Message("name the whole folder of the model"),
    ),
    Rule(
        "vae",
        (("*decoder.conv_out.weight", None), ("*encoder.conv_in.weight", None)),
        Message("it is an autoencoder alone"),
        advice=Message("name the whole model"),
        never=("*diffusion_model*",),
    ),
    Rule(
        "text encoder",
        (("*embeddings.*_embedding*.weight", None),),
        Message("it is a text encoder alone"),
        advice=Message("name the whole model"),
        never=("*diffusion_model*",),
    ),
    Rule(
        "transformer",
        (("*transformer_blocks.0.*", None),),
        Message("it is a transformer alone, without text encoders and an autoencoder"),
        advice=Message("name the whole folder of the model"),
        never=("*diffusion_model*", "conv_in.weight"),
    ),
)
