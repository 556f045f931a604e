"""Encodings of frozen text encoders, computed once and cached on disk by the text itself.

If caching pays, every text is encoded separately, cached or not: the rounding of a batched product depends on the rest
of the batch, so only then are losses bit-identical with and without the cache.
"""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from bimo.core.hashing import bytes_of, digest_tensors, late_table
from bimo.core.held_weights import held_in
from bimo.core.messages import say
from bimo.core.part import Part, dumps
from bimo.core.tensors import TextEncoding
from bimo.diffusion.casting import cast_encoding
from bimo.diffusion.system import System
from bimo.diffusion.text_encoder import TextEncoder
from bimo.engine.devices import CPU, default_device, device_of_module, to_device
from bimo.training.logging import counted

if TYPE_CHECKING:
    from PIL import Image

#: The largest share of the free disk for encodings; above it nothing is cached.
SHARE_OF_FREE_DISK = 0.5
#: How often a text must be used on average for caching to pay. Encoding texts separately is slower than in batches (2.3
#: times on a CPU), and a stage may see few of the captions.
WORTH = 2.5
#: The number of texts from which the size of all encodings is estimated.
SAMPLE = 32
SHAPE_FILE = "shape.json"
KINDS = {str(kind): kind for kind in (torch.float32, torch.float16, torch.bfloat16)}

#: Texts -> what a text encoder says of them.
EncodeTexts = Callable[[Sequence[str]], TextEncoding]


@dataclass(frozen=True)
class Encode:
    """The texts of the rows, one list a text encoder -> their encodings; ``cached`` where no text encoder is asked."""

    asks: Sequence[EncodeTexts]
    cached: bool = False

    def __call__(self, wanted: Sequence[Sequence[str]]) -> tuple[TextEncoding, ...]:
        """Encodings of a batch."""
        return tuple(ask(texts) for ask, texts in zip(self.asks, wanted, strict=True))


@dataclass(frozen=True)
class FrozenEncoder:
    """The frozen part of a text encoder: all of it, or its ``trunk``."""

    encoder: TextEncoder
    part: Part
    trunk: bool = False

    def encode_batch(self, texts: Sequence[str]) -> TextEncoding:
        """The output of the frozen part for texts in one batch."""
        with default_device(self.device):
            return self.encoder.trunk(texts) if self.trunk else self.encoder.encode(texts)

    def encode_one(self, text: str) -> TextEncoding:
        """The output of the frozen part for one text, 1 row on the CPU, without gradient, dropout or autocast."""
        with self._still():
            return _here(self.encode_batch([text]))

    def finished(self, trunk_output: TextEncoding) -> TextEncoding:
        """The text encoder's output, float32, from that of its frozen part; with a gradient if its head is trained."""
        if not self.trunk:
            return trunk_output
        return cast_encoding(self.encoder.finished(to_device(trunk_output, self.device)), torch.float32)

    def blank(self) -> Tensor | None:
        """The output for padding that a denoiser sees before shorter texts, None if there is none."""
        with self._still():
            padding = self.encoder.blank()
            return padding if padding is None or self.trunk else self._with_head(padding)

    @property
    def device(self) -> torch.device:
        """The device of the text encoder."""
        return device_of_module(self.encoder)

    def digest(self) -> str:
        """The hash of the frozen weights and settings."""
        heads = self.encoder.heads if self.trunk else ()
        state, held = self.encoder.state_dict(), held_in(self.encoder)
        frozen = {n: value for n, value in state.items() if n not in held and not n.startswith(heads)}
        # One by one: all of them made whole at once may be more than there is memory for.
        each = (digest_tensors({n: held[n].whole(CPU, torch.float32)}) for n in held if not n.startswith(heads))
        return f"{dumps(self.part)}{self.trunk}{digest_tensors(frozen)}{''.join(each)}"

    def _with_head(self, state: Tensor) -> Tensor:
        return self.encoder.finished(TextEncoding(state[None, None])).tokens[0, 0]

    @contextmanager
    def _still(self) -> Generator[None]:
        module = self.encoder
        modes = [part for part in module.modules() if part.training]
        module.eval()
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            yield
        for part in modes:
            part.training = True


