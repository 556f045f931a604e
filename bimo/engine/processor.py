"""How a processor works out a system: in which numbers, and by whose kernels. ``torch`` is what torch does by itself.

=================  =====================================================================================
torch              float32; the same bytes on every machine of a kind, as always
torch-onednn       float32, its products by oneDNN where torch would take MKL
torch-bf16         bfloat16 by torch
openvino           float32 by OpenVINO
openvino-bf16      bfloat16 by OpenVINO; text encoders and what joins the blocks in torch's
openvino-int8      products of 8 bits, calibrated once on the model's own drawing; the rest as openvino-bf16
auto               the fastest of them but int8, by a probe of a second, kept for this machine
=================  =====================================================================================
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from bimo.core.errors import RequestError
from bimo.core.files import write_whole
from bimo.core.installing import installing
from bimo.core.part import meant

if TYPE_CHECKING:
    from bimo.diffusion.system import System
    from bimo.engine.openvino import OpenVino, Precision

ENGINES = ("torch", "torch-onednn", "torch-bf16", "openvino", "openvino-bf16", "openvino-int8")
AUTO = "auto"
#: Systems of fewer weights are drawn in a second anyway, and to the same bytes as ever.
SMALL_PARAMETERS = 50_000_000
#: How far from float32 an engine may be that is called one of float32, relative to the answer's length.
EXACT = 1e-5
ROUNDS = 5


def cache_folder() -> Path:
    """The user's: BIMO_CACHE, else ``bimo`` in XDG_CACHE_HOME, else in ~/.cache. It may be deleted at any time."""
    told = os.environ.get("BIMO_CACHE")
    return Path(told) if told else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "bimo"


@dataclass(frozen=True)
class Measured:
    """An engine on this machine: seconds of the probe, and how far its answer is from float32's, relative."""

    engine: str
    seconds: float
    error: float


class _Probe(nn.Module):
    """The work of a UNet's layers: a convolution, a feed-forward and an attention, of Stable Diffusion's widths."""

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
        seen = nn.functional.scaled_dot_product_attention(heads[0], heads[1], heads[2])
        rows = rows + seen.transpose(1, 2).flatten(2)
        return rows + self.out(nn.functional.gelu(self.into(rows)))


