"""A built recipe as one module: encode words, condition, denoise, save."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast

import torch
from torch import Tensor, nn

from bimo.core import checkpoint_io
from bimo.core.errors import RecipeError, WeightsError
from bimo.core.files import write_whole
from bimo.core.hashing import LateDigest, digest, verifying
from bimo.core.part import Part, dumps
from bimo.core.recipe import Level, Recipe
from bimo.core.request import Request
from bimo.core.tensors import Batch, Conditioning, DenoiserInput, Shortcuts, TextEncoding
from bimo.diffusion.casting import cast_conditioning, cast_encoding, dtype_of
from bimo.diffusion.schedules import Schedule
from bimo.prompts.token_budget import Budget

RECIPE_FILE = "recipe.json"
WEIGHTS_FILE = "weights.safetensors"
HASHES_FILE = "hashes.json"
#: How many broken tensors are named.
NAMES_SHOWN = 3
#: The nulls of guidance that no negative prompt changes.
ZERO_NULLS = ("zeros", "masked")


class TextEncoder(Protocol):
    """A text encoder with its tokenizer."""

    def encode(self, texts: Sequence[str]) -> TextEncoding:
        """Texts -> tokens [B, L, D] and what goes with them."""
        ...

    def budget(self, text: str) -> Budget:
        """What of a text this tower reads."""
        ...

    def build_tokenizer(self, captions: Iterable[str], known: Iterable[str]) -> None:
        """Makes the tokenizer from captions and known words. Raises WeightsError where its words were published."""
        ...

    def save_tokenizer(self, folder: Path) -> None:
        """Writes the tokenizer's files."""
        ...

    def load_tokenizer(self, folder: Path) -> None:
        """Reads the tokenizer's files. Raises WeightsError where they are missing or damaged."""
        ...


class Space(Protocol):
    """Where a level's x lives. ``factor`` pixels of the picture a side are one position of x; ``channels`` is C.

    The picture is that of the request: a level that paints it at a quarter of its side has 4 times the factor.
    """

    channels: int
    factor: int

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """The shape of one x, without the batch, for a picture of (width, height) pixels: (C, h, w), or (D,)."""
        ...

    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[B, 3, H, W] -> [B, *shape]; by ``generator`` a sample of what the pixels may be coded as."""
        ...

    def decode(self, x: Tensor) -> Tensor:
        """[B, *shape] -> [B, 3, H', W'], at the size this space codes."""
        ...


class TextFusion(Protocol):
    """One conditioning of several towers' encodings."""

    def fuse(self, encodings: tuple[TextEncoding, ...]) -> Conditioning:
        """Encodings of B texts by every tower -> streams and vector of B rows."""
        ...


class Drawing(Protocol):
    """What a hint may look at while a picture is drawn."""

    @property
    def request(self) -> Request:
        """The request, filled in."""
        ...

    @property
    def results(self) -> Mapping[str, Tensor]:
        """What earlier levels gave, by their names."""
        ...

    @property
    def generator(self) -> torch.Generator:
        """Seeded for this picture, apart from its noise."""
        ...

    @property
    def noise(self) -> torch.Generator:
        """That of the noise, the level's first already taken: for what diffusers takes from it after that."""
        ...

    @property
    def pictures(self) -> Mapping[str, Tensor]:
        """The pictures of the request at its size, [1, 3, H, W]; "mask" is [1, 1, H, W], 1 where it is painted."""
        ...

    @property
    def encodings(self) -> tuple[TextEncoding, ...]:
        """The words of the prompt."""
        ...


@dataclass(frozen=True, kw_only=True)
class Conditioner(Part):
    """Something besides the texts that conditions a level: read off an image in training, off the request in drawing.

    ``name`` is what a request calls it and what a stage drops it by.
    """

    #: The images of the request that it reads ("image", "mask", others); None for the one of its own name.
    reads: ClassVar[tuple[str, ...] | None] = None
    #: Whether the unconditional branch gets it as well, so that training never drops it.
    always: ClassVar[bool] = False

    name: str = ""

    @property
    def key(self) -> str:
        """Its name, or that of the level whose result it is."""
        return self.name or self.earlier_level

    @property
    def images(self) -> tuple[str, ...]:
        """The images of the request that it reads."""
        return (self.name,) if self.reads is None and self.name else self.reads or ()

    @property
    def droppable(self) -> bool:
        """Whether the unconditional branch goes without it."""
        return not self.always

    @property
    def earlier_level(self) -> str:
        """The level whose result it reads, "" for none."""
        return ""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that the data must have for it."""
        return ()

    @property
    def maps(self) -> tuple[str, ...]:
        """The maps that the data must have for it."""
        return ()

    def of_seed(self, seed: int) -> Tensor | None:
        """What it takes from a picture's seed where the request leaves it open, [1, N]; None for nothing."""
        return None

    def from_batch(self, system: System, batch: Batch) -> Conditioning:
        """That of a training batch, B rows."""
        raise NotImplementedError

    def from_request(self, system: System, drawing: Drawing, shape: tuple[int, ...]) -> Conditioning:
        """That of the picture being drawn, 1 row; ``shape`` is that of x without its batch."""
        raise NotImplementedError

    def unconditional(self, value: Conditioning) -> Conditioning:
        """What the unconditional branch of guidance gets in its place: the same, unless a conditioner is guided."""
        return value


