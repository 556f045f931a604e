"""Inference engines for the CPU: which library's kernels compute a system, and in which dtype.

=================  =====================================================================================
torch              float32 by torch; the same bytes on every machine of a kind
torch-onednn       float32 by torch, matrix products by oneDNN instead of MKL
torch-bf16         bfloat16 by torch
openvino           float32 by OpenVINO
openvino-bf16      bfloat16 by OpenVINO; the code between blocks by torch. float32 on a CPU without bfloat16
openvino-int8      8-bit matrix products, calibrated once on a drawing of the model; text encoders with weights of 8
                   bits; the decoder and the rest as openvino-bf16
auto               the fastest except int8, by a benchmark of a second, cached for this machine
=================  =====================================================================================
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import copy
import hashlib
import importlib.metadata
import importlib.util
import json
import platform
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from bimo.core.errors import RequestError
from bimo.core.files import cache_folder, write_whole
from bimo.core.installing import installing
from bimo.core.messages import say
from bimo.core.pages import freed_kept
from bimo.core.part import meant
from bimo.engine import packing
from bimo.engine.devices import CPU, emulated_dtypes, emulation_warning

if TYPE_CHECKING:
    from bimo.diffusion.system import System
    from bimo.engine.openvino import OpenVino, Precision

ENGINES = ("torch", "torch-onednn", "torch-bf16", "openvino", "openvino-bf16", "openvino-int8")
AUTO = "auto"
#: Below this "auto" stays with torch: such systems draw in a second anyway, and keep their bytes.
SMALL_PARAMETERS = 50_000_000
#: The largest error of a float32 engine, relative to the norm of the output.
EXACT = 1e-5
ROUNDS = 5
#: An engine whose first run takes so many times the fastest first run is measured by that run alone.
FAR_BEHIND = 8


@dataclass(frozen=True)
class Measured:
    """The benchmark of an engine on this machine: the seconds of a denoiser's layers, and the errors against float32 of
    these and of a text encoder's layer, relative to the norm of the output. Of int8 only the last is measured: what it
    loses in a denoiser depends on the model.
    """

    engine: str
    seconds: float | None
    error: float | None
    text_error: float


class _Probe(nn.Module):
    """A benchmark like a UNet's layers: convolution, feed-forward and attention at Stable Diffusion's widths."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(320, 320, 3, padding=1)
        self.into, self.out = nn.Linear(320, 2560), nn.Linear(2560, 320)
        self.qkv = nn.Linear(320, 960)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 320, h, w] -> [B, h w, 320]."""
        x = self.conv(x)
        rows = x.flatten(2).transpose(1, 2)
        heads = self.qkv(rows).unflatten(-1, (3, 8, 40)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(heads[0], heads[1], heads[2])
        rows = rows + attended.transpose(1, 2).flatten(2)
        return rows + self.out(nn.functional.gelu(self.into(rows)))


def probe() -> list[Measured]:
    """Benchmarks every installed engine, in a few seconds."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        denoiser = _by_engine(_Probe().eval(), torch.randn(2, 320, 32, 32))
        text_network, x = _text_probe(), torch.randn(2, 77, 768)
        text = _by_engine(text_network, x)
        if quantises := installed() and importlib.util.find_spec("nncf") is not None:
            text["openvino-int8"] = _by_openvino(text_network, x, "bf16", eight_bits=True)
        of_denoiser, of_text = _first_runs(denoiser), _first_runs(text)
        seconds = {name: run.seconds for name, run in of_denoiser.items()}
        # What is far behind, as numbers that the CPU emulates, is not waited for again.
        again = [name for name, first in seconds.items() if first <= FAR_BEHIND * min(seconds.values())]
        for _ in range(ROUNDS):
            # Other work on the machine only adds to the seconds.
            seconds |= {name: min(seconds[name], _seconds(denoiser[name])) for name in again}
        rows = [Measured(name, seconds[name], run.error, of_text[name].error) for name, run in of_denoiser.items()]
        if quantises:
            rows.append(Measured("openvino-int8", None, None, of_text["openvino-int8"].error))
        return rows