def probe() -> list[Measured]:
    """Measures every engine that is installed, in about a second. int8 is not: what it loses is each model's own."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network, x = _Probe().eval(), torch.randn(2, 320, 32, 32)
        expected = network(x)
        ways: dict[str, Callable[[], Tensor]] = {
            "torch": partial(network, x),
            "torch-onednn": partial(_by_onednn, network, x),
        }
        half = _Probe().eval()
        half.load_state_dict(network.state_dict())
        half.to(torch.bfloat16)
        ways["torch-bf16"] = lambda: half(x.to(torch.bfloat16)).float()
        if installed():
            ways |= {"openvino": _by_openvino(network, x, "f32"), "openvino-bf16": _by_openvino(network, x, "bf16")}
        found: list[Measured] = []
        for name, way in ways.items():
            answer = way()
            seconds = [_seconds(way) for _ in range(ROUNDS)]
            error = float((answer - expected).norm() / expected.norm())
            found.append(Measured(name, min(seconds), error))  # other work on the machine only adds
    return found


def _seconds(way: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


def _by_onednn(network: nn.Module, x: Tensor) -> Tensor:
    with onednn_products():
        return network(x)


def _by_openvino(network: nn.Module, x: Tensor, precision: str) -> Callable[[], Tensor]:
    import openvino

    from bimo.engine.openvino import converted

    model = converted(network, [x])
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    request: Any = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()

    def way() -> Tensor:
        request.infer([x.numpy()], share_inputs=True)
        return torch.from_numpy(request.get_output_tensor(0).data.copy())

    return way


def installed() -> bool:
    """Whether OpenVINO is."""
    return importlib.util.find_spec("openvino") is not None


def machine() -> str:
    """What a probe depends on: the processor and what it can, threads, and the versions of the libraries."""
    flags = ""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        flags = " ".join(next(line for line in lines if line.startswith(name)) for name in ("model name", "flags"))
    except (OSError, StopIteration):
        flags = platform.processor()
    versions = [torch.__version__, importlib.metadata.version("openvino") if installed() else ""]
    told = [platform.machine(), flags, str(torch.get_num_threads()), *versions]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:24]


def measured() -> list[Measured]:
    """The probe of this machine, taken once and kept in the cache folder."""
    file = cache_folder() / f"processor-{machine()}.json"
    try:
        rows = json.loads(file.read_text("utf-8"))
        return [Measured(str(row["engine"]), float(row["seconds"]), float(row["error"])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError):
        found = probe()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps([vars(row) for row in found], indent=1).encode())
    except OSError:
        pass  # measured again the next time
    return found


def chosen(name: str, parameters: int) -> str:
    """The engine of a name for a system of so many weights; "auto" is the fastest by the probe, for a small system
    ``torch``. Raises RequestError for one that there is not, or that is not installed.
    """
    if name == AUTO:
        if parameters < SMALL_PARAMETERS:
            return "torch"
        return min((row for row in measured() if _usable(row)), key=lambda row: row.seconds).engine
    if name not in ENGINES:
        raise RequestError("there is no engine {name!r}{near}", name=name, near=meant(name, (AUTO, *ENGINES)))
    wanted = ["openvino"] * name.startswith("openvino") + ["nncf"] * (name == "openvino-int8")
    for library in wanted:
        if importlib.util.find_spec(library) is None:
            raise RequestError(
                "--engine {name} needs {library}, which is not installed; run {command}",
                name=name,
                library=library,
                command=installing("openvino"),
            )
    if name == "torch-onednn" and (error := next(row.error for row in measured() if row.engine == name)) > EXACT:
        raise RequestError(
            "oneDNN rounds float32 on this processor (it is {error:.0e} off); take --engine torch", error=error
        )
    return name


def _usable(row: Measured) -> bool:
    return row.engine != "torch-onednn" or row.error <= EXACT


@contextmanager
def onednn_products() -> Generator[None]:
    """Inside, torch's float32 products go to oneDNN. torch has no switch of its own for that: it has one that allows
    oneDNN to round them to bfloat16, which oneDNN does not where that gains nothing. The probe looks whether it does.
    """
    settings: Any = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


class Processor:
    """An engine put into a system: ``name`` is one of ENGINES. ``kept`` is whether what is converted may be kept in the
    cache folder: not where adapters make the weights others than those of the files.
    """

    def __init__(self, name: str, *, kept: bool = True) -> None:
        self.name = name
        self.kept = kept
        self._blocks: OpenVino | None = None
        self._calibrated = False

    @property
    def dtype(self) -> torch.dtype:
        """The numbers of whatever torch works out."""
        return torch.bfloat16 if self.name in ("torch-bf16", "openvino-bf16", "openvino-int8") else torch.float32

    @property
    def converts(self) -> bool:
        """Whether blocks are worked out by another library than torch."""
        return self.name.startswith("openvino")

    def put(self, system: System) -> None:
        """Makes it work out a system, and no longer the one before, whose weights it gives back."""
        self.restore()
        if not self.converts:
            return
        from bimo.engine.openvino import OpenVino

        precisions = {"openvino": "f32", "openvino-bf16": "bf16", "openvino-int8": "int8"}
        root = cache_folder() if self.kept else None
        self._blocks = OpenVino(system, cast("Precision", precisions[self.name]), root)

    def restore(self) -> None:
        """Gives the system its weights back."""
        if self._blocks is not None:
            self._blocks.restore()
        self._blocks, self._calibrated = None, False

    def calibrate(self, draw: Callable[[], object]) -> None:
        """For int8, once: ``draw`` is a drawing of the system, whose numbers it learns the ranges of."""
        if self._blocks is not None and not self._calibrated:
            self._calibrated = True
            self._blocks.calibrate(draw)

    @contextmanager
    def working(self) -> Generator[None]:
        """What is worked out inside is by this engine's kernels."""
        if self.name != "torch-onednn":
            yield
            return
        with onednn_products():
            yield
