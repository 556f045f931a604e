"""Finds a LoRA's files, and the settings of peft and diffusers stored with them: rank, scale, kind."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from bimo.core import checkpoint_io
from bimo.core.errors import WeightsError
from bimo.core.messages import Listed, Message
from bimo.models.text_encoders.textual_inversion import LEARNT_FILES

METADATA_KEY = "lora_adapter_metadata"
PEFT_CONFIG = "adapter_config.json"
#: Names of the file in a trainer's folder, in order of preference.
WEIGHTS = ("pytorch_lora_weights", "adapter_model")
ENDINGS = (".safetensors", ".bin", ".pt")
#: Subfolders of a trainer's output with an adapter for one network each.
COMPONENTS = ("unet", "transformer", "text_encoder", "text_encoder_2")
#: Supported kinds of peft, and the name of each one's scale.
KINDS = {"LORA": "lora_alpha", "LOHA": "alpha", "LOKR": "alpha", "OFT": "", "BOFT": "", "IA3": ""}
#: Settings that the tensors imply, that matter in training only, or that say where adapters are.
NO_EFFECT = {
    *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "r", "rank_pattern", "alpha_pattern", "lora_alpha", "alpha", "use_rslora", "use_dora"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout", "rank_dropout"),
    *("module_dropout", "rank_dropout_scale", "init_weights", "init_ia3_weights", "megatron_core", "loftq_config"),
    *("eva_config", "runtime_config", "qalora_group_size", "lora_bias", "use_effective_conv2d", "decompose_both"),
    *("decompose_factor", "oft_block_size", "block_share", "eps", "use_cayley_neumann", "num_cayley_neumann_terms"),
    *("boft_block_size", "boft_block_num", "boft_n_butterfly_factor", "boft_dropout"),
    *("feedforward_modules", "ensure_weight_tying", "velora_config", "lora_ga_config", "use_dora_caching"),
}
#: Initialisations that change no weight but those of the adapter.
PLAIN_BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal", "true")


@dataclass(frozen=True)
class Source:
    """A file, the network by its folder's name ("" for none), and the settings next to it."""

    file: Path
    component: str = ""
    config: Path | None = None


@dataclass(frozen=True)
class Settings:
    """peft's settings for the layers with this ``prefix``, and where they were read."""

    place: str
    prefix: str
    fields: Mapping[str, Any]

    def scale(self, name: str, rank: int) -> float:
        """The scale of an adapter of a rank: alpha / r, for rank-stabilised LoRA alpha / sqrt(r). Raises WeightsError
        if they contradict the tensors' rank.
        """
        inner = self.inner(name)
        said = self._patterned("rank_pattern", inner, self.fields.get("r"))
        strength = KINDS[self.kind]
        if not strength:
            return 1.0
        r = int(said or rank)
        if rank and r != rank:
            raise WeightsError(
                "{place} says that {name} has rank {r}, the file has {rank}: these are not its settings; keep "
                "them in folders of their own",
                place=self.place,
                name=name,
                r=r,
                rank=rank,
            )
        alpha = self._patterned("alpha_pattern", inner, self.fields.get(strength))
        if alpha is None:
            raise WeightsError(
                "{place} has no {strength}: it cannot be known how strong the file is",
                place=self.place,
                strength=strength,
            )
        return float(alpha) / (r**0.5 if self.fields.get("use_rslora") else r)

    @property
    def kind(self) -> str:
        """peft's name of the kind."""
        return str(self.fields.get("peft_type") or "LORA").upper()

    def on_inputs(self, name: str) -> bool | None:
        """Whether an (IA)^3 scales the inputs of a layer; None if unknown."""
        modules = self.fields.get("feedforward_modules")
        if modules is None:
            return None
        inner = self.inner(name)
        if isinstance(modules, str):
            return re.fullmatch(modules, inner) is not None
        return any(inner.endswith(str(each)) for each in cast("list[object]", modules))

    def inner(self, name: str) -> str:
        """A layer's name within the network that was trained."""
        return name.removeprefix(self.prefix).removeprefix("base_model.model.")

    def _patterned(self, field_name: str, inner: str, otherwise: Any) -> Any:
        table = cast("dict[str, Any]", self.fields.get(field_name) or {})
        for pattern, value in table.items():
            if re.match(rf"(.*\.)?({pattern})$", inner):
                return value
        return otherwise


@dataclass(frozen=True)
class Every:
    """The settings of a file."""

    found: Sequence[Settings] = field(default_factory=tuple)

    def get(self, name: str) -> Settings | None:
        """The settings for a layer, None for none. Raises WeightsError for unsupported ones that have an effect."""
        fitting = [each for each in self.found if name.startswith(each.prefix)]
        return _known(max(fitting, key=lambda each: len(each.prefix))) if fitting else None