def frozen_of(system: System) -> list[FrozenEncoder | None]:
    """The frozen part of each text encoder, including adapters; None if something in its middle is trained."""
    encoders: list[FrozenEncoder | None] = []
    for encoder, part in zip(system.text_encoders, system.recipe.text_encoders, strict=True):
        learns = [name for name, p in encoder.named_parameters() if p.requires_grad]
        frozen = all(name.startswith(encoder.heads) for name in learns)
        encoders.append(FrozenEncoder(encoder, part, bool(learns)) if frozen else None)
    return encoders


def encoded(
    encoder: TextEncoder, texts: Sequence[str], pictures: Sequence[Sequence[Image.Image]] | None = None
) -> TextEncoding:
    """Encodes texts in one batch, each with its pictures: for encoders that are trained."""
    with default_device(device_of_module(encoder)):
        encoding = encoder.encode(texts) if pictures is None else encoder.encode_with(texts, pictures)
        return cast_encoding(encoding, torch.float32)


def alone(frozen: FrozenEncoder, texts: Sequence[str], blank: Tensor | None = None) -> TextEncoding:
    """Encodes texts one by one through the frozen part of a text encoder, then batches them and applies its head."""
    each = {text: frozen.encode_one(text) for text in dict.fromkeys(texts)}
    return frozen.finished(gathered([each[text] for text in texts], blank))


def gathered(rows: Sequence[TextEncoding], blank: Tensor | None = None) -> TextEncoding:
    """Batches encodings of single texts, float32: padded and masked on the right, or with ``blank`` [D] on the left,
    unmasked.
    """
    lengths = [row.tokens.shape[1] for row in rows]
    longest, width = max(lengths), rows[0].tokens.shape[2]
    tokens = torch.zeros(len(rows), longest, width)
    masked = blank is None and (min(lengths) != longest or any(row.mask is not None for row in rows))
    mask = torch.zeros(len(rows), longest, dtype=torch.bool) if masked else None
    for place, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        if blank is None:
            tokens[place, :length] = row.tokens[0]
        else:
            tokens[place, longest - length :] = row.tokens[0]
            tokens[place, : longest - length] = blank
        if mask is not None:
            mask[place, :length] = True if row.mask is None else row.mask[0]
    pooled = [row.pooled for row in rows if row.pooled is not None]
    return TextEncoding(tokens, mask, torch.cat(pooled).float() if pooled else None)


def independent_of_batch(frozen: FrozenEncoder, texts: Sequence[str], blank: Tensor | None = None) -> bool:
    """Whether a text has the same tokens alone and in a batch: not if longer neighbours change the padding that a
    denoiser sees, nor if an empty text has no token.
    """
    if not all(frozen.encoder.budget(text).used for text in texts):
        return False
    each = [frozen.encode_one(text) for text in texts]
    lengths = [row.tokens.shape[1] for row in each]
    ends = [lengths.index(min(lengths)), lengths.index(max(lengths))]
    with torch.no_grad():
        together = _here(frozen.encode_batch([texts[end] for end in ends]))
    separate = gathered([each[end] for end in ends], blank)
    if separate.tokens.shape != together.tokens.shape or (separate.mask is None) != (together.mask is None):
        return False
    return separate.mask is None or torch.equal(separate.mask, cast(Tensor, together.mask))


