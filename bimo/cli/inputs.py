"""What `bimo draw` takes beside the prompt: images, weights of guidance, adapters, and a record to draw again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

import pydantic

from bimo.core.errors import RequestError
from bimo.core.files import MAXIMUM_PICTURE_BYTES, demand_regular, read_regular
from bimo.core.messages import Message, say
from bimo.core.picture import Picture
from bimo.core.request import Pixels
from bimo.engine.adapters import Adapters, numbered, weighted

_PICTURE: Any = pydantic.TypeAdapter(Pixels)


def image_in(path: Path) -> Any:
    """The picture in a file. Raises RequestError that names the file where it is none or too large."""
    content = read_regular(path, MAXIMUM_PICTURE_BYTES)
    try:
        return _PICTURE.validate_python(content)
    except pydantic.ValidationError as error:
        cause = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise RequestError("{path} cannot be used as a picture: {cause}", path=path, cause=cause) from None


def fingerprint(image: Any) -> str:
    """What a record keeps of a picture."""
    return str(_PICTURE.dump_python(image))


def named(option: str, texts: Sequence[str], example: str) -> dict[str, str]:
    """['name=value', ...] -> {name: value}. Raises RequestError for what is not of that form, and for a name twice."""
    values: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not (name.strip() and sign and value.strip()) or name.strip() in values:
            raise RequestError(
                "{option} is {text!r}; expected name=value, each name once, for instance {option} {example}",
                option=option,
                text=text,
                example=example,
            )
        values[name.strip()] = value.strip()
    return values


def guidance_weights(texts: Sequence[str]) -> dict[str, float]:
    """['name=4.0', ...] -> {name: 4.0}. Raises RequestError."""
    weights: dict[str, float] = {}
    for name, value in named("--guidance-weight", texts, "style=4.0").items():
        try:
            weights[name] = float(value)
        except ValueError:
            raise RequestError(
                "the value of --guidance-weight {name} is {value!r}; expected a number", name=name, value=value
            ) from None
    return weights


def interval(text: str) -> tuple[float, float]:
    """'0.2:0.8' -> (0.2, 0.8). Raises RequestError."""
    low, _, high = text.partition(":")
    try:
        return float(low), float(high)
    except ValueError:
        raise RequestError(
            "--guidance-interval is {text!r}; expected two shares of the steps, for instance 0.2:0.8", text=text
        ) from None


@dataclass(frozen=True)
class Network:
    """A network that reads an image, in a file or folder: the name of its condition, its weight where one is given, and
    the first and last share of the steps that it counts in. ``option`` is the one that gave it.
    """

    option: str
    name: str
    path: Path
    image: Path
    weight: float | None
    steps: tuple[float, ...] = ()

    @property
    def condition(self) -> list[float]:
        """What a request says of it in ``conditions``, [] for nothing."""
        if self.weight is None and not self.steps:
            return []
        return [1.0 if self.weight is None else self.weight, *self.steps]

    @classmethod
    def control(cls, text: str, place: int) -> Network:
        """'PICTURE=NETWORK', 'PICTURE=NETWORK:0.6' or 'PICTURE=NETWORK:0.6@0-0.5'. Raises RequestError."""
        for file, rest in _halves(text):
            rest, steps = _during(rest)
            path, weight = weighted(rest)
            if path.exists():
                if not path.is_dir():
                    demand_regular(path)
                return cls("--control", numbered("control", place), path, Path(file), weight, steps)
        raise RequestError(
            "--control is {text!r}; expected PICTURE=NETWORK or PICTURE=NETWORK:weight, of a ControlNet or "
            "T2I-Adapter in a folder or a file",
            text=text,
        )

    @classmethod
    def image_prompt(cls, text: str, place: int) -> Network:
        """'FILE=PICTURE', 'FILE=PICTURE:0.6' or 'FILE=PICTURE:0.6@0.5-1'. Raises RequestError."""
        for file, rest in _halves(text):
            if Path(file).is_file():
                rest, steps = _during(rest)
                image, weight = weighted(rest)
                return cls("--ip-adapter", numbered("prompt", place), Path(file), image, weight, steps)
        raise RequestError(
            "--ip-adapter is {text!r}; expected FILE=PICTURE or FILE=PICTURE:weight, for instance "
            "ip-adapter_sd15.bin=cat.png:0.6",
            text=text,
        )


def _during(text: str) -> tuple[str, tuple[float, ...]]:
    """'net:0.6@0-0.5' -> what stands before the sign, and two shares of the steps; none where it is a file's name."""
    found = re.fullmatch(r"(.+)@(\d(?:\.\d+)?)-(\d(?:\.\d+)?)", text)
    if found is None or Path(text).exists():
        return text, ()
    return found[1], (float(found[2]), float(found[3]))