def merge_conditioning(base: Conditioning, extras: Sequence[Conditioning]) -> Conditioning:
    """Conditioning with what hints add: spatial maps joined on the channels, scalars and pictures by name."""
    spatial = [c.spatial for c in (base, *extras) if c.spatial is not None]
    scalars = {name: value for c in (base, *extras) for name, value in c.scalars.items()}
    pictures = {name: value for c in (base, *extras) for name, value in c.pictures.items()}
    return Conditioning(base.streams, base.vector, torch.cat(spatial, dim=1) if spatial else None, scalars, pictures)


def zero_text(conditioning: Conditioning, rows: Tensor, masked: bool) -> Conditioning:
    """Conditioning whose words are zeros in some rows, [B] bool: their masks as they are, or every token hidden."""

    def kept(value: Tensor) -> Tensor:
        return value.masked_fill(rows.reshape(-1, *[1] * (value.ndim - 1)), 0.0)

    def mask(stream: TextEncoding) -> Tensor | None:
        if not masked:
            return stream.mask
        shape = stream.tokens.shape[:2]
        return (torch.ones(shape, dtype=torch.bool) if stream.mask is None else stream.mask) & ~rows[:, None]

    streams = tuple(
        TextEncoding(kept(e.tokens), mask(e), None if e.pooled is None else kept(e.pooled))
        for e in conditioning.streams
    )
    vector = conditioning.vector
    return replace(conditioning, streams=streams, vector=None if vector is None else kept(vector))


def _with_dropout(conditioner: Conditioner, value: Conditioning, batch: Batch) -> Conditioning:
    """What a conditioner gives, its unconditional form in the rows that drop it."""
    rows = batch.dropped_conditions.get(conditioner.key)
    if rows is None:
        return value
    null = conditioner.unconditional(value)

    def chosen(conditional: Tensor, unconditional: Tensor) -> Tensor:
        return torch.where(rows.reshape(-1, *[1] * (conditional.ndim - 1)), unconditional, conditional)

    spatial = value.spatial
    return replace(
        value,
        spatial=None if spatial is None else chosen(spatial, cast(Tensor, null.spatial)),
        scalars={name: chosen(scalar, null.scalars[name]) for name, scalar in value.scalars.items()},
        pictures={name: chosen(picture, null.pictures[name]) for name, picture in value.pictures.items()},
    )


def stack_rows(rows: Sequence[Conditioning]) -> Conditioning:
    """Conditionings of a few rows each, as one of all rows; token streams are padded to the longest."""
    if len(rows) == 1:
        return rows[0]
    streams = tuple(_stacked_encodings([r.streams[i] for r in rows]) for i in range(len(rows[0].streams)))
    vector = None if rows[0].vector is None else torch.cat([cast(Tensor, r.vector) for r in rows])
    spatial = None if rows[0].spatial is None else torch.cat([cast(Tensor, r.spatial) for r in rows])
    scalars = {name: torch.cat([r.scalars[name] for r in rows]) for name in rows[0].scalars}
    pictures = {name: torch.cat([r.pictures[name] for r in rows]) for name in rows[0].pictures}
    away = [r.negative for r in rows if r.negative is not None]
    return Conditioning(streams, vector, spatial, scalars, pictures, _stacked_encodings(away) if away else None)


