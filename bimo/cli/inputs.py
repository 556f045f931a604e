"""What `bimo draw` is given beside words: pictures, dials of guidance, adapters, and a record drawn again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydantic

from bimo.core.errors import RequestError
from bimo.core.files import MAXIMUM_PICTURE_BYTES, demand_regular, read_regular
from bimo.core.messages import Message, say
from bimo.core.picture import Picture
from bimo.core.request import Pixels

if TYPE_CHECKING:
    from bimo.diffusion.system import System

_PICTURE: Any = pydantic.TypeAdapter(Pixels)


def picture(path: Path) -> Any:
    """The picture in a file. Raises RequestError that names the file where it is none or too large."""
    content = read_regular(path, MAXIMUM_PICTURE_BYTES)
    try:
        return _PICTURE.validate_python(content)
    except pydantic.ValidationError as error:
        told = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise RequestError("{path} cannot be used as a picture: {told}", path=path, told=told) from None


def fingerprint(image: Any) -> str:
    """What a record keeps of a picture."""
    return str(_PICTURE.dump_python(image))


def named(option: str, given: Sequence[str], example: str) -> dict[str, str]:
    """['name=value', ...] -> {name: value}. Raises RequestError for what is not of that form, and for a name twice."""
    found: dict[str, str] = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not (name.strip() and sign and value.strip()) or name.strip() in found:
            raise RequestError(
                "{option} is {text!r}; expected name=value, each name once, for instance {option} {example}",
                option=option,
                text=text,
                example=example,
            )
        found[name.strip()] = value.strip()
    return found


def dials(given: Sequence[str]) -> dict[str, float]:
    """['name=4.0', ...] -> {name: 4.0}. Raises RequestError."""
    found: dict[str, float] = {}
    for name, value in named("--dial", given, "style=4.0").items():
        try:
            found[name] = float(value)
        except ValueError:
            raise RequestError(
                "the value of --dial {name} is {value!r}; expected a number", name=name, value=value
            ) from None
    return found


@dataclass(frozen=True)
class Looking:
    """A network that looks at a picture, in a file or folder: what its hint is called, and its weight where one is
    given. ``option`` is the one that gave it.
    """

    option: str
    name: str
    network: Path
    picture: Path
    weight: float | None

    @classmethod
    def control(cls, text: str, number: int) -> Looking:
        """'PICTURE=NETWORK' or 'PICTURE=NETWORK:0.6'. Raises RequestError."""
        name = "control" if number == 1 else f"control-{number}"
        for file, rest in _halves(text):
            network, weight = _weighed(rest)
            if network.exists():
                if not network.is_dir():
                    demand_regular(network)
                return cls("--control", name, network, Path(file), weight)
        raise RequestError(
            "--control is {text!r}; expected PICTURE=NETWORK or PICTURE=NETWORK:weight, of a ControlNet or "
            "T2I-Adapter in a folder or a file",
            text=text,
        )

    @classmethod
    def image_prompt(cls, text: str, number: int) -> Looking:
        """'FILE=PICTURE' or 'FILE=PICTURE:0.6'. Raises RequestError."""
        name = "prompt" if number == 1 else f"prompt-{number}"
        for file, rest in _halves(text):
            if Path(file).is_file():
                path, weight = _weighed(rest)
                return cls("--ip-adapter", name, Path(file), path, weight)
        raise RequestError(
            "--ip-adapter is {text!r}; expected FILE=PICTURE or FILE=PICTURE:weight, for instance "
            "ip-adapter_sd15.bin=cat.png:0.6",
            text=text,
        )


def _halves(text: str) -> Iterator[tuple[str, str]]:
    """The ways to cut a text at an equals sign, of which a file's name may have some."""
    for found in re.finditer("=", text):
        before, after = text[: found.start()], text[found.end() :]
        if before and after:
            yield before, after


def _weighed(text: str) -> tuple[Path, float | None]:
    """'FILE' or 'FILE:0.8' -> the file, and the weight or None."""
    found = re.fullmatch(r"(.+):(-?\d+(?:\.\d*)?)", text)
    return (Path(found[1]), float(found[2])) if found and not Path(text).exists() else (Path(text), None)


