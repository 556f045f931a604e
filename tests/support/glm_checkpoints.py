"""Tiny random GLM-Image checkpoints, saved by the libraries' own classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tests.support.tiny_checkpoints import byte_letters

#: Tokens of a picture, the codes that the transformer knows; then the marks, then letters.
CODES, MARKS = 32, ("<|dit_token_16384|>", "<|dit_token_16385|>")
OTHERS = ("<|endoftext|>", "<sop>", "<eop>", "<|image|>")
TEMPLATE = (
    "{% for m in messages %}{% for item in m['content'] %}{% if item['type'] == 'image' %}"
    "<|dit_token_16384|><|image|><|dit_token_16385|>{% else %}{{ item['text'] }}{% endif %}{% endfor %}{% endfor %}"
)
MERGES = (("r", "e"), ("re", "d"), ("1", "6"))
PIXELS = {"shortest_edge": 32 * 32, "longest_edge": 256 * 256}


def glm_image_words(folder: Path) -> Any:
    """A vocabulary that begins with a picture's tokens, in a folder."""
    letters = [*byte_letters(), *("".join(pair) for pair in MERGES)]
    special = [*(f"<|dit_token_{number}|>" for number in range(CODES)), *MARKS, *OTHERS]
    table = {word: place for place, word in enumerate([*special, *letters])}
    plain = Tokenizer(models.BPE(vocab=table, merges=list(MERGES)))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    plain.add_special_tokens(special)
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain,
        pad_token="<|endoftext|>",
        bos_token=MARKS[0],
        eos_token=MARKS[1],
        padding_side="left",
        extra_special_tokens={"image_token": "<|image|>", "grid_bos_token": "<sop>", "grid_eos_token": "<eop>"},
    )
    made.chat_template = TEMPLATE
    made.save_pretrained(str(folder))
    return made


def vision_language(vocab: int, image_token: int, **generation: Any) -> Any:
    """The whole prior: what sees, the codebook, what writes."""
    text = {"vocab_size": vocab, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 2048}
    text |= {"vision_vocab_size": CODES, "pad_token_id": 0, "eos_token_id": CODES + 1}
    text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}}
    vision = {"depth": 2, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "image_size": 64}
    codes = {"embed_dim": 16, "num_embeddings": CODES, "latent_channels": 16}
    config = transformers.GlmImageConfig(
        text_config=text,
        vision_config=vision,
        vq_config=codes,
        image_token_id=image_token,
        image_start_token_id=CODES,
        image_end_token_id=CODES + 1,
    )
    model = transformers.GlmImageForConditionalGeneration(config)
    model.generation_config = transformers.GenerationConfig(
        **{"do_sample": True, "temperature": 0.9, "top_p": 0.75, "eos_token_id": CODES + 1, **generation}
    )
    return model


def glm_image(folder: Path, **times: Any) -> Any:
    """A pipeline of random weights; its words are saved beside ``folder``."""
    from tests.support.flow_checkpoints import awake, byt5, flux_vae

    words = glm_image_words(folder.with_name("words"))
    pictures = transformers.models.glm_image.image_processing_pil_glm_image.GlmImageImageProcessorPil(
        size=PIXELS, patch_size=16, temporal_patch_size=1, merge_size=1
    )
    processor = transformers.GlmImageProcessor(pictures, words, chat_template=TEMPLATE)
    own = {"use_dynamic_shifting": True, "base_shift": 0.25, "max_shift": 0.75, "time_shift_type": "linear"}
    moments = {"latents_mean": [0.1 * (i - 8) for i in range(16)], "latents_std": [0.5 + 0.1 * i for i in range(16)]}
    return diffusers.GlmImagePipeline(
        tokenizer=transformers.ByT5Tokenizer(),
        processor=processor,
        text_encoder=awake(byt5()),
        vision_language_encoder=awake(vision_language(len(words), words.convert_tokens_to_ids("<|image|>"))),
        vae=flux_vae(shift_factor=None, **moments),
        transformer=awake(
            diffusers.GlmImageTransformer2DModel(
                num_layers=2,
                attention_head_dim=8,
                num_attention_heads=2,
                text_embed_dim=16,
                time_embed_dim=16,
                condition_dim=8,
                prior_vq_quantizer_codebook_size=CODES,
            )
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**{**own, **times}),
    )


def reading_pictures(pipeline: Any) -> Any:
    """The pipeline, able to read pictures: diffusers 0.42 joins the patches of pictures in a row, which transformers
    5.23 gives as maps, and asks for the tokens of all at once. Within ``generate`` they stay maps.
    """
    model = pipeline.vision_language_encoder
    features, tokens = model.get_image_features, model.get_image_tokens

    def in_a_row(*given: Any, **named: Any) -> Any:
        answer = features(*given, **named)
        if given:
            answer.pooler_output = [one.flatten(1).T for one in answer.pooler_output]
        return answer

    def of_a_row(states: Any, grids: Any) -> Any:
        every = states.split(grids.prod(dim=-1).tolist())
        return tokens([one.T.reshape(-1, *grid[1:]) for one, grid in zip(every, grids.tolist(), strict=True)])

    model.get_image_features, model.get_image_tokens = in_a_row, of_a_row
    return pipeline