def _stacked_encodings(parts: Sequence[TextEncoding]) -> TextEncoding:
    length = max(p.tokens.shape[1] for p in parts)
    tokens = torch.cat([nn.functional.pad(p.tokens, (0, 0, 0, length - p.tokens.shape[1])) for p in parts])
    mask = None
    if any(p.mask is not None for p in parts) or any(p.tokens.shape[1] != length for p in parts):
        masks = [p.mask if p.mask is not None else torch.ones(p.tokens.shape[:2], dtype=torch.bool) for p in parts]
        mask = torch.cat([nn.functional.pad(m, (0, length - m.shape[1]), value=False) for m in masks])
    pooled = None if parts[0].pooled is None else torch.cat([cast(Tensor, p.pooled) for p in parts])
    return TextEncoding(tokens, mask, pooled)


class ShortcutDenoiser(nn.Module):
    """A denoiser that can leave out what ``Shortcuts`` names; others are never asked to."""

    def shortened(self, x: Tensor, t: Tensor, conditioning: Conditioning, ask: DenoiserInput) -> Tensor:
        """As ``forward``, with the shortcuts of an ask; x, t and conditioning are in the denoiser's own numbers."""
        raise NotImplementedError


class BuiltLevel(nn.Module):
    """A level with its modules. A space shared with another level is registered there alone."""

    def __init__(self, level: Level) -> None:
        super().__init__()
        self.recipe = level
        self.schedule = cast(Schedule, level.schedule)
        self.conditioners = cast("tuple[Conditioner, ...]", level.conditioners)
        if not isinstance(level.space, str):
            self.space = cast(Any, level.space).build()
        self.denoiser = cast(Any, level.denoiser).build()

    def conditions_of(self, system: System, batch: Batch) -> list[Conditioning]:
        """What the conditioners make of a training batch, B rows; in rows that drop one, its unconditional form."""
        return [_with_dropout(each, each.from_batch(system, batch), batch) for each in self.conditioners]


