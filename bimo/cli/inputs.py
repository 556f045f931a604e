"""What `bimo draw` is given beside words: pictures, dials of guidance, adapters, and a record drawn again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydantic

from bimo.core.errors import RequestError, say
from bimo.core.files import MAXIMUM_PICTURE_BYTES, demand_regular, read_regular
from bimo.core.types import Picture, Pixels

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
        raise RequestError(f"{path} 不能当图片用：{told}", f"{path} cannot be used as a picture: {told}") from None


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
                f"{option} 是 {text!r}，应为 名字=值，每个名字一次，例如 {option} {example}",
                f"{option} is {text!r}; expected name=value, each name once, for instance {option} {example}",
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
                f"--dial {name} 的值是 {value!r}，应为一个数",
                f"the value of --dial {name} is {value!r}; expected a number",
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
            f"--control 是 {text!r}，应为 图=网络 或 图=网络:强度（ControlNet 或 T2I-Adapter，文件夹或一个文件）",
            f"--control is {text!r}; expected PICTURE=NETWORK or PICTURE=NETWORK:weight, of a ControlNet or "
            "T2I-Adapter in a folder or a file",
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
            f"--ip-adapter 是 {text!r}，应为 文件=图 或 文件=图:强度，例如 ip-adapter_sd15.bin=猫.png:0.6",
            f"--ip-adapter is {text!r}; expected FILE=PICTURE or FILE=PICTURE:weight, for instance "
            "ip-adapter_sd15.bin=cat.png:0.6",
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
                f"--image-encoder 是 {encoder}，应为一个文件夹，与 --ip-adapter 同用",
                f"--image-encoder is {encoder}; expected a folder, together with --ip-adapter",
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
    picture, network = say("图", "PICTURE"), say("网络", "NETWORK")
    return f"--control {picture}={network}" if found[1] == "control" else f"--ip-adapter {network}={picture}"


@dataclass(frozen=True)
class BestOfN:
    """The best of several drawings, by a scorer in a folder. Raises RequestError where there is no choice."""

    folder: Path
    count: int

    def __post_init__(self) -> None:
        if self.count < 2:
            raise RequestError(
                "--best 要从几张里挑一张；请用 -n 说画几张，例如 -n 4",
                "--best chooses among pictures; say with -n of how many, for instance -n 4",
            )
        if not self.folder.is_dir():
            raise RequestError(
                f"--best：没有文件夹 {self.folder}；要一个 Chinese-CLIP、太乙 CLIP 之类的文件夹",
                f"--best: there is no folder {self.folder}; expected one of Chinese-CLIP, Taiyi-CLIP or the like",
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
        raise RequestError("有 --mask 而没有 --image；请也给出原图", "--mask without --image; give the image as well")
    for name, path in (("image", image), ("mask", mask)):
        if path is not None:
            found[name] = picture(path)
    read = {name: picture(Path(file)) for name, file in named("--hint", hints, "sketch=草图.png").items()}
    read |= {one.name: picture(one.picture) for one in beside.looking}
    weights = {one.name: [one.weight] for one in beside.looking if one.weight is not None}
    return found | ({"condition_images": read} if read else {}) | ({"hints": weights} if weights else {})


def lora(text: str) -> tuple[Path, float]:
    """'FILE' or 'FILE:0.8' -> the file and its weight. Raises RequestError where there is no such file."""
    path, given = _weighed(text)
    weight = 1.0 if given is None else given
    if not path.exists():
        raise RequestError(
            f"--lora：没有 {path}；写成 文件 或 文件:权重，例如 水墨.safetensors:0.8",
            f"--lora: there is no {path}; write FILE or FILE:weight, for instance ink.safetensors:0.8",
        )
    if not path.is_dir():
        demand_regular(path)
    return path, weight


def word(text: str) -> tuple[Path, str]:
    """'FILE' or 'FILE=<word>' -> the file and what its word is called. Raises RequestError where there is no file."""
    file, _, token = text.partition("=")
    if not Path(file).exists():
        raise RequestError(
            f"--embedding：没有文件 {file}；写成 文件 或 文件=<词>，例如 鸭.safetensors=<小黄鸭>",
            f"--embedding: there is no file {file}; write FILE or FILE=<word>, for instance duck.safetensors=<duck>",
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
                f"{file} 是看着另一张图画的，记录里只有它的指纹 {wanted[name]}；请用 {option} 再给出那张图",
                f"{file} was drawn from another picture, of which the record has only the hash {wanted[name]}; "
                f"give it again with {option}",
            )
        if name not in wanted:
            raise RequestError(
                f"{file} 的记录里没有 {option} 的图；请去掉它",
                f"the record of {file} has no picture {option}; leave it out",
            )
        if fingerprint(here[name]) != wanted[name]:
            raise RequestError(
                f"{option} 给的不是原来那张图：指纹是 {fingerprint(here[name])}，记录的是 {wanted[name]}",
                f"{option} is not the picture it was drawn from: its hash is {fingerprint(here[name])}, "
                f"recorded is {wanted[name]}",
            )
    strengths = {name: list(value) for name, value in dict(request.get("hints") or {}).items()}
    for name, value in given.get("hints", {}).items():
        told = strengths.get(name, [1.0])
        if value != told:
            raise RequestError(
                f"{option_of(name)} 的强度是 {value[0]:g}，记录的是 {told[0]:g}；请去掉强度",
                f"the weight of {option_of(name)} is {value[0]:g}, recorded is {told[0]:g}; leave the weight out",
            )
    return request | {name: value for name, value in given.items() if name != "hints"}


AGAIN_ALONE = (
    "--again 按记录重画，不能再给提示词或别的设置"
    "（-m、-o、--json、--open、--dtype、--offload、--lora、--embedding、--control、--ip-adapter、--image-encoder "
    "和原来的图除外）",
    "--again draws what the record says; give no prompt and no settings but -m, -o, --json, --open, --dtype, "
    "--offload, --lora, --embedding, --control, --ip-adapter, --image-encoder and the pictures it was drawn from",
)
NEGATIVE_HELP = say(
    '不要画什么；"" 是空的反向提示词，和不写不同',
    'what not to draw; "" is the empty negative prompt, which is not none',
)
SAMPLER_HELP = say(
    "采样器，按 A1111 或 diffusers 的名字，如 'DPM++ 2M Karras'、EulerDiscreteScheduler",
    "the sampler, by its name in A1111 or diffusers: 'DPM++ 2M Karras', EulerDiscreteScheduler ...",
)
SCHEDULE_HELP = say(
    "噪声怎样一步步减少：normal karras exponential beta lu sgm_uniform simple",
    "how the noise falls: normal karras exponential beta lu sgm_uniform simple",
)
SPACING_HELP = say(
    "各步的时间怎样分布：leading trailing linspace；Turbo、Lightning 用 trailing",
    "where the times of the steps lie: leading trailing linspace; trailing for Turbo and Lightning",
)
ETA_HELP = say("DDIM、TCD 每步重新加多少噪声，0 到 1", "the share of DDIM's or TCD's noise drawn anew, 0 to 1")
RESCALE_HELP = say(
    "把引导后的反差拉回多少，0 到 1（arXiv:2305.08891）",
    "how much of guidance's contrast is taken back, 0 to 1 (arXiv:2305.08891)",
)
CLIP_SKIP_HELP = say(
    "CLIP 从倒数第几层读，按 A1111 数：1 是最后一层；diffusers 的 clip_skip 加 1",
    "which of CLIP's layers is read, counted as A1111 does: 1 is the last; diffusers' clip_skip plus 1",
)
IMAGE_HELP = say("从这张图画起", "begin with this picture")
MASK_HELP = say("只重画它白色的地方（要有 --image）", "paint only where this is white (needs --image)")
STRENGTH_HELP = say("原图改多少，0 到 1", "how much of the image is to change, above 0 and at most 1")
HINT_HELP = say("给模型看的图：名字=文件，可多次", "a picture that a hint reads: name=FILE; more than once")
DIAL_HELP = say("引导的旋钮：名字=数，可多次", "a dial of guidance: name=number; more than once")
LORA_HELP = say("LoRA 文件，可带权重 文件:0.8，可多次", "a LoRA, with a weight FILE:0.8; more than once")
EMBEDDING_HELP = say(
    "学来的词（textual inversion）：文件，或 文件=<词>，可多次",
    "a word that was learnt (textual inversion): FILE, or FILE=<word>; more than once",
)
CONTROL_HELP = say(
    "看着一张图画：图=ControlNet 或 T2I-Adapter（文件夹或文件），可带强度 图=网络:0.6，可多次",
    "draw along a picture: PICTURE=NETWORK, a ControlNet or T2I-Adapter in a folder or a file, with a weight "
    "PICTURE=NETWORK:0.6; more than once",
)
IP_ADAPTER_HELP = say(
    "照一张图的内容或风格画：IP-Adapter 文件=图，可带强度 文件=图:0.6，可多次",
    "draw what a picture shows: FILE=PICTURE of an IP-Adapter, with a weight FILE=PICTURE:0.6; more than once",
)
ENCODER_HELP = say(
    "IP-Adapter 的图像塔所在的文件夹；不写就找它旁边的 image_encoder",
    "the folder of an IP-Adapter's image tower; else image_encoder beside it",
)
BEST_HELP = say(
    "从 -n 张里只留最合提示词的一张，由这个文件夹里的 Chinese-CLIP、太乙 CLIP 等挑",
    "of the -n pictures keep the one that fits best, by the Chinese-CLIP, Taiyi-CLIP ... in this folder",
)
DTYPE_HELP = say("权重在内存里的格式；bf16 省一半", "how weights are kept in memory; bf16 takes half")
OFFLOAD_HELP = say(
    "每一部分只在用到时才进内存：省内存，慢一些", "keep each part in memory only while it works: less memory, slower"
)