@dataclass(frozen=True)
class Adapters:
    """What is put beside a system's own weights: LoRAs with their weights, networks that look at a picture, and words.

    Each of ``words`` is the file and what it is to be called, "" where the file says it. ``encoder`` is the folder of
    the image tower of IP-Adapters, where it is not beside them.
    """

    loras: tuple[tuple[Path, float], ...]
    looking: tuple[Looking, ...]
    words: tuple[tuple[Path, str], ...] = ()
    encoder: Path | None = None

    @classmethod
    def given(
        cls,
        loras: Sequence[str],
        controls: Sequence[str],
        words: Sequence[str] = (),
        prompts: Sequence[str] = (),
        encoder: Path | None = None,
    ) -> Adapters:
        """Reads the options. Raises RequestError for what is not there."""
        if encoder is not None and not (prompts and encoder.is_dir()):
            raise RequestError(
                "--image-encoder is {encoder}; expected a folder, together with --ip-adapter", encoder=encoder
            )
        looking = [Looking.control(text, number) for number, text in enumerate(controls, 1)]
        looking += [Looking.image_prompt(text, number) for number, text in enumerate(prompts, 1)]
        read = tuple(lora(text) for text in loras), tuple(looking), tuple(word(text) for text in words)
        return cls(*read, encoder)

    def put(self, system: System) -> System:
        """The system with all of it. Raises WeightsError for adapters of another family."""
        if not self.loras and not self.looking and not self.words:
            return system
        from bimo.models.adapters import attach
        from bimo.models.text_encoders import textual_inversion

        for file, token in self.words:
            textual_inversion.teach(system, file, token)
        for file, weight in self.loras:
            attach.adapt(system, file, weight)
        for one in self.looking:
            if one.option == "--control":
                system = attach.control(system, one.network, one.name)
            else:
                system = attach.image_prompt(system, one.network, self.encoder, one.name)
        return system


def option_of(name: str) -> str:
    """How the picture of a name in a record is given."""
    found = re.fullmatch(r"(control|prompt)(-\d+)?", name)
    if found is None:
        return f"--hint {name}="
    picture, network = say("PICTURE"), say("NETWORK")
    return f"--control {picture}={network}" if found[1] == "control" else f"--ip-adapter {network}={picture}"


@dataclass(frozen=True)
class BestOfN:
    """The best of several drawings, by a scorer in a folder. Raises RequestError where there is no choice."""

    folder: Path
    count: int

    def __post_init__(self) -> None:
        if self.count < 2:
            raise RequestError("--best chooses among pictures; say with -n of how many, for instance -n 4")
        if not self.folder.is_dir():
            raise RequestError(
                "--best: there is no folder {folder}; expected one of Chinese-CLIP, Taiyi-CLIP or the like",
                folder=self.folder,
            )

    def of(self, drawn: Sequence[Picture]) -> Picture:
        """The picture that its words fit best."""
        from bimo.hub import registry
        from bimo.models.clip import scoring

        system = registry.load(self.folder)
        return scoring.ranked(drawn, partial(scoring.similarity, system))[0][0]


def pictures(image: Path | None, mask: Path | None, hints: Sequence[str], beside: Adapters) -> dict[str, Any]:
    """The fields of a request that hold pictures, read from files. Raises RequestError."""
    found: dict[str, Any] = {}
    if mask is not None and image is None:
        raise RequestError("--mask without --image; give the image as well")
    for name, path in (("image", image), ("mask", mask)):
        if path is not None:
            found[name] = picture(path)
    read = {name: picture(Path(file)) for name, file in named("--hint", hints, "sketch=草图.png").items()}
    read |= {one.name: picture(one.picture) for one in beside.looking}
    weights = {one.name: [one.weight] for one in beside.looking if one.weight is not None}
    return found | ({"condition_images": read} if read else {}) | ({"conditions": weights} if weights else {})


def lora(text: str) -> tuple[Path, float]:
    """'FILE' or 'FILE:0.8' -> the file and its weight. Raises RequestError where there is no such file."""
    path, given = _weighed(text)
    weight = 1.0 if given is None else given
    if not path.exists():
        raise RequestError(
            "--lora: there is no {path}; write FILE or FILE:weight, for instance ink.safetensors:0.8", path=path
        )
    if not path.is_dir():
        demand_regular(path)
    return path, weight


def word(text: str) -> tuple[Path, str]:
    """'FILE' or 'FILE=<word>' -> the file and what its word is called. Raises RequestError where there is no file."""
    file, _, token = text.partition("=")
    if not Path(file).exists():
        raise RequestError(
            "--embedding: there is no file {file}; write FILE or FILE=<word>, for instance duck.safetensors=<duck>",
            file=file,
        )
    demand_regular(Path(file))
    return Path(file), token


