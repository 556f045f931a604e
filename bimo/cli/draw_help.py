"""Help texts of the options of `bimo draw`."""

from __future__ import annotations

from bimo.core.messages import say

NEGATIVE_HELP = say('what not to draw; "" is the empty negative prompt, which is not none')
SAMPLER_HELP = say("the sampler, by its name in A1111 or diffusers: 'DPM++ 2M Karras', EulerDiscreteScheduler ...")
SCHEDULE_HELP = say("how the noise falls: normal karras exponential beta lu sgm_uniform simple")
SPACING_HELP = say("where the times of the steps lie: leading trailing linspace; trailing for Turbo and Lightning")
ETA_HELP = say("the share of DDIM's or TCD's noise drawn anew, 0 to 1")
RESCALE_HELP = say("how much of guidance's contrast is taken back, 0 to 1 (arXiv:2305.08891)")
CLIP_SKIP_HELP = say(
    "which of CLIP's layers is read, counted as A1111 does: 1 is the last; diffusers' clip_skip plus 1"
)
IMAGE_HELP = say("begin with this picture, or edit it; more than once for models that draw from several")
MASK_HELP = say("paint only where this is white (needs --image)")
LABEL_HELP = say("label the picture as a law asks: CN, that of GB 45438-2025")
C2PA_HELP = say("sign the picture (C2PA): a chain of certificates as PEM, the signer's first, and its key as PEM")
PRODUCER_HELP = say("whose name the label says")
STRENGTH_HELP = say("how much of the image is to change, above 0 and at most 1")
CONDITION_HELP = say("an image that conditions the picture: name=FILE, or its numbers: layers=6; more than once")
GUIDANCE_WEIGHT_HELP = say("the weight of a branch of guidance: name=number; more than once")
LORA_HELP = say("a LoRA, with a weight FILE:0.8 and a share of the steps FILE:0.8@0.2-0.6; more than once")
EMBEDDING_HELP = say("a word that was learnt (textual inversion): FILE, or FILE=<word>; more than once")
CONTROL_HELP = say(
    "draw along a picture: PICTURE=NETWORK, a ControlNet or T2I-Adapter in a folder or a file, with "
    "a weight and a share of the steps PICTURE=NETWORK:0.6@0-0.5; more than once"
)
IP_ADAPTER_HELP = say(
    "draw what a picture shows: FILE=PICTURE of an IP-Adapter, with a weight and a share of the steps "
    "FILE=PICTURE:0.6@0-0.5; more than once"
)
ENCODER_HELP = say("the folder of an IP-Adapter's image encoder; else image_encoder beside it")
FAST_HELP = say(
    "a LoRA of few steps, with its publisher's settings: FILE or FILE:weight, whose name has lcm, lightning, turbo, "
    "hyper or tcd"
)
INTERVAL_HELP = say("guide only between two shares of the steps: 0.2:0.8")
EVERY_HELP = say("ask the branches of guidance but the given one at every so many steps: 2 to 20")
STEP_CACHE_HELP = say(
    "leave steps or layers out: easy:0.05, deep:3 (UNets), first-block:0.1, taylor:3 or dbcache:0.08 (transformers)"
)
MERGING_HELP = say("the share of a UNet's tokens to be merged, up to 0.75")
NAG_HELP = say("how strongly --negative works without guidance (UNets), above 1, for instance 3")
TINY_HELP = say("decode by the AutoencoderTiny in this folder: TAESD and the like")
BEST_HELP = say("of the -n pictures keep the one that fits best, by the Chinese-CLIP, Taiyi-CLIP ... in this folder")
SERVER_HELP = say(
    "draw at a running bimo serve: its address, else BIMO_SERVER_URL; its key in BIMO_SERVER_KEY; no model is read here"
)
LORA_FOLDER_HELP = say("where the LoRAs lie that <lora:name:0.8> in a prompt asks for; else BIMO_LORAS")
LONG_PROMPT_HELP = say("read what CLIP has no room for in further chunks, as A1111; else it is cut and said")
EXPLAIN_HELP = say(
    "draw nothing: show chunks, tokens, weights, what is protected or unknown; as a page with -o NAME.html"
)
PROMPTS_HELP = say("draw a table of prompts: .txt a prompt a line; .csv, .tsv or .jsonl with fields of a request")
WILDCARDS_HELP = say("a folder of lists for __name__ in prompts: name.txt with a line each; others come with bimo")
RESUME_HELP = say("draw only what does not lie in the folder -o yet; seeds count from 0 unless --seed says")
EXPAND_HELP = say("write the prompt in full: what idioms, dishes, verses and solar terms show, or by --language-model")
TRANSLATE_HELP = say("put a Chinese prompt into English, word by word by a dictionary, or by --language-model")
LANGUAGE_MODEL_HELP = say(
    "a language model for --expand and --translate: a folder, or an OpenAI-compatible address up to /v1 (its key in "
    "BIMO_LANGUAGE_MODEL_KEY)"
)
LANGUAGE_MODEL_NAME_HELP = say("which model of that address")
POEM_HELP = say("draw a verse: a line as you remember it, or a poem's title")
INSCRIBE_VERSE_HELP = say("write the verse of --poem into the picture")
PARAMETERS_HELP = say("write the settings into the PNG as A1111's programs read them, too")
AXIS_HELP = say("one labelled sheet over a field of the request, or words of the prompt: steps=4,8 or cat=cat,dog")
INSCRIBE_HELP = say(
    "text that must stand in the picture, read back and certified; more than once. Else what is in quotation marks"
)
NO_INSCRIBE_HELP = say("leave what stands in quotation marks to the model")
WRITING_HELP = say("the way the text runs")
FONT_HELP = say("a font: a family's name, a file or a folder; else the first on this machine that has the characters")
INSCRIBE_BOX_HELP = say("where the text stands: left,top,width,height as shares of the picture; else where it is calm")
INSCRIBE_METHOD_HELP = say("the first way tried: the model's own, the glyphs as its condition, or laid in")