def sources(path: Path) -> list[Source]:
    """The files of a LoRA: one, or those in a trainer's folder. Raises WeightsError if there is none, or if it is
    ambiguous.
    """
    if path.is_file():
        component = path.parent.name if path.parent.name in COMPONENTS else ""
        return [Source(path, component if _beside(path) else "", _beside(path))]
    if not path.is_dir():
        raise WeightsError("there is no file {path}", path=path)
    for name in (f"{stem}{ending}" for stem in WEIGHTS for ending in ENDINGS):
        if (path / name).is_file():
            # peft's own file does not have the scale: it must be next to it.
            config = path / PEFT_CONFIG if name.startswith("adapter_model") else _beside(path / name)
            return [Source(path / name, path.name if path.name in COMPONENTS else "", config)]
    parts = [each for name in COMPONENTS if (path / name).is_dir() for each in _inside(path / name)]
    if parts:
        return parts
    others = sorted(p for p in path.iterdir() if p.is_file() and p.suffix.lower() in (*ENDINGS, ".ckpt", ".pth"))
    if len(others) == 1 and others[0].name not in LEARNT_FILES:
        return [Source(others[0], "", _beside(others[0]))]
    if any(each.name in LEARNT_FILES for each in others):
        raise WeightsError("{path} holds a word that was learnt and no LoRA; give it with --embedding", path=path)
    if others:
        listed = ", ".join(p.name for p in others[:6])
        raise WeightsError(
            "{path} has {count} files ({listed}); name the one that is meant",
            path=path,
            count=len(others),
            listed=listed,
        )
    below = sorted(f"{p.parent.name}/{p.name}" for stem in WEIGHTS for p in path.glob(f"*/{stem}.*"))
    more = Message("; below it are {below}", below=", ".join(below[-3:])) if below else ""
    raise WeightsError(
        "no LoRA in {path}: expected {wanted}{more}",
        path=path,
        wanted=Listed((f"{stem}.safetensors" for stem in WEIGHTS), "or"),
        more=more,
    )


def _inside(folder: Path) -> list[Source]:
    for name in (f"{stem}{ending}" for stem in WEIGHTS for ending in ENDINGS):
        if (folder / name).is_file():
            return [Source(folder / name, folder.name, _beside(folder / name))]
    return []


def _beside(file: Path) -> Path | None:
    """The settings next to a file: with peft's name, or with the file's own."""
    for name in (PEFT_CONFIG, f"{file.stem}_config.json", f"{file.stem}.json"):
        config = file.with_name(name)
        if config.is_file() and (name == PEFT_CONFIG or _is_peft(config)):
            return config
    return None


def _is_peft(config: Path) -> bool:
    try:
        settings = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # an unrelated file of this name
    return isinstance(settings, dict) and "peft_type" in settings


def settings_in(source: Source) -> Every:
    """The settings of a file: from its header, as diffusers writes them, else from next to it. Raises WeightsError if
    they cannot be read.
    """
    place = str(source.file)
    text = checkpoint_io.metadata(source.file).get(METADATA_KEY)
    if text:
        try:
            table = cast("dict[str, Any]", json.loads(text))
            by_component = _by_component(place, table)
        except (ValueError, AttributeError, TypeError) as error:
            raise WeightsError(
                "cannot read {metadata_key} of {place}: {error}", metadata_key=METADATA_KEY, place=place, error=error
            ) from None
        return Every(tuple(by_component))
    if source.config is None:
        return Every()
    try:
        fields = json.loads(source.config.read_text(encoding="utf-8"))
        assert isinstance(fields, dict)
    except (OSError, ValueError, AssertionError) as error:
        raise WeightsError(
            "cannot read {config}: {error!r}; its lora_alpha says how strong the LoRA is",
            config=source.config,
            error=error,
        ) from None
    return Every((Settings(str(source.config), "", cast("dict[str, Any]", fields)),))


def _by_component(place: str, table: Mapping[str, Any]) -> list[Settings]:
    """Groups "unet.lora_alpha" and the like by the prefix of the field."""
    parts: dict[str, dict[str, Any]] = {}
    for name, value in table.items():
        before, _, after = name.rpartition(".")
        parts.setdefault(f"{before}." if before else "", {})[after] = value
    return [Settings(f"{place} ({METADATA_KEY})", prefix, fields) for prefix, fields in parts.items()]


def _known(settings: Settings) -> Settings:
    """Raises WeightsError for unsupported settings that have an effect."""
    if settings.kind not in KINDS:
        kinds = ", ".join(KINDS)
        raise WeightsError(
            "{place} is {kind}, a kind of adapter that is not read; {kinds} are",
            place=settings.place,
            kind=settings.kind,
            kinds=kinds,
        )
    wrong: list[str] = []
    for name, value in settings.fields.items():
        if name == "bias":
            known = value in ("none", None)
        elif name == "init_lora_weights":
            known = value in PLAIN_BEGINNINGS
        else:
            known = name in NO_EFFECT or not value or name == "megatron_config"
        if not known:
            wrong.append(f"{name} {value!r}")
    if wrong:
        listed = ", ".join(wrong)
        raise WeightsError(
            "{listed} of {place} is not supported: ignoring it would draw wrong", listed=listed, place=settings.place
        )
    return settings