def cached_encoder(system: System, texts: Iterable[str], requested: int, out: Path, writes: bool = True) -> Encode:
    """The encoding function of a system's text encoders: frozen parts are read from ``out``/cache, if all of ``texts``
    are there or fit on the disk.

    Cache files are named by a hash of the texts and of the frozen part (weights, settings, tokenizers). Nothing is
    cached if too few encodings are ``requested`` in the stage, for a text encoder whose output depends on the batch, or
    if the disk is too small, with a message. The first two are known from recipe and data, so that a resumed run
    decides the same. A process without ``writes`` only reads.
    """
    every = sorted({*texts, ""})
    parts = frozen_of(system) if requested >= WORTH * len(every) else [None] * len(system.text_encoders)
    folders = [None if it is None else _folder(it, index, every, out) for index, it in enumerate(parts)]
    for old in (out / "cache").glob("words-*") if writes and any(parts) else ():
        if old not in folders:
            shutil.rmtree(old)  # of text encoders or texts that are no more, or half written
    asks: list[EncodeTexts] = []
    cached: list[bool] = []
    for index, (encoder, frozen, folder) in enumerate(zip(system.text_encoders, parts, folders, strict=True)):
        if frozen is None or folder is None:
            asks.append(partial(encoded, encoder))
            cached.append(False)
        else:
            asks.append(_encoding_function(frozen, index, every, folder, writes))
            cached.append((folder / SHAPE_FILE).is_file() and not frozen.trunk)
    return Encode(asks, all(cached))


def _encoding_function(
    frozen: FrozenEncoder, index: int, every: Sequence[str], folder: Path, writes: bool
) -> EncodeTexts:
    """The encoding function of one text encoder."""
    blank = frozen.blank()
    if not (folder / SHAPE_FILE).is_file():
        step = max(1, len(every) // SAMPLE)
        by_length = sorted(every, key=lambda text: (len(text), text))
        sample = [*by_length[::step], by_length[-1]]
        if not independent_of_batch(frozen, sample, blank):
            print(
                say(
                    "text encoder text.{index} encodes a text by itself otherwise than in a batch; nothing of it is "
                    "cached, each step encodes",
                    index=index,
                )
            )
            return partial(encoded, frozen.encoder)
        if not writes or not _fits(frozen, sample, len(every), folder) or not _keep(frozen, index, every, folder):
            return lambda texts: alone(frozen, texts, blank)
    cached, rows = CachedEncodings.read(folder), TextRows(every)
    return lambda texts: frozen.finished(gathered(cached.of([rows.of(text) for text in texts]), blank))


class TextRows:
    """Row indices by 16 bytes of each text's hash: the texts themselves would fill the memory."""

    def __init__(self, texts: Sequence[str]) -> None:
        hashes = np.fromiter(map(_text_hash, texts), "S16", len(texts))
        self._rows = np.argsort(hashes)
        self._hashes = hashes[self._rows]

    def of(self, text: str) -> int:
        """The row of a text; KeyError for one that is unknown."""
        wanted = np.bytes_(_text_hash(text))
        at = int(np.searchsorted(self._hashes, wanted))
        if at == len(self._hashes) or self._hashes[at] != wanted:
            raise KeyError(text)
        return int(self._rows[at])


def _text_hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:16]


def _folder(frozen: FrozenEncoder, index: int, every: Sequence[str], out: Path) -> Path:
    words = sorted((out / f"words.{index}").glob("*"))
    name = hashlib.sha256(f"{frozen.digest()}{late_table(out, words)()}".encode())
    for text in every:
        name.update(hashlib.sha256(text.encode()).digest())
    return out / "cache" / f"words-{name.hexdigest()[:24]}"


@dataclass(frozen=True)
class CachedEncodings:
    """The encodings of all texts by one text encoder, memory-mapped: ``tokens`` [sum of L, D], ``masks`` [sum of L] and
    ``pooled`` [N, P] if there are any; those of row i begin at ``starts``[i] of [N + 1].
    """

    starts: Tensor
    tokens: Tensor
    masks: Tensor | None
    pooled: Tensor | None

    @classmethod
    def read(cls, folder: Path) -> CachedEncodings:
        """Maps the files of a text encoder."""
        shape: dict[str, Any] = json.loads((folder / SHAPE_FILE).read_text(encoding="utf-8"))
        kind, count = KINDS[shape["kind"]], shape["count"]
        starts = _mapped(folder / "starts", (count + 1,), torch.int64)
        total = int(starts[-1])
        tokens = _mapped(folder / "tokens", (total, shape["width"]), kind)
        masks = _mapped(folder / "masks", (total,), torch.bool) if shape["masked"] else None
        pooled = _mapped(folder / "pooled", (count, shape["pooled"]), kind) if shape["pooled"] else None
        return cls(starts, tokens, masks, pooled)

    def of(self, rows: Sequence[int]) -> list[TextEncoding]:
        """The encodings of some rows, one by one."""
        some: list[TextEncoding] = []
        for row in rows:
            here = slice(*self.starts[row : row + 2].tolist())
            mask = None if self.masks is None else self.masks[here][None]
            pooled = None if self.pooled is None else self.pooled[row : row + 1]
            some.append(TextEncoding(self.tokens[here][None], mask, pooled))
        return some


