"""A built recipe as one module: encode texts, condition, denoise, save."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor, nn

from bimo.core import checkpoint_io, module_weights
from bimo.core.errors import RecipeError, WeightsError
from bimo.core.files import write_whole
from bimo.core.hashing import LateDigest, digest, digest_of_table, verifying
from bimo.core.part import dumps
from bimo.core.recipe import Level, Recipe
from bimo.core.tensors import Batch, Conditioning, DenoiserInput, Shortcuts, TextEncoding
from bimo.core.weight_formats import is_gguf
from bimo.diffusion.casting import cast_conditioning, cast_encoding, dtype_of
from bimo.diffusion.conditioner import Conditioner
from bimo.diffusion.conditioning import merge_conditioning, with_dropout
from bimo.diffusion.denoiser import Denoiser, ShortcutDenoiser
from bimo.diffusion.schedules.schedule import Schedule
from bimo.diffusion.seamless import circular
from bimo.diffusion.space import Decoder, Space
from bimo.diffusion.text_encoder import TextEncoder, TextFusion
from bimo.prompts.token_budget import Budget

if TYPE_CHECKING:
    from PIL import Image

RECIPE_FILE = "recipe.json"
WEIGHTS_FILE = "weights.safetensors"
HASHES_FILE = "hashes.json"
#: How many broken tensors are named.
NAMES_SHOWN = 3
#: The nulls of guidance that no negative prompt changes.
ZERO_NULLS = ("zeros", "masked")


class BuiltLevel(nn.Module):
    """A level with its modules. A space shared with another level is registered there alone."""

    def __init__(self, level: Level) -> None:
        super().__init__()
        self.recipe = level
        self.schedule = cast(Schedule, level.schedule)
        self.conditioners = cast("tuple[Conditioner, ...]", level.conditioners)
        if not isinstance(level.space, str):
            self.space: Space = cast(Any, level.space).build()
        self.denoiser: Denoiser = cast(Any, level.denoiser).build()

    def conditions_of(self, system: System, batch: Batch) -> list[Conditioning]:
        """What the conditioners make of a training batch, B rows; in rows that drop one, its unconditional form."""
        return [with_dropout(each, each.from_batch(system, batch), batch) for each in self.conditioners]


class StepwiseWeights(Protocol):
    """Weights of denoisers that are not the same in every step, as of LoRAs that count in a range of them."""

    def phase(self, step: int, steps: int) -> tuple[bool, ...]:
        """What is the same where the weights of two steps are."""
        ...

    def enter(self, system: System, phase: tuple[bool, ...]) -> None:
        """Has the weights be those of a phase."""
        ...


class System(nn.Module):
    """A recipe built: text encoders under ``text.0 ...``, ``vision`` where it has one, each level under its own name.

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
        self.tiny_space: Decoder | None = None
        #: The LoRAs that are merged into its weights, of `bimo.models.adapters.lora_merging`.
        self.merged_loras: object | None = None
        #: The captions, in their normal form, that what is merged into its weights was trained on besides.
        self.captions_learned: tuple[str, ...] = ()
        #: Weights that change from step to step, where there are some.
        self.stepwise: StepwiseWeights | None = None
        #: What is attached to it, of `bimo.engine.adapters`.
        self.attached: object | None = None
        #: What moves its modules while it learns, a `bimo.engine.offload.WeightMover`.
        self.weight_mover: object | None = None
        self.text = nn.ModuleList(cast(Any, encoder).build() for encoder in recipe.text_encoders)
        for encoder in self.text_encoders:
            encoder.share(self.text_encoders)
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
            if file.is_file() and not is_gguf(file) and (names := checkpoint_io.unsound(file)):
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
        """The text encoders, in the recipe's order."""
        return cast("list[TextEncoder]", list(self.text))

    def level(self, name: str) -> BuiltLevel:
        """A built level. Raises RecipeError for a name the recipe does not have."""
        self.recipe.level(name)
        return cast(BuiltLevel, self.get_submodule(name))

    def space(self, name: str) -> Space:
        """The space of a level, its own or the one it shares."""
        space = self.recipe.level(name).space
        return self.space(space) if isinstance(space, str) else self.level(name).space

    def encode(
        self, texts: Sequence[str], skip: int = 0, pictures: Sequence[Image.Image] = ()
    ) -> tuple[TextEncoding, ...]:
        """Texts through every text encoder; those of CLIP leave ``skip`` of their last layers out. Those that read
        pictures look at ``pictures`` with each text.
        """
        rows = [
            encoder.encode_with(texts, [pictures] * len(texts))
            if encoder.reads_pictures
            else encoder.encode(texts, skip if encoder.skippable else 0)
            for encoder in self.text_encoders
        ]
        return tuple(cast_encoding(row, torch.float32) for row in rows)

    def budgets(self, text: str) -> list[Budget]:
        """What of a text each text encoder reads."""
        return [encoder.budget(text).knowing(self.captions_learned) for encoder in self.text_encoders]

    def conditions_of_seed(self, seed: int) -> dict[str, list[float]]:
        """What the conditioners take from a seed, by name: requested so, it is known what was drawn."""
        every = [each for level in self.recipe.levels for each in self.level(level.name).conditioners]
        drawn = {each.name: each.of_seed(seed) for each in every}
        return {name: [float(number) for number in value[0]] for name, value in drawn.items() if value is not None}

    def condition(self, encodings: tuple[TextEncoding, ...], conditions: Sequence[Conditioning] = ()) -> Conditioning:
        """Encodings and conditions as a level's denoiser takes them. Without a ``text_fusion`` in the recipe each
        encoding is a stream, and the vector is the last pooled output there is.
        """
        if self.text_fusion is not None:
            return merge_conditioning(cast(TextFusion, self.text_fusion).fuse(encodings), conditions)
        pooled = [e.pooled for e in encodings if e.pooled is not None]
        return merge_conditioning(Conditioning(encodings, pooled[-1] if pooled else None), conditions)

    def denoise(self, ask: DenoiserInput) -> Tensor:
        """The denoiser's output, [R, *shape] (twice the channels where it learnt the variance).

        A denoiser kept as other numbers is given those; its answer is of the kind of x all the same.
        """
        denoiser: Any = self.level(ask.level).denoiser
        if isinstance(denoiser, ShortcutDenoiser) and ask.shortcuts != Shortcuts(seamless=ask.seamless):
            denoiser = partial(denoiser.shortened, ask=ask)
        module = self.level(ask.level).denoiser
        kind = dtype_of(module) or ask.x.dtype
        t = ask.t.to(ask.x.device)  # a sampler's times are the processor's
        with circular(module, ask.seamless):
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
        for index, encoder in enumerate(self.text_encoders):
            encoder.save_tokenizer(folder / f"words.{index}")
        files = [folder / RECIPE_FILE, folder / WEIGHTS_FILE, *sorted(folder.glob("words.*/*"))]
        hashes = {p.relative_to(folder).as_posix(): digest(p) for p in files}
        write_whole(folder / HASHES_FILE, json.dumps(hashes, indent=1).encode())

    @classmethod
    def read(cls, folder: Path, dtype: torch.dtype | None = torch.float32) -> System:
        """A system that ``save`` wrote, ready to draw, its numbers as ``dtype`` or with None as they lie in the file.
        The weights may lie in several files that hashes.json lists, parts of a system as `bimo export --only` writes
        them. Raises WeightsError and RecipeError.
        """
        recipe = checkpoint_io.read_recipe(folder / RECIPE_FILE)
        if not isinstance(recipe, Recipe):
            raise RecipeError("{folder} is not a recipe", folder=folder / RECIPE_FILE)
        hashes = checkpoint_io.read_hashes(folder / HASHES_FILE)
        with verifying(folder, hashes):
            with module_weights.unfilled():
                system = cls(recipe)
            parts = {name: one for name, one in hashes.items() if name.endswith(".safetensors")}
            files = tuple(folder / name for name in parts or (WEIGHTS_FILE,))
            system.weights_hash = next(iter(parts.values())) if len(parts) == 1 else digest_of_table(parts)
            if not parts:
                system.weights_hash = LateDigest(files[0])
            system.files = files
            state = {name: value for file in files for name, value in checkpoint_io.read(file, dtype).items()}
            # Copied where it must be, so that it draws the same bits as before it was saved.
            system.aligned = True
            if dtype is not None:
                state = {name: module_weights.aligned(value) for name, value in state.items()}
            module_weights.assign(system, state, dtype, files[0])
            for index, encoder in enumerate(system.text_encoders):
                encoder.load_tokenizer(folder / f"words.{index}")
        return system.eval()