def _halves(text: str) -> Iterator[tuple[str, str]]:
    """The ways to cut a text at an equals sign, of which a file's name may have some."""
    for match in re.finditer("=", text):
        before, after = text[: match.start()], text[match.end() :]
        if before and after:
            yield before, after


@dataclass(frozen=True)
class Networks:
    """The networks of ``--control`` and ``--ip-adapter``, and the folder of the image encoder of the latter."""

    every: tuple[Network, ...] = ()
    image_encoder: Path | None = None

    @classmethod
    def of(cls, controls: Sequence[str], ip_adapters: Sequence[str], image_encoder: Path | None) -> Networks:
        """Reads the options. Raises RequestError for what is not there."""
        if image_encoder is not None and not (ip_adapters and image_encoder.is_dir()):
            raise RequestError(
                "--image-encoder is {encoder}; expected a folder, together with --ip-adapter", encoder=image_encoder
            )
        every = [Network.control(text, place) for place, text in enumerate(controls, 1)]
        every += [Network.image_prompt(text, place) for place, text in enumerate(ip_adapters, 1)]
        return cls(tuple(every), image_encoder)

    def adapters(self, loras: Sequence[str], embeddings: Sequence[str]) -> Adapters:
        """What is put beside the system's weights: these, LoRAs and learnt words. Raises RequestError."""
        paths = {
            option: [one.path for one in self.every if one.option == option] for option in ("--control", "--ip-adapter")
        }
        return Adapters.named(loras, embeddings, paths["--control"], paths["--ip-adapter"], self.image_encoder)


def option_of(name: str) -> str:
    """How the picture of a name in a record is given."""
    match = re.fullmatch(r"(control|prompt|image)(-\d+)?", name)
    if match is not None and match[1] == "image":
        return "--image"
    if match is None:
        return f"--condition {name}="
    picture, network = say("PICTURE"), say("NETWORK")
    return f"--control {picture}={network}" if match[1] == "control" else f"--ip-adapter {network}={picture}"


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

    def of(self, pictures: Sequence[Picture]) -> Picture:
        """The picture that its prompt fits best."""
        from bimo.hub import registry
        from bimo.models.clip import scoring

        system = registry.load(self.folder)
        return scoring.ranked(pictures, partial(scoring.similarity, system))[0][0]


def images(files: Sequence[Path], mask: Path | None, conditions: Sequence[str], networks: Networks) -> dict[str, Any]:
    """The fields of a request that hold images, and the weights of networks, read from files: the first of ``files`` is
    the image, others go with it as "image-2" ... Raises RequestError.
    """
    if mask is not None and not files:
        raise RequestError("--mask without --image; give the image as well")
    given = {numbered("image", place): image_in(path) for place, path in enumerate(files, 1)}
    fields: dict[str, Any] = {"image": given.pop("image")} if files else {}
    if mask is not None:
        fields["mask"] = image_in(mask)
    read = {name: image_in(Path(file)) for name, file in named("--condition", conditions, "sketch=草图.png").items()}
    read |= given
    read |= {one.name: image_in(one.image) for one in networks.every}
    weights = {one.name: one.condition for one in networks.every if one.condition}
    return fields | ({"condition_images": read} if read else {}) | ({"conditions": weights} if weights else {})


def recorded(request: dict[str, Any], fields: dict[str, Any], file: Path) -> dict[str, Any]:
    """The request in a PNG's record with the images it was drawn from, which the record only knows by hash: ``fields``
    as ``images`` gives them.

    Raises RequestError where one is missing, is another image, or was never used.
    """
    expected = _images_by_name(request)
    given = _images_by_name(fields)
    for name in {**expected, **given}:
        option = f"--{name.replace('_', '-')}" if "." not in name else option_of(name.partition(".")[2])
        if name not in given:
            raise RequestError(
                "{file} was drawn from another picture, of which the record has only the hash {wanted}; give it "
                "again with {option}",
                file=file,
                wanted=expected[name],
                option=option,
            )
        if name not in expected:
            raise RequestError("the record of {file} has no picture {option}; leave it out", file=file, option=option)
        if fingerprint(given[name]) != expected[name]:
            raise RequestError(
                "{option} is not the picture it was drawn from: its hash is {fingerprint}, recorded is {wanted}",
                option=option,
                fingerprint=fingerprint(given[name]),
                wanted=expected[name],
            )
    weights = {name: list(value) for name, value in dict(request.get("conditions") or {}).items()}
    for name, value in fields.get("conditions", {}).items():
        weight = weights.get(name, [1.0])
        if value != weight:
            raise RequestError(
                "the weight of {option_of} is {value}, recorded is {told}; leave the weight out",
                option_of=option_of(name),
                value=_numbers(value),
                told=_numbers(weight),
            )
    return request | {name: value for name, value in fields.items() if name != "conditions"}


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _images_by_name(request: dict[str, Any]) -> dict[str, Any]:
    """The images, or their hashes, in a request: "image", "mask", "region_map" and "condition_images.<name>"."""
    images = {name: request[name] for name in ("image", "mask", "region_map") if request.get(name) is not None}
    conditions = dict(request.get("condition_images") or {})
    return images | {f"condition_images.{name}": value for name, value in conditions.items()}