def _here(encoding: TextEncoding) -> TextEncoding:
    """An encoding on the CPU, where it is cached."""
    mask, pooled = (None if value is None else value.cpu() for value in (encoding.mask, encoding.pooled))
    return TextEncoding(encoding.tokens.cpu(), mask, pooled)


def _fits(frozen: FrozenEncoder, sample: Sequence[str], count: int, folder: Path) -> bool:
    """Whether the encodings of this many texts fit on the disk, estimated from a sample."""
    sampled_bytes = 0
    for text in sample:
        encoding = frozen.encode_one(text)
        sampled_bytes += sum(t.nbytes for t in (encoding.tokens, encoding.mask, encoding.pooled) if t is not None)
    wanted = sampled_bytes / len(sample) * count
    free = shutil.disk_usage(folder.parent.parent).free
    if wanted <= free * SHARE_OF_FREE_DISK:
        return True
    print(
        say(
            "the encodings of all texts would take {wanted:.1f} GiB, more than {share_of_free_disk:.0%} of "
            "the {free:.1f} GiB that are free; nothing is cached, each step encodes",
            wanted=wanted / 2**30,
            share_of_free_disk=SHARE_OF_FREE_DISK,
            free=free / 2**30,
        )
    )
    return False


def _keep(frozen: FrozenEncoder, index: int, texts: Sequence[str], folder: Path) -> bool:
    """Writes the encodings of texts completely or not at all; False if the disk is full nevertheless."""
    part = folder.with_suffix(".part")
    part.mkdir(parents=True)
    try:
        shape = _write(frozen, index, texts, part)
        (part / SHAPE_FILE).write_text(json.dumps(shape), encoding="utf-8")
    except OSError as error:
        shutil.rmtree(part)
        print(
            say(
                "the encodings cannot be written ({strerror}); nothing is cached, each step encodes",
                strerror=error.strerror,
            )
        )
        return False
    part.replace(folder)
    return True


def _write(frozen: FrozenEncoder, index: int, texts: Sequence[str], folder: Path) -> dict[str, Any]:
    starts = [0]
    shape: dict[str, Any] = {}
    title = say("encoding texts, text encoder {index}", index=index + 1)
    tokens, masks, pooled = ((folder / name).open("wb") for name in ("tokens", "masks", "pooled"))
    with tokens, masks, pooled:
        for text in counted(texts, title):
            encoding = frozen.encode_one(text)
            starts.append(starts[-1] + encoding.tokens.shape[1])
            width = 0 if encoding.pooled is None else encoding.pooled.shape[1]
            kind = str(encoding.tokens.dtype)
            shape = {
                "kind": kind,
                "width": encoding.tokens.shape[2],
                "masked": encoding.mask is not None,
                "pooled": width,
            }
            _append(tokens, encoding.tokens)
            _append(masks, encoding.mask)
            _append(pooled, None if encoding.pooled is None else encoding.pooled.to(encoding.tokens.dtype))
    (folder / "starts").write_bytes(bytes_of(torch.tensor(starts)))
    return shape | {"count": len(texts)}


def _append(file: BinaryIO, value: Tensor | None) -> None:
    if value is not None:
        file.write(bytes_of(value))


def _mapped(path: Path, shape: tuple[int, ...], kind: torch.dtype) -> Tensor:
    count = 1
    for side in shape:
        count *= side
    return torch.from_file(str(path), shared=False, size=count, dtype=kind).view(shape)
