"""`bimo draw --server`: draws at a running `bimo serve`, as on a machine with a card, and writes its PNGs here.

Neither torch nor a model is read: what is worked out here are prompts, files and paths.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from bimo.cli.draw_requests import paths_of
from bimo.cli.draw_run import note, progress_bar
from bimo.cli.job_client import ADDRESS_VARIABLE, KEY_VARIABLE, JobServer, JobStep, ServerJob
from bimo.cli.networks import Networks
from bimo.cli.series import PICTURES, Axis
from bimo.cli.terminal import print_json
from bimo.core.errors import RequestError
from bimo.core.files import write_whole
from bimo.core.lora_weight import LoraWeight
from bimo.core.messages import Listed, Message
from bimo.core.output_path import OutputPath
from bimo.core.picture import METADATA_KEY, layer_path
from bimo.core.request import Request, small_enough

if TYPE_CHECKING:
    from PIL import Image

    from bimo.cli.draw_run import ShowStep

#: Parameters of `bimo draw` that a server can take, besides those that are fields of a request under the same name.
#: All others are about the model, which is not here.
SERVED = frozenset(
    (
        *("prompt", "model", "output", "server", "as_json", "opened", "anyway", "parameters"),
        *("region", "condition", "guidance_weight", "lora", "control", "no_inscribe"),
        *("prompts", "wildcards", "expand", "translate", "language_model", "language_model_name"),
        *("poem", "inscribe_verse", "x", "y", "z"),
    )
)
#: Fields of a request that `bimo draw` takes from files that a server does not have.
_OF_FILES = frozenset(("tiny_decoder",))


def check_options(context: typer.Context) -> None:
    """Raises RequestError for options on the command line that a server cannot take."""
    known = SERVED | (Request.model_fields.keys() - _OF_FILES)
    refused: list[str] = []
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        given = source is not None and source.name == "COMMANDLINE" and getattr(parameter, "expose_value", True)
        if given and parameter.name not in known:
            refused.append(max(parameter.opts, key=len))
    if refused:
        raise RequestError(
            "--server has the server draw, with its own model and settings, and for this machine alone there is "
            "{options}; leave it out, or draw here, without --server and {variable}",
            options=Listed(refused),
            variable=ADDRESS_VARIABLE,
        )
    font = context.params.get("font")
    if font and Path(font).expanduser().exists():
        raise RequestError("--font {font} is a file of this machine; name a family that the server has", font=font)


@dataclass(frozen=True)
class ServedPicture:
    """A picture that a server drew: its PNG, those of its layers, and what the server tells of it."""

    png: bytes
    layers: tuple[bytes, ...]
    seed: int
    seconds: float
    warnings: tuple[str, ...]

    @property
    def image(self) -> Image.Image:
        """Its pixels, decoded anew: a sheet of a thousand is kept as files. Raises RequestError for a damaged one."""
        from PIL import Image

        try:
            image = Image.open(io.BytesIO(self.png), formats=("PNG",))
            small_enough(image)
            image.load()
        except Exception as error:  # on damaged bytes Pillow's decoders raise all sorts
            where = Message("of the server")
            raise RequestError("cannot read the picture {path}: {error}", path=where, error=error) from None
        return image

    def metadata(self) -> dict[str, Any]:
        """Its record; {} where the server wrote none."""
        try:
            return dict(json.loads(self.image.info[METADATA_KEY]))
        except (KeyError, ValueError, TypeError):
            return {}

    def write(self, path: OutputPath) -> list[Path]:
        """Writes it, and its layers beside it; answers the files."""
        files = [path.write(self.png)]
        if not path.stream:
            files += [write_whole(layer_path(files[0], n), layer) for n, layer in enumerate(self.layers, 1)]
        return files


@dataclass(frozen=True)
class ServerDrawing:
    """The server, and what is the same in all jobs of a command: ``model``, LoRAs and ControlNets of the server's own
    by name, and the ``pictures`` of the request as bytes by field.
    """

    server: JobServer
    model: str | None
    loras: Sequence[str]
    networks: Networks
    pictures: Mapping[str, Any]

    @classmethod
    def at(
        cls, address: str, model: str | None, loras: Sequence[str], networks: Networks, pictures: Mapping[str, Any]
    ) -> ServerDrawing:
        """The server at an address, asked with the key of the environment."""
        return cls(JobServer(address, os.environ.get(KEY_VARIABLE, "").strip()), model, loras, networks, pictures)

    def draw(
        self,
        requests: Sequence[Request],
        output: str | None,
        axes: Sequence[Axis],
        notes: Iterable[str],
        *,
        as_json: bool,
        opened: bool,
    ) -> None:
        """Draws, writes each picture as soon as it has come, and prints its path; or one sheet over ``axes``. Raises
        RequestError.
        """
        paths = paths_of(requests, output)
        pictures: list[ServedPicture] = []
        files: list[Path] = []
        said = dict.fromkeys(notes)
        note(said)

        def tell(sentences: Iterable[str]) -> None:
            fresh = [sentence for sentence in dict.fromkeys(sentences) if sentence not in said]
            note(fresh)
            said.update(dict.fromkeys(fresh))

        for request in requests:
            job = self.server.submit(self.body(request))
            warnings: list[str] = []
            try:
                tell(job.notes)
                with progress_bar() as progress:
                    for picture in self._pictures(job, request.count, progress, warnings):
                        pictures.append(picture)
                        warnings += picture.warnings
                        for file in [] if axes else picture.write(paths[request.text]):
                            files.append(file)
                            if not as_json:
                                print(file, flush=True)
            except BaseException:
                self.server.cancel(job)
                raise
            finally:
                tell(warnings)
        if axes:
            from bimo.cli.sheet import sheet

            files.append(paths[requests[0].text].write(sheet(pictures, axes)))
            if not as_json:
                print(files[-1])
        if as_json:
            print_json(summary(pictures, files))
        if opened:
            for file in files:
                typer.launch(str(file))

    def body(self, request: Request) -> dict[str, Any]:
        """The fields of ``POST /v1/jobs`` for a request."""
        fields = request.model_dump(mode="json", exclude_unset=True, exclude_none=True, exclude=set(PICTURES))
        for name, picture in self.pictures.items():
            if isinstance(picture, bytes):
                fields[name] = base64.b64encode(picture).decode()
            elif name == "condition_images":
                fields[name] = {each: base64.b64encode(content).decode() for each, content in picture.items()}
        controls = [str(network.path) for network in self.networks.every]
        settings = {"model": self.model, "loras": [_lora(text) for text in self.loras], "controlnets": controls}
        return fields | {name: value for name, value in settings.items() if value}

    def _pictures(self, job: ServerJob, count: int, progress: ShowStep, warnings: list[str]) -> Iterator[ServedPicture]:
        """The pictures of a job in their order, each as soon as it and those before it have come; why one is kept back
        goes to ``warnings``. Raises RequestError if the job fails, or shows no picture.
        """
        place = shown = 0
        for event in self.server.events(job):
            if isinstance(event, JobStep):
                progress(event.place, count, event.done, event.steps)
                continue
            job = self.server.job(job) if event is None else event
            come = {picture.place: picture for picture in job.pictures}
            while (picture := come.get(place)) is not None:
                place += 1
                if picture.flagged is not None:
                    warnings.append(picture.flagged)
                    continue
                shown += 1
                layers = range(1, len(picture.layers) + 1)
                yield ServedPicture(
                    self.server.picture(job, picture.place),
                    tuple(self.server.picture(job, picture.place, layer) for layer in layers),
                    picture.seed,
                    picture.seconds,
                    tuple(picture.warnings),
                )
        if job.error is not None:
            raise RequestError("the server could not draw it: {sentence}", sentence=job.error.message)
        if not shown:
            raise RequestError(
                "the server shows no picture of it: {sentence}", sentence=" ".join(warnings) or job.state
            )


def _lora(text: str) -> dict[str, Any]:
    """A LoRA of the server, 'NAME', 'NAME:0.8' or 'NAME:0.8@0.2-0.6', as a field of a job."""
    name, _, written = text.rpartition(":")
    weight = LoraWeight.read(written) if name else None
    if weight is None:
        return {"name": text}
    return {"name": name, "weight": weight.value, "first": weight.first, "last": weight.last}


def summary(pictures: Sequence[ServedPicture], files: Sequence[Path]) -> dict[str, Any]:
    """The result of a command for --json, as far as the server tells it: as that of drawing here."""
    records = [picture.metadata() for picture in pictures]
    report: dict[str, Any] = {
        "files": [str(file) for file in files],
        "seeds": [picture.seed for picture in pictures],
        "seconds": [picture.seconds for picture in pictures],
        "warnings": list(dict.fromkeys(warning for picture in pictures for warning in picture.warnings)),
    }
    report |= {name: records[0][name] for name in ("recipe", "weights", "request") if name in records[0]}
    if certificates := [record["certificates"] for record in records if record.get("certificates")]:
        report["certificates"] = certificates
    return report
