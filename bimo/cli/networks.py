"""The networks of `bimo draw` that condition on a picture: ``--control`` and ``--ip-adapter``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bimo.core.errors import RequestError
from bimo.core.files import demand_regular
from bimo.core.messages import say
from bimo.engine.adapters import Adapters, numbered, weighted


@dataclass(frozen=True)
class Network:
    """A network that conditions on an image: the option that named it, the name of its condition, its file or folder,
    the image's file, its weight if given, and the first and last fraction of the steps in which it is active.
    """

    option: str
    name: str
    path: Path
    image: Path
    weight: float | None
    steps: tuple[float, ...] = ()

    @property
    def condition(self) -> list[float]:
        """Its value in a request's ``conditions``, [] for the default."""
        if self.weight is None and not self.steps:
            return []
        return [1.0 if self.weight is None else self.weight, *self.steps]

    @classmethod
    def control(cls, text: str, number: int) -> Network:
        """'PICTURE=NETWORK', 'PICTURE=NETWORK:0.6' or 'PICTURE=NETWORK:0.6@0-0.5'. Raises RequestError."""
        for file, network in _halves(text):
            network, steps = _during(network)
            path, weight = weighted(network)
            if path.exists():
                if not path.is_dir():
                    demand_regular(path)
                return cls("--control", numbered("control", number), path, Path(file), weight, steps)
        raise RequestError(
            "--control is {text!r}; expected PICTURE=NETWORK or PICTURE=NETWORK:weight, of a ControlNet or "
            "T2I-Adapter in a folder or a file",
            text=text,
        )

    @classmethod
    def served(cls, text: str, number: int) -> Network:
        """As ``control``, of a network that a server has by name, 'PICTURE=NAME'. Raises RequestError."""
        for file, network in _halves(text):
            if Path(file).is_file():
                network, steps = _during(network)
                name, weight = weighted(network)
                return cls("--control", numbered("control", number), name, Path(file), weight, steps)
        raise RequestError(
            "--control is {text!r}; expected PICTURE=NAME or PICTURE=NAME:weight, of a ControlNet of the server",
            text=text,
        )

    @classmethod
    def image_prompt(cls, text: str, number: int) -> Network:
        """'FILE=PICTURE', 'FILE=PICTURE:0.6' or 'FILE=PICTURE:0.6@0.5-1'. Raises RequestError."""
        for file, picture in _halves(text):
            if Path(file).is_file():
                picture, steps = _during(picture)
                image, weight = weighted(picture)
                return cls("--ip-adapter", numbered("prompt", number), Path(file), image, weight, steps)
        raise RequestError(
            "--ip-adapter is {text!r}; expected FILE=PICTURE or FILE=PICTURE:weight, for instance "
            "ip-adapter_sd15.bin=cat.png:0.6",
            text=text,
        )


def _during(text: str) -> tuple[str, tuple[float, ...]]:
    """Splits 'net:0.6@0-0.5' at the @ into the network and two fractions of the steps, unless it is a file's name."""
    match = re.fullmatch(r"(.+)@(\d(?:\.\d+)?)-(\d(?:\.\d+)?)", text)
    if match is None or Path(text).exists():
        return text, ()
    return match[1], (float(match[2]), float(match[3]))


def _halves(text: str) -> Iterator[tuple[str, str]]:
    """All splits of a text at an equals sign, as file names may contain some."""
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
    def of(
        cls, controls: Sequence[str], ip_adapters: Sequence[str], image_encoder: Path | None, served: bool = False
    ) -> Networks:
        """Parses the options; with ``served`` ControlNets are names of a server's. Raises RequestError for missing
        files.
        """
        if image_encoder is not None and not (ip_adapters and image_encoder.is_dir()):
            raise RequestError(
                "--image-encoder is {encoder}; expected a folder, together with --ip-adapter", encoder=image_encoder
            )
        control = Network.served if served else Network.control
        networks = [control(text, number) for number, text in enumerate(controls, 1)]
        networks += [Network.image_prompt(text, number) for number, text in enumerate(ip_adapters, 1)]
        return cls(tuple(networks), image_encoder)

    def adapters(self, loras: Sequence[str], embeddings: Sequence[str]) -> Adapters:
        """These networks together with LoRAs and embeddings. Raises RequestError."""
        paths = {
            option: [network.path for network in self.every if network.option == option]
            for option in ("--control", "--ip-adapter")
        }
        return Adapters.from_files(loras, embeddings, paths["--control"], paths["--ip-adapter"], self.image_encoder)


def option_of(name: str) -> str:
    """The option by which a picture in a record, by its condition's name, is given."""
    match = re.fullmatch(r"(control|prompt|image)(-\d+)?", name)
    if match is not None and match[1] == "image":
        return "--image"
    if match is None:
        return f"--condition {name}="
    picture, network = say("PICTURE"), say("NETWORK")
    return f"--control {picture}={network}" if match[1] == "control" else f"--ip-adapter {network}={picture}"
