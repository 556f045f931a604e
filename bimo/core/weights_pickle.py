"""Pickles of weights, read as data alone; what trainers leave beside the weights becomes objects that do nothing."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bimo.core.errors import WeightsError
from bimo.core.weight_formats import format_of

if TYPE_CHECKING:
    from torch import Tensor


#: Tables of weights in the checkpoints of trainers.
TABLES = ("state_dict", "module", "model_state_dict", "ema")
#: What trainers leave in a checkpoint beside the weights. Read as objects that do nothing.
TRAINERS = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "torch.nn.modules.container.ParameterDict",
)


class Bookkeeping:
    """What stands in for the objects of a trainer that a checkpoint names beside its weights; it does nothing."""

    def __init__(self, *told: object) -> None:
        self.told = told

    def __setstate__(self, state: object) -> None:
        self.told = (state,)

    def __hash__(self) -> int:
        return 0


def without_objects(value: Any) -> Any:
    """The same with tables in the place of the objects that held parameters."""
    if isinstance(value, Bookkeeping):
        state = value.told[0] if value.told else None
        parameters = cast("dict[str, Any]", state).get("_parameters") if isinstance(state, dict) else None
        return value if parameters is None else dict(parameters)
    if isinstance(value, dict):
        return {key: without_objects(inner) for key, inner in cast("dict[Any, Any]", value).items()}
    return value


def unpickled(path: Path, device: str) -> Any:
    """What a pickle holds. Of torch's archives the tensors stay in the file until they are used."""
    import torch

    archive = format_of(path) == "archive"
    if archive:
        _stored(path)
    with warnings.catch_warnings(), torch.serialization.safe_globals([(Bookkeeping, name) for name in TRAINERS]):
        # torch warns of unusual pickles before it refuses them; the refusal below says it better.
        warnings.simplefilter("ignore")
        if path.suffix == ".safetensors":
            # By that ending torch would take it for one, so it is not given the name.
            with path.open("rb") as file:
                return torch.load(file, map_location=device, weights_only=True)
        return torch.load(path, map_location=device, weights_only=True, mmap=archive)


def _stored(path: Path) -> None:
    """Raises WeightsError for an archive that unpacks to more than it is: torch never compresses its own."""
    with zipfile.ZipFile(path) as archive:
        packed = [e.filename for e in archive.infolist() if e.compress_type != zipfile.ZIP_STORED]
        size = sum(entry.file_size for entry in archive.infolist())
    if packed or size > path.stat().st_size:
        raise WeightsError(
            "refused to read {path}: {count} entries are compressed and unpack to {size:,} bytes; torch does "
            "not write weights like that",
            path=path,
            count=len(packed),
            size=size,
        )


def weights_table(loaded: Any) -> Any:
    table = cast("dict[str, Any]", loaded) if isinstance(loaded, dict) else {}
    for name in TABLES:
        if isinstance(table.get(name), dict):
            return table[name]
    return table


def _below(name: str, table: dict[object, Any]) -> list[tuple[str, Any]]:
    return [(f"{name}.{key}", value) for key, value in table.items()]


def tensors_in(loaded: Any, path: Path) -> dict[str, Tensor]:
    import torch

    table = cast("dict[object, Any]", weights_table(loaded))
    state = {str(k): v for k, v in table.items() if isinstance(v, torch.Tensor)}
    if not state:
        # Tables of several modules, as IP-Adapter's files have them.
        inner = ((k, v) for k, t in table.items() if isinstance(t, dict) for k, v in _below(str(k), cast(Any, t)))
        state = {k: v for k, v in inner if isinstance(v, torch.Tensor)}
    if not state:
        raise WeightsError("{path} holds no table of weights", path=path)
    return state
