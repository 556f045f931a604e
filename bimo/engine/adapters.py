"""Adapters attached to a system: LoRAs, textual inversions, ControlNets, T2I-Adapters and IP-Adapters.

They are given as on the command line: "FILE", "FILE:0.8" or "FILE:0.8@0.2-0.6" for a LoRA, "FILE" or "FILE=<word>"
for an embedding.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from bimo.core.errors import RequestError, WeightsError
from bimo.core.files import demand_regular
from bimo.core.lora_weight import LoraWeight
from bimo.core.messages import Listed, Message
from bimo.core.part import meant
from bimo.prompts.a1111 import LoraTag

if TYPE_CHECKING:
    from bimo.diffusion.system import System


@dataclass(frozen=True)
class Adapters:
    """Files of adapters: (LoRA, weight), (embedding, token, "" for the token that its file names), and (ControlNet or
    T2I-Adapter, condition name), (IP-Adapter, condition name). ``image_encoder`` is the folder of the IP-Adapters'
    image encoder if it does not lie next to them.
    """

    loras: tuple[tuple[Path, LoraWeight], ...] = ()
    embeddings: tuple[tuple[Path, str], ...] = ()
    controls: tuple[tuple[Path, str], ...] = ()
    ip_adapters: tuple[tuple[Path, str], ...] = ()
    image_encoder: Path | None = None

    @classmethod
    def from_files(
        cls,
        loras: Sequence[str | Path | tuple[Path, LoraWeight]] = (),
        embeddings: Sequence[str | Path] = (),
        controls: Sequence[str | Path] = (),
        ip_adapters: Sequence[str | Path] = (),
        image_encoder: str | Path | None = None,
    ) -> Adapters:
        """Adapters from their files. A request passes the picture of the first of ``controls`` as the condition
        "control", of the next as "control-2", and those of ``ip_adapters`` as "prompt", "prompt-2". Raises
        RequestError if a file does not exist.
        """
        for path in map(Path, (*controls, *ip_adapters)):
            if not path.exists():
                raise RequestError("there is no file or folder {path}; name an adapter's", path=path)
        return cls(
            tuple(_present(*one) if isinstance(one, tuple) else lora(str(one)) for one in loras),
            tuple(embedding(str(text)) for text in embeddings),
            tuple((Path(path), numbered("control", number)) for number, path in enumerate(controls, 1)),
            tuple((Path(path), numbered("prompt", number)) for number, path in enumerate(ip_adapters, 1)),
            None if image_encoder is None else Path(image_encoder),
        )

    def put(self, system: System) -> System:
        """Attaches all of them; the returned system shares its tensors with the one given. Raises WeightsError for an
        adapter of another model family.
        """
        if not self.names():
            return system
        from bimo.models.adapters import attach
        from bimo.models.text_encoders import textual_inversion

        before = Attached((system,), Adapters(), textual_inversion.untaught(system))
        before = before if system.attached is None else cast(Attached, system.attached)
        for file, word in self.embeddings:
            textual_inversion.teach(system, file, word)
        for file, weight in self.loras:
            attach.adapt(system, file, weight)
        for network, name in self.controls:
            system = attach.control(system, network, name)
        for file, name in self.ip_adapters:
            system = attach.image_prompt(system, file, self.image_encoder, name)
        systems = before.systems if system is before.systems[-1] else (*before.systems, system)
        system.attached = replace(before, systems=systems, adapters=before.adapters.joined(self))
        return system

    def names(self) -> list[str]:
        """The names to detach them by: a LoRA's file name without suffix, an embedding's token or else its file name,
        for all others the name of the condition.
        """
        words = [word or path.stem for path, word in self.embeddings]
        return [
            *(path.stem for path, _ in self.loras),
            *words,
            *(name for _, name in (*self.controls, *self.ip_adapters)),
        ]

    def joined(self, more: Adapters) -> Adapters:
        """Both sets of adapters; for a LoRA in both, the weight in ``more`` wins."""
        return Adapters(
            tuple((dict(self.loras) | dict(more.loras)).items()),
            (*self.embeddings, *more.embeddings),
            (*self.controls, *more.controls),
            (*self.ip_adapters, *more.ip_adapters),
            more.image_encoder or self.image_encoder,
        )

    def without(self, name: str) -> Adapters:
        """All adapters except the named one; "" drops all. Raises WeightsError for an unknown name."""
        if name and name not in self.names():
            near = Message("there is {names}", names=Listed(self.names()) if self.names() else Message("none"))
            raise WeightsError("nothing called {name!r} is attached; {near}", name=name, near=near)
        return Adapters(
            tuple((path, weight) for path, weight in self.loras if name and path.stem != name),
            tuple((path, word) for path, word in self.embeddings if name and (word or path.stem) != name),
            tuple(each for each in self.controls if name and each[1] != name),
            tuple(each for each in self.ip_adapters if name and each[1] != name),
            self.image_encoder,
        )


@dataclass(frozen=True)
class Attached:
    """The adapters of a system and what is needed to detach them: ``systems`` are the plain system and those built
    around it, ``restore`` resets the plain system's tokenizers and token embeddings.
    """

    systems: tuple[System, ...]
    adapters: Adapters
    restore: Callable[[], None]


def detached(system: System, name: str = "") -> System:
    """Detaches the named adapter, or all of them for "". The others are attached again to the plain system. Raises
    WeightsError for a name that is not attached.
    """
    from bimo.models.adapters import attach

    if system.attached is None:
        attach.unadapt(system, name)
        return system
    attached = cast(Attached, system.attached)
    rest = attached.adapters.without(name)
    for each in reversed(attached.systems):
        attach.unadapt(each)
        each.merged_loras = None
    attached.restore()
    plain = attached.systems[0]
    plain.attached = None
    return rest.put(plain)


#: File suffixes of LoRAs.
LORA_SUFFIXES = (".safetensors", ".pt", ".bin", ".ckpt")


def of_prompt(tags: Sequence[LoraTag], folder: Path | None) -> tuple[tuple[Path, LoraWeight], ...]:
    """The files and weights of a prompt's ``<lora:name:weight>`` tags. Names are looked up in the folder and are never
    paths. Raises RequestError if there is no folder, or no such file in it.
    """
    if not tags:
        return ()
    if folder is None or not folder.is_dir():
        raise RequestError(
            "the prompt asks for the LoRA {name}; name the folder it lies in with --lora-folder{there}",
            name=tags[0].name,
            there="" if folder is None else Message("; there is no folder {folder}", folder=folder),
        )
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in LORA_SUFFIXES and file.is_file())
    file_of = {file.stem: file for file in reversed(files)}
    weights: dict[Path, LoraWeight] = {}
    for tag in tags:
        if tag.name not in file_of:
            suggestion = meant(tag.name, file_of) if file_of else Message("; it holds none")
            raise RequestError("no LoRA {name!r} lies in {folder}{near}", name=tag.name, folder=folder, near=suggestion)
        file = file_of[tag.name]
        demand_regular(file)
        weights[file] = tag.weight
    return tuple(weights.items())


def demand_attached(tags: Sequence[LoraTag], attached: Sequence[tuple[str, LoraWeight]]) -> None:
    """Raises RequestError if a prompt's ``<lora:...>`` tag is not attached, or attached with another weight."""
    weight_of = dict(attached)
    for tag in tags:
        if tag.name not in weight_of:
            raise RequestError(
                "the prompt asks for the LoRA {name}, which is not attached; attach its file first", name=tag.name
            )
        now = weight_of[tag.name]
        apart = max(abs(now.value - tag.weight.value), abs(now.first - tag.weight.first))
        if max(apart, abs(now.last - tag.weight.last)) > 1e-6:
            raise RequestError(
                "the prompt asks for the LoRA {name} at {weight}, and it is attached at {now}",
                name=tag.name,
                weight=tag.weight,
                now=now,
            )


