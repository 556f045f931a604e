"""Chinese-CLIP (arXiv:2211.01335): how well Chinese words fit pictures, for choosing among drawings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from bimo.core import weights
from bimo.core.part import Part
from bimo.parts.published.configs import TOWER_SIZES, Config, plain, read_json
from bimo.parts.published.folder import files_of
from bimo.parts.spaces import CLIP_DEVIATION, CLIP_MEAN
from bimo.parts.text import wording

if TYPE_CHECKING:
    from PIL import Image

VISION = {
    "vision_width": "hidden_size",
    "vision_layers": "num_hidden_layers",
    "vision_heads": "num_attention_heads",
    "vision_feed": "intermediate_size",
    "size": "image_size",
    "patch": "patch_size",
}
#: Fields that change no answer.
NO_EFFECT = {
    *("architectures", "model_type", "dtype", "torch_dtype", "transformers_version", "use_cache", "initializer_range"),
    *("initializer_factor", "projection_dim", "hidden_dropout_prob", "attention_probs_dropout_prob", "bos_token_id"),
    *("eos_token_id", "pad_token_id", "attention_dropout", "dropout", "directionality", "num_channels"),
    *("pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type"),
}


@dataclass(frozen=True, kw_only=True)
class ChineseClip(Part):
    """A tower of words and one of pictures with a common embedding; the defaults are ViT-B/16's."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    feed: int = 3072
    vocab: int = 21128
    positions: int = 512
    length: int = 52
    vision_width: int = 768
    vision_layers: int = 12
    vision_heads: int = 12
    vision_feed: int = 3072
    size: int = 224
    patch: int = 16
    project: int = 512

    def build(self) -> ChineseClipScorer:
        """The module, without its words until ``load_words``."""
        return ChineseClipScorer(self)

    def tiny(self) -> Self:
        """Width 16 and two layers in both towers, pictures of 32 pixels; the words stay."""
        small = replace(self, width=16, layers=2, heads=2, feed=32, vision_width=16, vision_layers=2, vision_heads=2)
        return replace(small, vision_feed=32, size=32, patch=16, project=12)


class ChineseClipScorer(nn.Module):
    """Texts and pictures -> how well each fits each. Published names are below ``model.``."""

    def __init__(self, part: ChineseClip) -> None:
        super().__init__()
        from transformers import ChineseCLIPConfig, ChineseCLIPModel

        self.part = part
        config = ChineseCLIPConfig(
            text_config={field: getattr(part, name) for name, field in TOWER_SIZES.items()},
            vision_config={field: getattr(part, name) for name, field in VISION.items()},
            projection_dim=part.project,
        )
        self.model: Any = ChineseCLIPModel(config)
        self.words: Any = None
        self.pad = 0

    def similarity(self, texts: Sequence[str], pictures: Sequence[Image.Image]) -> Tensor:
        """The cosine of every text with every picture, [texts, pictures]."""
        with torch.inference_mode():
            ids, mask = self.ids(texts)
            words = self.model.get_text_features(input_ids=ids, attention_mask=mask.long()).pooler_output
            seen = self.model.get_image_features(pixel_values=self.pixels(pictures)).pooler_output
            return functional.normalize(words, dim=1) @ functional.normalize(seen, dim=1).T

    def ids(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Texts -> token ids [B, length] and mask [B, length] bool."""
        rows = [wording.known(self.words).encode(text).ids for text in texts]
        return wording.padded(rows, self.part.length, self.pad)

    def pixels(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Pictures -> [B, 3, size, size]: the shorter side brought to size by cubic splines, the middle cut out."""
        import numpy
        from PIL import Image

        rows: list[Tensor] = []
        side = self.part.size
        for picture in pictures:
            width, height = picture.size
            short = min(width, height)
            new = (max(side, int(side * width / short)), max(side, int(side * height / short)))
            resized = picture.convert("RGB").resize(new, Image.Resampling.BICUBIC)
            left, top = (new[0] - side) // 2, (new[1] - side) // 2
            cut = numpy.asarray(resized.crop((left, top, left + side, top + side)), dtype=numpy.float32) / 255
            rows.append(torch.from_numpy(cut).permute(2, 0, 1))
        mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in (CLIP_MEAN, CLIP_DEVIATION))
        return (torch.stack(rows) - mean) / deviation

    def load_words(self, folder: Path) -> None:
        """Reads a vocab.txt or tokenizer.json. Raises WeightsError where they are missing or damaged."""
        wanted = (wording.VOCAB_FILE, wording.TOKENIZER_FILE)
        self.words, self.pad = wording.read_words(folder, wanted, self.part.vocab, wording.word_pieces)


def read_chinese_clip(folder: Path) -> ChineseClipScorer:
    """A Chinese-CLIP as transformers saves one: config.json, weights and vocab.txt in one folder.

    Raises WeightsError for what is missing, damaged or misshapen, RecipeError for fields that are not carried.
    """
    from transformers import ChineseCLIPTextConfig, ChineseCLIPVisionConfig

    path = folder / "config.json"
    fields = read_json(path)
    given: dict[str, Any] = {"project": fields.get("projection_dim", 512)}
    for key, cls, own in (
        ("text_config", ChineseCLIPTextConfig, TOWER_SIZES),
        ("vision_config", ChineseCLIPVisionConfig, VISION),
    ):
        inner = fields.get(key) or {}
        # Configs of some days carry the fields of every class (beams, labels): what this class lacks it cannot mean.
        said = {name: value for name, value in inner.items() if value is not None}
        defaults = {"position_embedding_type": "absolute", **{k: plain(v) for k, v in cls().to_dict().items()}}
        kept = {k: v for k, v in said.items() if k in defaults or k in own.values()}
        read = Config(path, kept).of(defaults, own.values(), NO_EFFECT)
        given |= {name: read[field] for name, field in own.items()}
    with weights.unfilled():
        scorer = ChineseClip(**given).build()
    files = files_of(folder)
    state = {n: v for file in files for n, v in weights.renamed(weights.read(file), _name).items()}
    weights.assign(scorer.model, state, torch.float32, files[0])
    scorer.load_words(folder)
    return scorer.eval()


def _name(name: str) -> str | None:
    # Positions were once kept among the weights, and so was a pooler that was never trained.
    return None if name.endswith("position_ids") or name.startswith("text_model.pooler.") else name
