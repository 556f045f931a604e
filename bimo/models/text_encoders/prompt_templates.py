"""What published systems say to a language model around a prompt; "{}" is where the prompt stands."""

from __future__ import annotations

#: Qwen3's chat with thinking left on, as Z-Image asks for it.
QWEN3_CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
#: The first 34 tokens are dropped by Qwen-Image.
QWEN_IMAGE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, "
    "spatial relationships of the objects and background:<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
#: The first 64 tokens are dropped by Qwen-Image-Edit; its pictures stand before the prompt.
QWEN_IMAGE_EDIT = (
    "<|im_start|>system\nDescribe the key features of the input image (color, shape, size, texture, objects, "
    "background), then explain how the user's text instruction should alter or modify the image. Generate a new image "
    "that meets the user's requirements while maintaining consistency with the original input where appropriate."
    "<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
#: Qwen-Image's without what begins the answer; the first 34 tokens are dropped.
HUNYUAN_IMAGE = QWEN_IMAGE.removesuffix("\n<|im_start|>assistant\n")
LONGCAT_IMAGE = (
    "<|im_start|>system\nAs an image captioning expert, generate a descriptive text prompt based on an image content, "
    "suitable for input to a text-to-image model.<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
#: Stands before the prompt, and not before the negative one.
LUMINA_PREFIX = (
    "You are an assistant designed to generate superior images with the superior degree of image-text alignment based "
    "on textual prompts or user prompts. <Prompt Start> "
)