def _text_probe() -> nn.Module:
    """A layer of BERT, at the width of the text encoder of Stable Diffusion and of Taiyi."""
    from bimo.models.text_encoders.bert_network import Layer

    class _Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Layer(width=768, heads=12, feed=3072, dropout=0.0)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x, None)

    return _Layer().eval()


def _by_engine(network: nn.Module, x: Tensor) -> dict[str, Callable[[], Tensor]]:
    """A call of a network for each installed engine but int8."""
    half = copy.deepcopy(network).to(torch.bfloat16)
    packing.pack(half)
    engines: dict[str, Callable[[], Tensor]] = {
        "torch": partial(network, x),
        "torch-onednn": partial(_by_onednn, network, x),
        "torch-bf16": lambda: half(x.to(torch.bfloat16)).float(),
    }
    if installed():
        engines |= {"openvino": _by_openvino(network, x, "f32"), "openvino-bf16": _by_openvino(network, x, "bf16")}
    return engines


@dataclass(frozen=True)
class _FirstRun:
    """The seconds of an engine's first run, with what it prepares in it, and its error against float32 by torch."""

    seconds: float
    error: float


def _first_runs(engines: Mapping[str, Callable[[], Tensor]]) -> dict[str, _FirstRun]:
    expected = engines["torch"]()
    runs: dict[str, _FirstRun] = {}
    for name, run in engines.items():
        start = time.perf_counter()
        found = run()
        seconds = time.perf_counter() - start
        runs[name] = _FirstRun(seconds, float((found - expected).norm() / expected.norm()))
    return runs