def recorded(request: dict[str, Any], given: dict[str, Any], file: Path) -> dict[str, Any]:
    """The request in a PNG's record with the pictures it was drawn from, which the record only knows by hash.

    Raises RequestError where one is missing, is another picture, or was never asked for.
    """
    wanted = {name: request[name] for name in ("image", "mask") if request.get(name) is not None}
    wanted |= {f"condition_images.{name}": value for name, value in dict(request.get("condition_images") or {}).items()}
    here = {name: given[name] for name in ("image", "mask") if name in given}
    here |= {f"condition_images.{name}": value for name, value in given.get("condition_images", {}).items()}
    for name in {**wanted, **here}:
        option = f"--{name}" if "." not in name else option_of(name.partition(".")[2])
        if name not in here:
            raise RequestError(
                "{file} was drawn from another picture, of which the record has only the hash {wanted}; give it "
                "again with {option}",
                file=file,
                wanted=wanted[name],
                option=option,
            )
        if name not in wanted:
            raise RequestError("the record of {file} has no picture {option}; leave it out", file=file, option=option)
        if fingerprint(here[name]) != wanted[name]:
            raise RequestError(
                "{option} is not the picture it was drawn from: its hash is {fingerprint}, recorded is {wanted}",
                option=option,
                fingerprint=fingerprint(here[name]),
                wanted=wanted[name],
            )
    strengths = {name: list(value) for name, value in dict(request.get("hints") or {}).items()}
    for name, value in given.get("hints", {}).items():
        told = strengths.get(name, [1.0])
        if value != told:
            raise RequestError(
                "the weight of {option_of} is {value:g}, recorded is {told:g}; leave the weight out",
                option_of=option_of(name),
                value=value[0],
                told=told[0],
            )
    return request | {name: value for name, value in given.items() if name != "hints"}


AGAIN_ALONE = Message(
    "--again draws what the record says; give no prompt and no settings but -m, -o, --json, --open, --dtype, "
    "--offload, --lora, --embedding, --control, --ip-adapter, --image-encoder and the pictures it was drawn from"
)
NEGATIVE_HELP = say('what not to draw; "" is the empty negative prompt, which is not none')
SAMPLER_HELP = say("the sampler, by its name in A1111 or diffusers: 'DPM++ 2M Karras', EulerDiscreteScheduler ...")
SCHEDULE_HELP = say("how the noise falls: normal karras exponential beta lu sgm_uniform simple")
SPACING_HELP = say("where the times of the steps lie: leading trailing linspace; trailing for Turbo and Lightning")
ETA_HELP = say("the share of DDIM's or TCD's noise drawn anew, 0 to 1")
RESCALE_HELP = say("how much of guidance's contrast is taken back, 0 to 1 (arXiv:2305.08891)")
CLIP_SKIP_HELP = say(
    "which of CLIP's layers is read, counted as A1111 does: 1 is the last; diffusers' clip_skip plus 1"
)
IMAGE_HELP = say("begin with this picture")
MASK_HELP = say("paint only where this is white (needs --image)")
STRENGTH_HELP = say("how much of the image is to change, above 0 and at most 1")
HINT_HELP = say("a picture that a hint reads: name=FILE; more than once")
DIAL_HELP = say("a dial of guidance: name=number; more than once")
LORA_HELP = say("a LoRA, with a weight FILE:0.8; more than once")
EMBEDDING_HELP = say("a word that was learnt (textual inversion): FILE, or FILE=<word>; more than once")
CONTROL_HELP = say(
    "draw along a picture: PICTURE=NETWORK, a ControlNet or T2I-Adapter in a folder or a file, with "
    "a weight PICTURE=NETWORK:0.6; more than once"
)
IP_ADAPTER_HELP = say(
    "draw what a picture shows: FILE=PICTURE of an IP-Adapter, with a weight FILE=PICTURE:0.6; more than once"
)
ENCODER_HELP = say("the folder of an IP-Adapter's image tower; else image_encoder beside it")
BEST_HELP = say("of the -n pictures keep the one that fits best, by the Chinese-CLIP, Taiyi-CLIP ... in this folder")
DTYPE_HELP = say("how weights are kept in memory; bf16 takes half")
OFFLOAD_HELP = say("keep each part in memory only while it works: less memory, slower")