AGAIN_ALONE = Message(
    "--again draws what the record says; give no prompt and no settings but -m, -o, --json, --open, --device, --dtype, "
    "--memory, --offload, --quantise, --tiles, --compile, --graphs, --engine, --denoiser, --fast, --tiny-decoder, "
    "--lora, --embedding, --control, --ip-adapter, --image-encoder and the pictures it was drawn from"
)


class Writing(StrEnum):
    """The way the text runs."""

    HORIZONTAL = "horizontal"
    VERTICAL = "vertical"
    COUPLET = "couplet"
    SEAL = "seal"


class InscribeMethod(StrEnum):
    """How text comes into the picture, the first way that is tried."""

    DRAWN = "drawn"
    CONDITIONED = "conditioned"
    COMPOSED = "composed"


def inscription(
    texts: Sequence[str] | None,
    none: bool,
    writing: Writing | None,
    font: str | None,
    box: str | None,
    method: InscribeMethod | None,
) -> dict[str, Any]:
    """The options of text as fields of a request. Raises RequestError for options that contradict each other."""
    if none and texts:
        raise RequestError("--inscribe and --no-inscribe contradict each other; leave one out")
    return {
        "inscribe": () if none else texts and tuple(texts),
        "writing": writing and writing.value,
        "font": _family(font),
        "inscribe_box": None if box is None else box_of(box),
        "inscribe_method": method and method.value,
    }


def _family(font: str | None) -> str | None:
    """A family's name as it is; of a file or folder the family of its first face, known to this process from now on."""
    if font is None or not (place := Path(font).expanduser()).exists():
        return font
    from bimo.inscription.fonts import add_place

    return add_place(place)


def size_of(text: str) -> tuple[int, int]:
    """'512x768' or '512' -> (width, height). Raises RequestError."""
    match = re.fullmatch(r"\s*(\d{1,9})\s*(?:[xX×*]\s*(\d{1,9})\s*)?", text)
    if match is None:
        raise RequestError("--size is {text!r}; expected WxH (for instance 512x768) or one side (512)", text=text)
    return int(match[1]), int(match[2] or match[1])


def box_of(text: str) -> tuple[float, ...]:
    """'0.1,0.1,0.8,0.3' -> (left, top, width, height). Raises RequestError."""
    try:
        box = tuple(float(part) for part in text.replace("，", ",").split(","))
    except ValueError:
        box = ()
    if len(box) != 4:
        raise RequestError(
            "--inscribe-box is {text!r}; expected left,top,width,height as shares of the picture, for instance "
            "0.1,0.1,0.8,0.3",
            text=text,
        )
    return box