def _seconds(run: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _by_onednn(network: nn.Module, x: Tensor) -> Tensor:
    with onednn_products():
        return network(x)


def _by_openvino(network: nn.Module, x: Tensor, precision: str, *, eight_bits: bool = False) -> Callable[[], Tensor]:
    import openvino

    from bimo.engine.openvino_convert import compressed, converted

    model = converted(network, [x])
    if eight_bits:
        model = compressed(model)
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    request: Any = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()

    def run() -> Tensor:
        request.infer([x.numpy()], share_inputs=True)
        return torch.from_numpy(request.get_output_tensor(0).data.copy())

    return run


def installed() -> bool:
    """Whether OpenVINO is installed."""
    return importlib.util.find_spec("openvino") is not None


@cache
def openvino_has_bfloat16() -> bool:
    """Whether OpenVINO computes in bfloat16 on this CPU; where not, it takes float32 whatever it is asked for."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def machine() -> str:
    """A hash of what the benchmark depends on: CPU model and flags, threads, library versions."""
    flags = ""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        flags = " ".join(next(line for line in lines if line.startswith(name)) for name in ("model name", "flags"))
    except (OSError, StopIteration):
        flags = platform.processor()
    versions = [torch.__version__, importlib.metadata.version("openvino") if installed() else ""]
    identity = [platform.machine(), flags, str(torch.get_num_threads()), *versions]
    return hashlib.sha256("\n".join(identity).encode()).hexdigest()[:24]


def measured() -> list[Measured]:
    """The benchmark of this machine, run once and kept in the cache folder."""
    file = cache_folder() / f"processor-{machine()}.json"
    try:
        entries = json.loads(file.read_text("utf-8"))
        return [
            Measured(**{name: row[name] for name in ("engine", "seconds", "error", "text_error")}) for row in entries
        ]
    except (OSError, ValueError, KeyError, TypeError):
        rows = probe()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps([vars(row) for row in rows], indent=1).encode())
    except OSError:
        pass  # without a cache it is measured again next time
    return rows


def chosen(name: str, parameters: int) -> str:
    """Resolves an engine's name for a system of so many parameters: "auto" is the fastest by the benchmark, and
    ``torch`` for a small system. Raises RequestError for an unknown engine or one whose library is not installed.
    """
    if name == AUTO:
        if parameters < SMALL_PARAMETERS:
            return "torch"
        return min((row.seconds, row.engine) for row in measured() if row.seconds is not None and _usable(row))[1]
    if name not in ENGINES:
        raise RequestError("there is no engine {name!r}{near}", name=name, near=meant(name, (AUTO, *ENGINES)))
    libraries = ["openvino"] * name.startswith("openvino") + ["nncf"] * (name == "openvino-int8")
    for library in libraries:
        if importlib.util.find_spec(library) is None:
            raise RequestError(
                "--engine {name} needs {library}, which is not installed; run {command}",
                name=name,
                library=library,
                command=installing("openvino"),
            )
    if name == "torch-onednn" and not _usable(row := next(row for row in measured() if row.engine == name)):
        raise RequestError(
            "oneDNN rounds float32 on this processor (it is {error:.0e} off); take --engine torch", error=row.error
        )
    return name


def _usable(row: Measured) -> bool:
    if row.engine == "openvino-bf16":
        return openvino_has_bfloat16()
    return row.engine != "torch-onednn" or (row.error is not None and row.error <= EXACT)


@contextmanager
def onednn_products() -> Generator[None]:
    """Computes torch's float32 matrix products by oneDNN. torch has no switch for that, only one that allows oneDNN to
    round them to bfloat16; oneDNN does not round on CPUs where that gains nothing. The benchmark measures whether it
    does.
    """
    settings: Any = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


class Processor:
    """Applies one of ENGINES to a system. ``cache_converted`` allows converted blocks to be kept in the cache folder;
    not if adapters have changed the weights.
    """

    def __init__(self, name: str, *, cache_converted: bool = True) -> None:
        self.name = name
        self.cache_converted = cache_converted
        self._blocks: OpenVino | None = None
        self._calibrated = False
        self._packed: System | None = None

    @property
    def asked_dtype(self) -> torch.dtype:
        """The dtype that the engine is named for."""
        return torch.bfloat16 if self.name in ("torch-bf16", "openvino-bf16", "openvino-int8") else torch.float32

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of what torch computes."""
        return torch.float32 if self.converts and not openvino_has_bfloat16() else self.asked_dtype

    @property
    def converts(self) -> bool:
        """Whether blocks are converted for another library than torch."""
        return self.name.startswith("openvino")

    @property
    def packs(self) -> bool:
        """Whether weights that torch multiplies with are put in oneDNN's order."""
        return self.dtype == torch.bfloat16

    def put(self, system: System) -> None:
        """Applies the engine to a system, after restoring the one before."""
        self.restore()
        if not self.converts:
            return
        from bimo.engine.openvino import OpenVino

        precisions = {"openvino": "f32", "openvino-bf16": "bf16", "openvino-int8": "int8"}
        root = cache_folder() if self.cache_converted else None
        self._blocks = OpenVino(system, cast("Precision", precisions[self.name]), root)

    def pack(self, system: System) -> None:
        """For an engine that ``packs``, once the weights are in bfloat16: puts those of text encoders and denoisers in
        oneDNN's order. Autoencoders stay as they are, which may have to decode in float32.
        """
        for network in (*system.text, *(system.level(level.name).denoiser for level in system.recipe.levels)):
            packing.pack(network)
        self._packed = system

    def restore(self) -> None:
        """Gives the system its weights back."""
        if self._blocks is not None:
            self._blocks.restore()
        if self._packed is not None:
            packing.unpack(self._packed)
        self._blocks, self._calibrated, self._packed = None, False, None

    def calibrate(self, draw: Callable[[], object]) -> None:
        """For int8, once: runs ``draw``, a drawing of the system, and calibrates on its activations."""
        if self._blocks is not None and not self._calibrated:
            self._calibrated = True
            self._blocks.calibrate(draw)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the engine does otherwise than it is named, and what it leaves to torch."""
        warnings = [] if self._blocks is None else list(self._blocks.warnings)
        if self.name == "openvino-bf16" and not openvino_has_bfloat16():
            warnings.append(say("this processor has no bfloat16 for OpenVINO, which works in float32 in its place"))
        if self.name == "torch-bf16" and "bf16" in emulated_dtypes(CPU):
            warnings.append(emulation_warning("bf16"))
        return tuple(warnings)

    @contextmanager
    def working(self) -> Generator[None]:
        """Runs the body with this engine's kernels."""
        with freed_kept(), onednn_products() if self.name == "torch-onednn" else nullcontext():
            yield
