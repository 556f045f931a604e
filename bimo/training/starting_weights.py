"""The weights that a run starts from: those of other systems, and whether they are finite."""

from __future__ import annotations

from pathlib import Path

from bimo.core.checkpoint_io import read
from bimo.core.errors import TrainingError
from bimo.core.messages import say
from bimo.diffusion.system import System
from bimo.training.distributed.processes import Processes
from bimo.training.finite import not_finite, some
from bimo.training.stage_trainer import read_alike


def copy_matching(system: System, other: System | Path, out: Path, processes: Processes) -> None:
    """Copies all tensors with the same name and shape from another system, and the tokenizers of equal text encoders
    into the run's folder; or the tensors of a safetensors file.

    Raises TrainingError if nothing matches.
    """
    state, name = (read(other), str(other)) if isinstance(other, Path) else (other.state_dict(), other.recipe.name)
    own = system.state_dict()
    matching = {n: v for n, v in state.items() if n in own and own[n].shape == v.shape}
    if not matching:
        raise TrainingError(
            "not one tensor of {name} has name and shape of one of {name_2}; begin from another system",
            name=name,
            name_2=system.recipe.name,
        )
    system.load_state_dict(matching, strict=False)
    if isinstance(other, System):
        _copy_tokenizers(system, other, out, processes)
    print(
        say(
            "{count} tensors begin as in {name} ({rest} more of it have no place here); {count_2} do not",
            count=len(matching),
            name=name,
            rest=len(state) - len(matching),
            count_2=len(own) - len(matching),
        )
    )


def _copy_tokenizers(system: System, other: System, out: Path, processes: Processes) -> None:
    """Writes the other system's tokenizers into the run's folder, for equal text encoders without one there."""
    for index, (encoder, own) in enumerate(zip(other.text_encoders, system.recipe.text_encoders, strict=False)):
        with processes.main_process_first():
            if read_alike(other.recipe.text_encoders[index], own) and not (out / f"words.{index}").is_dir():
                encoder.save_tokenizer(out / f"words.{index}")


def demand_finite(system: System) -> list[str]:
    """Raises TrainingError if a parameter has a NaN or infinity before training. Returns the names of buffers that have
    some, as masks do.
    """
    parameters = dict(system.named_parameters())
    names = not_finite(dict(system.state_dict()))
    if wrong := [name for name in names if name in parameters]:
        raise TrainingError(
            "the weights to begin with are not finite: {names}; begin from others (--start)",
            names=some(wrong, len(parameters)),
        )
    return names