class System(nn.Module):
    """A recipe built: towers under ``text.0 ...``, ``vision`` where it has one, each level under its own name.

    ``weights_hash`` is the SHA-256 of what was loaded. It may be set to what works it out, ``hashed``: that reads files
    of gigabytes, and is called when the hash is first asked for. ``aligned`` says that weights begin at cache lines
    when they work, as those of a module that torch has made; where they were left in their file, whoever takes them
    from it sees to that.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.hashed: Callable[[], str] = str
        #: The files that its weights were read from.
        self.files: tuple[Path, ...] = ()
        self.aligned = False
        #: A small decoder of the last level's x, where one was given: see ``Request.tiny_decoder``.
        self.tiny_space: Space | None = None
        self.text = nn.ModuleList(cast(Any, tower).build() for tower in recipe.text_encoders)
        self.text_fusion: Any = None if recipe.text_fusion is None else cast(Any, recipe.text_fusion).build()
        self.vision: Any = None if recipe.vision is None else cast(Any, recipe.vision).build()
        for level in recipe.levels:
            self.add_module(level.name, BuiltLevel(level))

    @property
    def weights_hash(self) -> str:
        """The SHA-256 of what was loaded, "" where nothing was. Raises WeightsError as what works it out."""
        return self.hashed()

    @weights_hash.setter
    def weights_hash(self, value: str | Callable[[], str]) -> None:
        self.hashed = (lambda: value) if isinstance(value, str) else value

    def check_files(self) -> None:
        """Raises WeightsError where a file that its weights were read from holds values that are no finite numbers."""
        for file in self.files:
            if file.is_file() and (names := checkpoint_io.unsound(file)):
                shown = ", ".join(names[:NAMES_SHOWN]) + (
                    f" … (+{len(names) - NAMES_SHOWN})" * (len(names) > NAMES_SHOWN)
                )
                raise WeightsError(
                    "{count} tensors of {file} hold values that are no finite numbers (NaN or infinite): {shown}; "
                    "the weights are broken, whatever the precision: download them again, or ask their publisher",
                    count=len(names),
                    file=file,
                    shown=shown,
                )

    @property
    def text_encoders(self) -> list[TextEncoder]:
        """The text towers, in the recipe's order."""
        return cast("list[TextEncoder]", list(self.text))

    def level(self, name: str) -> BuiltLevel:
        """A built level. Raises RecipeError for a name the recipe does not have."""
        self.recipe.level(name)
        return cast(BuiltLevel, getattr(self, name))

    def space(self, name: str) -> Space:
        """The space of a level, its own or the one it shares."""
        space = self.recipe.level(name).space
        return self.space(space) if isinstance(space, str) else cast(Space, self.level(name).space)

    def encode(self, texts: Sequence[str], skip: int = 0) -> tuple[TextEncoding, ...]:
        """Texts through every tower; those of CLIP leave ``skip`` of their last layers out."""
        rows = [
            cast(Any, tower).encode(texts, skip) if skip and getattr(tower, "skippable", 0) else tower.encode(texts)
            for tower in self.text_encoders
        ]
        return tuple(cast_encoding(row, torch.float32) for row in rows)

    def budgets(self, text: str) -> list[Budget]:
        """What of a text each tower reads."""
        return [tower.budget(text) for tower in self.text_encoders]

    def conditions_of_seed(self, seed: int) -> dict[str, list[float]]:
        """What the conditioners take from a seed, by name: requested so, it is known what was drawn."""
        every = [each for level in self.recipe.levels for each in self.level(level.name).conditioners]
        drawn = {each.name: each.of_seed(seed) for each in every}
        return {name: [float(number) for number in value[0]] for name, value in drawn.items() if value is not None}

    def condition(self, encodings: tuple[TextEncoding, ...], hints: Sequence[Conditioning] = ()) -> Conditioning:
        """Encodings and hints as a level's denoiser takes them. Without a ``join`` in the recipe each encoding is a
        stream, and the vector is the last pooled output there is.
        """
        if self.text_fusion is not None:
            return merge_conditioning(cast(TextFusion, self.text_fusion).fuse(encodings), hints)
        pooled = [e.pooled for e in encodings if e.pooled is not None]
        return merge_conditioning(Conditioning(encodings, pooled[-1] if pooled else None), hints)

    def denoise(self, ask: DenoiserInput) -> Tensor:
        """The denoiser's answer to an ask, [R, *shape] (twice the channels where it learnt the variance).

        A denoiser kept as other numbers is given those; its answer is of the kind of x all the same.
        """
        denoiser: Any = self.level(ask.level).denoiser
        if isinstance(denoiser, ShortcutDenoiser) and ask.shortcuts != Shortcuts():
            denoiser = partial(denoiser.shortened, ask=ask)
        kind = dtype_of(self.level(ask.level).denoiser) or ask.x.dtype
        t = ask.t.to(ask.x.device)  # a sampler's times are the processor's
        if kind == ask.x.dtype:
            return denoiser(ask.x, t, ask.conditioning)
        return denoiser(ask.x.to(kind), t, cast_conditioning(ask.conditioning, kind)).to(ask.x.dtype)

    def save(self, folder: Path, dtype: torch.dtype | None = None, state: Mapping[str, Tensor] | None = None) -> None:
        """Writes recipe, weights, tokenizers and their hashes; ``bimo.load(folder)`` reads them back. ``state`` are the
        weights where those of the modules are not all here.
        """
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / RECIPE_FILE, dumps(self.recipe).encode())
        checkpoint_io.write(folder / WEIGHTS_FILE, self.state_dict() if state is None else state, dtype)
        for index, tower in enumerate(self.text_encoders):
            tower.save_tokenizer(folder / f"words.{index}")
        files = [folder / RECIPE_FILE, folder / WEIGHTS_FILE, *sorted(folder.glob("words.*/*"))]
        hashes = {p.relative_to(folder).as_posix(): digest(p) for p in files}
        write_whole(folder / HASHES_FILE, json.dumps(hashes, indent=1).encode())

    @classmethod
    def read(cls, folder: Path, dtype: torch.dtype | None = torch.float32) -> System:
        """A system that ``save`` wrote, ready to draw, its numbers as ``dtype`` or with None as they lie in the file.
        Raises WeightsError and RecipeError.
        """
        recipe = checkpoint_io.read_recipe(folder / RECIPE_FILE)
        if not isinstance(recipe, Recipe):
            raise RecipeError("{folder} is not a recipe", folder=folder / RECIPE_FILE)
        hashes = checkpoint_io.read_hashes(folder / HASHES_FILE)
        with verifying(folder, hashes):
            with checkpoint_io.unfilled():
                system = cls(recipe)
            file = folder / WEIGHTS_FILE
            system.weights_hash = hashes.get(WEIGHTS_FILE, "") or LateDigest(file)
            system.files = (file,)
            state = checkpoint_io.read(file, dtype)
            # Copied where it must be, so that it draws the same bits as before it was saved.
            system.aligned = True
            if dtype is not None:
                state = {name: checkpoint_io.aligned(value) for name, value in state.items()}
            checkpoint_io.assign(system, state, dtype, file)
            for index, tower in enumerate(system.text_encoders):
                tower.load_tokenizer(folder / f"words.{index}")
        return system.eval()