def numbered(name: str, number: int) -> str:
    """The condition name of the n-th adapter of a kind, counted from 1: "control", "control-2" ..."""
    return name if number == 1 else f"{name}-{number}"


def weighted(text: str) -> tuple[Path, float | None]:
    """Splits 'FILE' or 'FILE:0.8' into the path and the weight, None if there is no weight."""
    match = re.fullmatch(r"(.+):(-?\d+(?:\.\d*)?)", text)
    return (Path(match[1]), float(match[2])) if match and not Path(text).exists() else (Path(text), None)


def lora(text: str) -> tuple[Path, LoraWeight]:
    """Splits 'FILE', 'FILE:0.8' or 'FILE:0.8@0.2-0.6' into the path and the weight, 1.0 in all steps by default. Raises
    RequestError if the file does not exist.
    """
    file, _, written = text.rpartition(":")
    weight = LoraWeight.read(written) if file and not Path(text).exists() else None
    return _present(Path(text if weight is None else file), weight or LoraWeight())


def _present(path: Path, weight: LoraWeight) -> tuple[Path, LoraWeight]:
    """A LoRA's file and weight. Raises RequestError if the file does not exist."""
    if not path.exists():
        raise RequestError(
            "--lora: there is no {path}; write FILE or FILE:weight, for instance ink.safetensors:0.8, or "
            "ink.safetensors:0.8@0.2-0.6 with the share of the steps that it counts in",
            path=path,
        )
    if not path.is_dir():
        demand_regular(path)
    return path, weight


def embedding(text: str) -> tuple[Path, str]:
    """Splits 'FILE' or 'FILE=<word>' into the path (a file or a diffusers folder) and the token.

    Raises RequestError if the path does not exist.
    """
    file, _, word = text.partition("=")
    if not Path(file).exists():
        raise RequestError(
            "--embedding: there is no file {file}; write FILE or FILE=<word>, for instance duck.safetensors=<duck>",
            file=file,
        )
    if not Path(file).is_dir():
        demand_regular(Path(file))
    return Path(file), word
