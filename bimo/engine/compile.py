"""Regional compilation: torch compiles one block of each kind that a denoiser repeats, and runs it for all of them.

Compiling a block takes seconds where compiling a whole denoiser takes minutes, and does nearly the same: what is around
the blocks is little work. Inductor keeps what it compiled in its cache (TORCHINDUCTOR_CACHE_DIR), so that the next
process reads it. On CUDA, where shapes repeat, the kernels of a block are recorded once and played back (CUDA graphs).
"""

from __future__ import annotations

import shutil
from collections import Counter
from typing import Any, cast

import torch
from torch import nn

from bimo.core.errors import RequestError
from bimo.diffusion.system import System

#: Compilers that inductor's kernels for a processor are made by.
COMPILERS = ("c++", "g++", "clang++", "cl")


def compile_blocks(system: System, device: torch.device, *, graphs: bool = False) -> int:
    """Has the repeated blocks of every denoiser compiled when they are first called; answers how many there are. With
    ``graphs`` CUDA graphs are recorded, each for its own shapes (torch's mode "reduce-overhead").

    Raises RequestError where a processor has no compiler of C++.
    """
    if device.type == "cpu" and not any(shutil.which(name) for name in COMPILERS):
        raise RequestError("--compile needs a compiler of C++, and there is none; install g++ or leave it out")
    mode = "reduce-overhead" if graphs else None
    count = 0
    for level in system.recipe.levels:
        denoiser = system.level(level.name).denoiser
        if graphs:
            # What a graph answered is overwritten when it is played again: a new step needs nothing of the last.
            denoiser.register_forward_pre_hook(_new_step)
        for block in repeated_blocks(denoiser):
            # One compilation serves every size that is drawn, once a second one has been seen.
            cast(Any, block).compile(dynamic=None, mode=mode)
            count += 1
    return count


def check_graphs(device: torch.device, compiled: bool) -> None:
    """Raises RequestError where CUDA graphs cannot be recorded: on another device, or of what is not compiled."""
    if device.type != "cuda":
        raise RequestError("--graphs records kernels of CUDA, and the device is {device}; leave it out", device=device)
    if not compiled:
        raise RequestError("--graphs without --compile: what is recorded are compiled blocks; give both")


def _new_step(module: nn.Module, args: object) -> None:
    cast(Any, torch.compiler).cudagraph_mark_step_begin()


def repeated_blocks(part: nn.Module) -> list[nn.Module]:
    """The modules that a part has in a list with others of their class: its transformer or residual blocks. Where such
    lists lie within each other the inner ones are taken, as a UNet's are.
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