NEGATIVE_HELP = say('what not to draw; "" is the empty negative prompt, which is not none')
SAMPLER_HELP = say("the sampler, by its name in A1111 or diffusers: 'DPM++ 2M Karras', EulerDiscreteScheduler ...")
SCHEDULE_HELP = say("how the noise falls: normal karras exponential beta lu sgm_uniform simple")
SPACING_HELP = say("where the times of the steps lie: leading trailing linspace; trailing for Turbo and Lightning")
ETA_HELP = say("the share of DDIM's or TCD's noise drawn anew, 0 to 1")
RESCALE_HELP = say("how much of guidance's contrast is taken back, 0 to 1 (arXiv:2305.08891)")
CLIP_SKIP_HELP = say(
    "which of CLIP's layers is read, counted as A1111 does: 1 is the last; diffusers' clip_skip plus 1"
)
IMAGE_HELP = say("begin with this picture, or edit it; more than once for models that draw from several")
MASK_HELP = say("paint only where this is white (needs --image)")
LABEL_HELP = say("label the picture as a law asks: CN, that of GB 45438-2025")
C2PA_HELP = say("sign the picture (C2PA): a chain of certificates as PEM, the signer's first, and its key as PEM")
PRODUCER_HELP = say("whose name the label says")
STRENGTH_HELP = say("how much of the image is to change, above 0 and at most 1")
CONDITION_HELP = say("an image that conditions the picture: name=FILE; more than once")
GUIDANCE_WEIGHT_HELP = say("the weight of a branch of guidance: name=number; more than once")
LORA_HELP = say("a LoRA, with a weight FILE:0.8; more than once")
EMBEDDING_HELP = say("a word that was learnt (textual inversion): FILE, or FILE=<word>; more than once")
CONTROL_HELP = say(
    "draw along a picture: PICTURE=NETWORK, a ControlNet or T2I-Adapter in a folder or a file, with "
    "a weight and a share of the steps PICTURE=NETWORK:0.6@0-0.5; more than once"
)
IP_ADAPTER_HELP = say(
    "draw what a picture shows: FILE=PICTURE of an IP-Adapter, with a weight and a share of the steps "
    "FILE=PICTURE:0.6@0-0.5; more than once"
)
ENCODER_HELP = say("the folder of an IP-Adapter's image encoder; else image_encoder beside it")
FAST_HELP = say(
    "a LoRA of few steps, with its publisher's settings: FILE or FILE:weight, whose name has lcm, lightning, turbo, "
    "hyper or tcd"
)
INTERVAL_HELP = say("guide only between two shares of the steps: 0.2:0.8")
EVERY_HELP = say("ask the branches of guidance but the given one at every so many steps: 2 to 20")
STEP_CACHE_HELP = say(
    "leave steps or layers out: easy:0.05, deep:3 (UNets), first-block:0.1 or taylor:3 (transformers)"
)
MERGING_HELP = say("the share of a UNet's tokens to be merged, up to 0.75")
NAG_HELP = say("how strongly --negative works without guidance (UNets), above 1, for instance 3")
TINY_HELP = say("decode by the AutoencoderTiny in this folder: TAESD and the like")
BEST_HELP = say("of the -n pictures keep the one that fits best, by the Chinese-CLIP, Taiyi-CLIP ... in this folder")
LORA_FOLDER_HELP = say("where the LoRAs lie that <lora:name:0.8> in a prompt asks for; else BIMO_LORAS")
LONG_PROMPT_HELP = say("read what CLIP has no room for in further chunks, as A1111; else it is cut and said")
EXPLAIN_HELP = say(
    "draw nothing: show chunks, tokens, weights, what is protected or unknown; as a page with -o NAME.html"
)
PROMPTS_HELP = say("draw a table of prompts: .txt a prompt a line; .csv, .tsv or .jsonl with fields of a request")
WILDCARDS_HELP = say("a folder of lists for __name__ in prompts: name.txt with a line each; others come with bimo")
RESUME_HELP = say("draw only what does not lie in the folder -o yet; seeds count from 0 unless --seed says")
EXPAND_HELP = say("write the prompt in full: what idioms, dishes, verses and solar terms show, or by --language-model")
TRANSLATE_HELP = say("put a Chinese prompt into English, word by word by a dictionary, or by --language-model")
LANGUAGE_MODEL_HELP = say(
    "a language model for --expand and --translate: a folder, or an OpenAI-compatible address up to /v1 (its key in "
    "BIMO_LANGUAGE_MODEL_KEY)"
)
LANGUAGE_MODEL_NAME_HELP = say("which model of that address")
POEM_HELP = say("draw a verse: a line as you remember it, or a poem's title")
INSCRIBE_VERSE_HELP = say("write the verse of --poem into the picture")
PARAMETERS_HELP = say("write the settings into the PNG as A1111's programs read them, too")
AXIS_HELP = say("one labelled sheet over a field of the request, or words of the prompt: steps=4,8 or cat=cat,dog")
INSCRIBE_HELP = say(
    "text that must stand in the picture, read back and certified; more than once. Else what is in quotation marks"
)
NO_INSCRIBE_HELP = say("leave what stands in quotation marks to the model")
WRITING_HELP = say("the way the text runs")
FONT_HELP = say("a font: a family's name, a file or a folder; else the first on this machine that has the characters")
INSCRIBE_BOX_HELP = say("where the text stands: left,top,width,height as shares of the picture; else where it is calm")
INSCRIBE_METHOD_HELP = say("the first way tried: the model's own, the glyphs as its condition, or laid in")
