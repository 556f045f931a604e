"""Prompt templates of published systems for language models; "{}" is the place of the prompt."""

from __future__ import annotations

#: Qwen3's chat template with thinking enabled, as in Z-Image.
QWEN3_CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
#: The same in pieces around the pictures of Z-Image-Omni, the last of which is drawn: what is before the first,
#: between two, around the prompt, and at the end.
Z_IMAGE_OMNI = (
    "<|im_start|>user\n<|vision_start|>",
    "<|vision_end|><|vision_start|>",
    "<|vision_end|>{}<|im_end|>\n<|im_start|>assistant\n<|vision_start|>",
    "<|vision_end|><|im_end|>",
)
#: The first 34 tokens are dropped by Qwen-Image.
QWEN_IMAGE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, "
    "spatial relationships of the objects and background:<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
#: The first 64 tokens are dropped by Qwen-Image-Edit; its pictures precede the prompt.
QWEN_IMAGE_EDIT = (
    "<|im_start|>system\nDescribe the key features of the input image (color, shape, size, texture, objects, "
    "background), then explain how the user's text instruction should alter or modify the image. Generate a new image "
    "that meets the user's requirements while maintaining consistency with the original input where appropriate."
    "<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
#: Qwen-Image's without the start of the assistant's turn; the first 34 tokens are dropped.
HUNYUAN_IMAGE = QWEN_IMAGE.removesuffix("\n<|im_start|>assistant\n")
#: The template of HunyuanImage's refiner, with Llama 3's special tokens; the first 36 tokens are dropped.
HUNYUAN_REFINER = (
    "<|start_header_id|>system<|end_header_id|>\n\nDescribe the image by detailing the color, shape, size, texture, "
    "quantity, text, spatial relationships of the objects and background:<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
)
LONGCAT_IMAGE = (
    "<|im_start|>system\nAs an image captioning expert, generate a descriptive text prompt based on an image content, "
    "suitable for input to a text-to-image model.<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
#: LongCat-Image-Edit's template for an instruction; its picture precedes the instruction.
LONGCAT_EDIT = (
    "<|im_start|>system\nAs an image editing expert, first analyze the content and attributes of the input image(s). "
    "Then, based on the user's editing instructions, clearly and precisely determine how to modify the given image(s), "
    "ensuring that only the specified parts are altered and all other aspects remain consistent with the original(s)."
    "<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
#: Precedes the prompt, but not the negative prompt.
LUMINA_PREFIX = (
    "You are an assistant designed to generate superior images with the superior degree of image-text alignment based "
    "on textual prompts or user prompts. <Prompt Start> "
)
#: What stands before the user's turn in Qwen-Image-2.1, and is dropped.
QWEN_IMAGE_21_SYSTEM = "<|im_start|>system\nComprehend and analyze the provided prompt.<|im_end|>\n"
QWEN_IMAGE_21 = QWEN_IMAGE_21_SYSTEM + "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
#: Of its pictures, which stand before the prompt with a blank between them.
QWEN_IMAGE_21_PICTURE = "<image{}><|vision_start|><|image_pad|><|vision_end|>"
