"""What is attached to a system before it draws: LoRAs, embeddings, ControlNets, T2I-Adapters and IP-Adapters.

Each is named as on the command line: "FILE" or "FILE:0.8" is a LoRA, "FILE" or "FILE=<word>" a learnt word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from bimo.core.errors import RequestError, WeightsError
from bimo.core.files import demand_regular
from bimo.core.messages import Both, Listed, Message
from bimo.core.part import meant
from bimo.prompts.a1111 import LoraTag

if TYPE_CHECKING:
    from bimo.diffusion.system import System


@dataclass(frozen=True)
class Adapters:
    """LoRAs with their weights, words with what each is to be called ("" where its file says it), ControlNets or
    T2I-Adapters and IP-Adapters with the names of their conditions. ``image_encoder`` is the folder of the image
    encoder of IP-Adapters, where it is not beside them.
    """

    loras: tuple[tuple[Path, float], ...] = ()
    embeddings: tuple[tuple[Path, str], ...] = ()
    controls: tuple[tuple[Path, str], ...] = ()
    ip_adapters: tuple[tuple[Path, str], ...] = ()
    image_encoder: Path | None = None

    @classmethod
    def named(
        cls,
        loras: Sequence[str | Path] = (),
        embeddings: Sequence[str | Path] = (),
        controls: Sequence[str | Path] = (),
        ip_adapters: Sequence[str | Path] = (),
        image_encoder: str | Path | None = None,
    ) -> Adapters:
        """Adapters by their files. A request gives its picture to the first of ``controls`` as "control", to the next
        as "control-2", and to those of ``ip_adapters`` as "prompt", "prompt-2". Raises RequestError for what is not
        there.
        """
        for path in map(Path, (*controls, *ip_adapters)):
            if not path.exists():
                raise RequestError("there is no file or folder {path}; name an adapter's", path=path)
        return cls(
            tuple(lora(str(text)) for text in loras),
            tuple(embedding(str(text)) for text in embeddings),
            tuple((Path(path), numbered("control", place)) for place, path in enumerate(controls, 1)),
            tuple((Path(path), numbered("prompt", place)) for place, path in enumerate(ip_adapters, 1)),
            None if image_encoder is None else Path(image_encoder),
        )

    def put(self, system: System) -> System:
        """The system with all of them; its tensors are shared. Raises WeightsError for those of another family."""
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
        """What each is called: a LoRA as its file, without the ending, an embedding as the word or else the file that
        it was attached by, others as the condition that a request gives their picture by.
        """
        words = [word or path.stem for path, word in self.embeddings]
        return [
            *(path.stem for path, _ in self.loras),
            *words,
            *(name for _, name in (*self.controls, *self.ip_adapters)),
        ]

    def joined(self, more: Adapters) -> Adapters:
        """These and more; a LoRA that is among both has the later weight."""
        return Adapters(
            tuple((dict(self.loras) | dict(more.loras)).items()),
            (*self.embeddings, *more.embeddings),
            (*self.controls, *more.controls),
            (*self.ip_adapters, *more.ip_adapters),
            more.image_encoder or self.image_encoder,
        )

    def without(self, name: str) -> Adapters:
        """All but the one of a name, of "" none. Raises WeightsError for one that is not here."""
        if name and name not in self.names():
            near = Message("there is {names}", names=Listed(self.names()) if self.names() else Both("空", "none"))
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
    """What is attached to a system, and how it is taken off again. ``systems`` are the one without anything and those
    that were built around it, ``restore`` gives the first its tokenizers and tables of tokens back.
    """

    systems: tuple[System, ...]
    adapters: Adapters
    restore: Callable[[], None]


def detached(system: System, name: str = "") -> System:
    """A system without the adapter of a name, or without any; the others are attached anew. Raises WeightsError for a
    name that is not attached.
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


#: What the file of a LoRA ends in.
LORA_SUFFIXES = (".safetensors", ".pt", ".bin", ".ckpt")


def of_prompt(tags: Sequence[LoraTag], folder: Path | None) -> tuple[tuple[Path, float], ...]:
    """The files in a folder that ``<lora:name:weight>`` asks for, with their weights; a name stands for no path. Raises
    RequestError where there is no folder, or no such file in it.
    """
    if not tags:
        return ()
    if folder is None or not folder.is_dir():
        raise RequestError(
            "the prompt asks for the LoRA {name}; name the folder it lies in with --lora-folder{there}",
            name=tags[0].name,
            there=Both("", "") if folder is None else Message("; there is no folder {folder}", folder=folder),
        )
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in LORA_SUFFIXES and file.is_file())
    named = {file.stem: file for file in reversed(files)}
    found: dict[Path, float] = {}
    for tag in tags:
        if tag.name not in named:
            near = meant(tag.name, named) if named else Message("; it holds none")
            raise RequestError("no LoRA {name!r} lies in {folder}{near}", name=tag.name, folder=folder, near=near)
        file = named[tag.name]
        demand_regular(file)
        found[file] = tag.weight
    return tuple(found.items())


def demand_attached(tags: Sequence[LoraTag], attached: Sequence[tuple[str, float]]) -> None:
    """Raises RequestError where a prompt asks for an adapter that is not attached, or for another weight of it."""
    there = dict(attached)
    for tag in tags:
        if tag.name not in there:
            raise RequestError(
                "the prompt asks for the LoRA {name}, which is not attached; attach its file first", name=tag.name
            )
        if abs(there[tag.name] - tag.weight) > 1e-6:
            raise RequestError(
                "the prompt asks for the LoRA {name} at {weight:g}, and it is attached at {now:g}",
                name=tag.name,
                weight=tag.weight,
                now=there[tag.name],
            )


def numbered(name: str, place: int) -> str:
    """What the condition of an adapter is called: "control", "control-2" ..."""
    return name if place == 1 else f"{name}-{place}"


def weighted(text: str) -> tuple[Path, float | None]:
    """'FILE' or 'FILE:0.8' -> the file, and the weight or None."""
    match = re.fullmatch(r"(.+):(-?\d+(?:\.\d*)?)", text)
    return (Path(match[1]), float(match[2])) if match and not Path(text).exists() else (Path(text), None)


def lora(text: str) -> tuple[Path, float]:
    """'FILE' or 'FILE:0.8' -> the file and its weight. Raises RequestError where there is no such file."""
    path, weight = weighted(text)
    if not path.exists():
        raise RequestError(
            "--lora: there is no {path}; write FILE or FILE:weight, for instance ink.safetensors:0.8", path=path
        )
    if not path.is_dir():
        demand_regular(path)
    return path, 1.0 if weight is None else weight


def embedding(text: str) -> tuple[Path, str]:
    """'FILE' or 'FILE=<word>' -> the file, or diffusers' folder of one, and what its word is called.

    Raises RequestError where there is none.
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
