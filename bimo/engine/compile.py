"""Regional compilation: torch.compile on the repeated blocks of a denoiser, one compilation per kind of block.

Compiling one block takes seconds where a whole denoiser takes minutes, at nearly the same speed-up: little work is done
outside the blocks. Inductor caches compiled code on disk (TORCHINDUCTOR_CACHE_DIR) for the next process. On CUDA the
kernels of a block can be recorded once per shape and replayed (CUDA graphs).
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import nn

from bimo.core.errors import RequestError
from bimo.diffusion.system import System

#: C++ compilers that inductor needs for its CPU kernels.
COMPILERS = ("c++", "g++", "clang++", "cl")
#: How many variants of a kind of block are compiled: one for each of its widths, sizes and modes. torch leaves off at
#: eight, with which a UNet as Stable Diffusion's would be compiled in part.
VARIANTS = 1024


def compile_blocks(system: System, device: torch.device, *, graphs: bool = False) -> int:
    """Marks the repeated blocks of every denoiser for compilation at their first call; returns how many there are.
    ``graphs`` also records CUDA graphs, one per shape (torch's mode "reduce-overhead").

    Raises RequestError on a CPU without a C++ compiler.
    """
    denoisers = [system.level(level.name).denoiser for level in system.recipe.levels]
    for denoiser in denoisers if graphs else ():
        # A replayed graph overwrites its previous outputs; torch has to know that a new step no longer needs them.
        denoiser.register_forward_pre_hook(_new_step)
    blocks = [block for denoiser in denoisers for block in repeated_blocks(denoiser)]
    # dynamic=None: after a second size, torch recompiles once with dynamic shapes for all further sizes.
    return len(compile_each(blocks, device, mode="reduce-overhead" if graphs else None))


def compile_each(
    blocks: Sequence[nn.Module], device: torch.device, *, dynamic: bool | None = None, mode: str | None = None
) -> list[nn.Module]:
    """Marks modules for compilation at their first call, and returns them; ``dynamic`` and ``mode`` are torch's.

    Raises RequestError on a CPU without a C++ compiler.
    """
    if device.type == "cpu" and not any(shutil.which(name) for name in COMPILERS):
        raise RequestError("--compile needs a compiler of C++, and there is none; install g++ or leave it out")
    if blocks:
        import torch._dynamo

        config: Any = torch._dynamo.config
        config.cache_size_limit = max(config.cache_size_limit, VARIANTS)
        config.accumulated_cache_size_limit = max(config.accumulated_cache_size_limit, VARIANTS)
    for block in blocks:
        cast(Any, block).compile(dynamic=dynamic, mode=mode)
    return list(blocks)


def uncompile(blocks: Iterable[nn.Module]) -> None:
    """Has modules run as they are again."""
    for block in blocks:
        cast(Any, block)._compiled_call_impl = None


def check_graphs(device: torch.device, compiled: bool) -> None:
    """Raises RequestError if CUDA graphs cannot be recorded: on another device, or without compilation."""
    if device.type != "cuda":
        raise RequestError("--graphs records kernels of CUDA, and the device is {device}; leave it out", device=device)
    if not compiled:
        raise RequestError("--graphs without --compile: what is recorded are compiled blocks; give both")


def _new_step(module: nn.Module, args: object) -> None:
    cast(Any, torch.compiler).cudagraph_mark_step_begin()


def repeated_blocks(part: nn.Module) -> list[nn.Module]:
    """The modules in a ModuleList together with others of their class: transformer or residual blocks. Of nested lists,
    as in a UNet, the innermost are used.
    """
    blocks: list[nn.Module] = []
    for module in part.modules():
        if isinstance(module, nn.ModuleList):
            kinds = Counter(type(block) for block in module)
            blocks += [block for block in module if kinds[type(block)] > 1 and any(True for _ in block.children())]
    own = {id(block) for block in blocks}
    return [
        block for block in blocks if not any(id(within) in own for within in block.modules() if within is not block)
    ]
