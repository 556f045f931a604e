"""The weights that a run starts from: those of other systems, and whether they are finite."""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bimo.core.checkpoint_io import read
from bimo.core.errors import TrainingError
from bimo.core.held_weights import can_hold, held_in
from bimo.core.messages import say
from bimo.core.pages import release as release_pages
from bimo.core.recipe import Recipe
from bimo.diffusion.system import System
from bimo.training.distributed.processes import Processes
from bimo.training.finite import not_finite, some
from bimo.training.stage_trainer import read_alike


class StartingWeights:
    """The system of a run, and what its weights begin as.

    Where a stage keeps frozen weights otherwise (``Stage.holds``) there may be no memory for all of them in float32.
    Their parameters are then the tensors that they begin as, mapped from files and in the files' dtype, until a stage
    holds them; random numbers are drawn for none but those that nothing else gives a value.
    """

    def __init__(self, recipe: Recipe, seed: int, device: torch.device) -> None:
        self.recipe, self.seed = recipe, seed
        self.mapped = recipe.holds
        torch.manual_seed(seed)
        if not self.mapped:
            self.system, self._missing = System(recipe).to(device), set[str]()
            return
        with undrawn():
            self.system = System(recipe)
        self._missing = set(self._parameters())
        self._in_files = True

    def put(self, state: Mapping[str, Tensor], strict: bool = False) -> None:
        """Gives tensors of the system values by their names, of which it has all. Raises TrainingError, or torch's
        RuntimeError, where a ``strict`` state has other names or shapes than the system.
        """
        if not self.mapped and strict:
            self.system.load_state_dict(state)
            return
        if not self.mapped:
            # One by one, so that what is mapped from a file is not in memory twice.
            own = self.system.state_dict()
            for name, value in state.items():
                own[name].copy_(value)
                release_pages(value)
            return
        parameters = self._parameters()
        own = {name: value.shape for name, value in self.system.state_dict().items()}
        if strict and own != {name: value.shape for name, value in state.items()}:
            raise TrainingError("the saved state holds other tensors than {name} has", name=self.recipe.name)
        for name in state.keys() & parameters.keys():
            parameters[name].data = state[name].detach()
        self._missing -= state.keys()
        self._in_files = True
        buffers = {name: value for name, value in state.items() if name not in parameters}
        self.system.load_state_dict(buffers, strict=False)

    def complete(self) -> None:
        """Gives parameters without a value the random numbers of a system that is built by the run's seed."""
        if self._missing:
            torch.manual_seed(self.seed)
            drawn = dict(System(self.recipe).named_parameters(remove_duplicate=False))
            for name, parameter in self._parameters().items():
                if name in self._missing:
                    parameter.data = drawn[name].data
            self._missing.clear()

    def settle(self, waiting: bool = False) -> None:
        """Has parameters that no stage holds as float32, in no file; those that one may hold stay if it is
        ``waiting`` for them.
        """
        if not self.mapped:
            return
        held = held_in(self.system).keys()
        layers = self.system.modules() if waiting else ()
        stay = {id(cast(Any, layer).weight) for layer in layers if can_hold(layer)}
        for name, parameter in self.system.named_parameters():
            if name not in held and id(parameter) not in stay and parameter.is_floating_point():
                parameter.data = parameter.data.to(torch.float32, copy=self._in_files)
        self._in_files &= waiting

    def _parameters(self) -> dict[str, torch.nn.Parameter]:
        return dict(self.system.named_parameters(remove_duplicate=False))


@contextmanager
def undrawn() -> Generator[None]:
    """Parameters of modules that are built inside are given no random numbers. They take no memory before something is
    written into them.
    """
    random = {"normal_", "uniform_", "kaiming_uniform_", "kaiming_normal_", "trunc_normal_"}

    class Undrawn(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
        ) -> Any:
            named = dict(kwargs or {})
            tensor: Any = args[0] if args else named.get("tensor")
            if getattr(func, "__name__", "") in random and isinstance(tensor, torch.nn.Parameter):
                return tensor
            return func(*args, **named)

    with Undrawn():
        yield


def copy_matching(weights: StartingWeights, other: System | Path, out: Path, processes: Processes) -> None:
    """Copies all tensors with the same name and shape from another system, and the tokenizers of equal text encoders
    into the run's folder; or the tensors of a safetensors file.

    Raises TrainingError if nothing matches.
    """
    system = weights.system
    state, name = (read(other), str(other)) if isinstance(other, Path) else (other.state_dict(), other.recipe.name)
    own = system.state_dict()
    matching = {n: v for n, v in state.items() if n in own and own[n].shape == v.shape}
    if not matching:
        raise TrainingError(
            "not one tensor of {name} has name and shape of one of {name_2}; begin from another system",
            name=name,
            name_2=system.recipe.name,
        )
    weights.put(matching)
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
