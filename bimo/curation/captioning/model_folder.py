"""A local model that writes text, in transformers' layout: a translator, a language or a vision-language model."""

# transformers has no types; what crosses it here is named where it is kept.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bimo.core.errors import DataError, RecipeError
from bimo.core.part import Part
from bimo.curation.captioning.endpoint import Answer

if TYPE_CHECKING:
    from PIL import Image

#: Bytes at the beginning and at the end of each file that its fingerprint covers.
SAMPLED = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ModelFolder(Part):
    """A folder at ``path``: a sequence-to-sequence translator (Marian, T5, NLLB), a causal language model, or a
    vision-language model. Only local files are read, as data; code in the folder is never run.

    ``prefix`` is put before every text of a translator, as T5's "translate English to Chinese: "; ``source`` and
    ``target`` are its language codes, as NLLB's "eng_Latn" and "zho_Hans". ``tokens`` is the maximum length of the
    output, ``batch`` the batch size. Decoding is greedy. Raises RecipeError for numbers below 1.
    """

    path: str
    prefix: str = ""
    source: str = ""
    target: str = ""
    tokens: int = 256
    batch: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.tokens, self.batch) < 1:
            raise RecipeError("tokens and batch of ModelFolder must be at least 1")

    def response_key(self) -> str:
        """What the output depends on: the files, by their names, sizes, beginnings and ends."""
        folder = self.checked_folder()
        total = hashlib.sha256(f"{self.prefix} {self.source} {self.target} {self.tokens}".encode())
        for file in sorted(path for path in folder.iterdir() if path.is_file()):
            size = file.stat().st_size
            total.update(f"{file.name} {size} ".encode())
            with file.open("rb") as opened:
                total.update(opened.read(SAMPLED))
                opened.seek(max(0, size - SAMPLED))
                total.update(opened.read(SAMPLED))
        return total.hexdigest()

    def checked_folder(self) -> Path:
        folder = Path(self.path).expanduser()
        if not (folder / "config.json").is_file():
            raise DataError("{folder} is no folder of a transformers model (there is no config.json)", folder=folder)
        return folder


class Writer:
    """The loaded model of a folder. Raises DataError for a folder that cannot be read or has a model that writes no
    text.
    """

    def __init__(self, part: ModelFolder, with_pictures: bool) -> None:
        self.part = part
        folder = part.checked_folder()
        try:
            self._load(folder, with_pictures)
        except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise DataError("cannot read the model in {folder}: {told}", folder=folder, told=reason) from None

    def _load(self, folder: Path, with_pictures: bool) -> None:
        import torch
        from transformers import (
            AutoConfig,
            AutoModelForCausalLM,
            AutoModelForImageTextToText,
            AutoModelForSeq2SeqLM,
            AutoProcessor,
            AutoTokenizer,
        )

        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        config: Any = AutoConfig.from_pretrained(folder, **options)
        self.whole = bool(getattr(config, "is_encoder_decoder", False))
        auto: Any = (
            AutoModelForImageTextToText
            if with_pictures
            else AutoModelForSeq2SeqLM
            if self.whole
            else AutoModelForCausalLM
        )
        self.model: Any = auto.from_pretrained(folder, dtype=torch.float32, **options).eval()
        self.processor: Any = (AutoProcessor if with_pictures else AutoTokenizer).from_pretrained(folder, **options)
        self.words: Any = self.processor.tokenizer if with_pictures else self.processor
        if not self.whole:
            # Padded on the left, since the output continues the last token of the prompt.
            self.words.padding_side = "left"
        if self.words.pad_token is None:
            self.words.pad_token = self.words.eos_token
        if self.part.source:
            self.words.src_lang = self.part.source

    def write(self, texts: Sequence[str], pictures: Sequence[Image.Image] = ()) -> list[Answer]:
        """The model's output for each text, and for its picture where there is one."""
        answers: list[Answer] = []
        for start in range(0, len(texts), self.part.batch):
            stop = start + self.part.batch
            answers += self._batch(texts[start:stop], pictures[start:stop])
        return answers

    def _batch(self, texts: Sequence[str], pictures: Sequence[Image.Image]) -> list[Answer]:
        import torch

        options: dict[str, Any] = {"padding": True, "return_tensors": "pt"}
        if pictures:
            options["images"] = [[picture] for picture in pictures] if self._chats() else list(pictures)
        elif self.whole:
            options["truncation"] = True
        inputs = self.processor(text=[self._prompt(text, bool(pictures)) for text in texts], **options)
        more: dict[str, Any] = {}
        if self.part.target:
            more["forced_bos_token_id"] = self.words.convert_tokens_to_ids(self.part.target)
        with torch.inference_mode():
            written: Any = self.model.generate(
                **inputs, max_new_tokens=self.part.tokens, do_sample=False, num_beams=1,
                pad_token_id=self.words.pad_token_id, **more,
            )  # fmt: skip
        prompt_ids = inputs["input_ids"]
        if not self.whole and torch.equal(written[:, : prompt_ids.shape[1]], prompt_ids):
            written = written[:, prompt_ids.shape[1] :]
        ends = self._ends()
        cut = [written.shape[1] >= self.part.tokens and not ends & set(row.tolist()) for row in written]
        texts = self.words.batch_decode(written, skip_special_tokens=True)
        return [Answer(text.strip(), cut=over) for text, over in zip(texts, cut, strict=True)]

    def _ends(self) -> set[int]:
        ends = self.model.generation_config.eos_token_id
        return set(ends if isinstance(ends, list) else [ends]) - {None}

    def _chats(self) -> bool:
        return getattr(self.processor, "chat_template", None) is not None

    def _prompt(self, text: str, picture: bool) -> str:
        if self.whole and not picture:
            return self.part.prefix + text
        if not self._chats():
            return text
        content: Any = [{"type": "image"}, {"type": "text", "text": text}] if picture else text
        messages = [{"role": "user", "content": content}]
        return self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
