"""What of a request an engine cannot draw: features that change blocks or weights need them in memory, as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bimo.core.errors import RequestError
from bimo.core.request import Request
from bimo.diffusion.block_cache import check as check_step_cache
from bimo.diffusion.request_validation import pads_circularly
from bimo.engine.adapters import demand_attached
from bimo.prompts.a1111 import lora_tags

if TYPE_CHECKING:
    from bimo.engine.engine import Engine


def check_features(engine: Engine, request: Request) -> None:
    """Raises RequestError for features of a request that an engine does not support, as it is loaded."""
    check_step_cache(engine.system, request)
    if engine.system.stepwise is not None:
        engine.check_lora_ranges()
    if tags := lora_tags(request.text)[1]:
        demand_attached(tags, engine.lora_weights)
    processor, keeping = engine.processor, engine.keeping
    circular = request.seamless if request.seamless and pads_circularly(engine.system) else None
    if circular is not None and (keeping.tiles or engine.compiled):
        raise RequestError("seamless needs the whole picture's convolutions; leave out --tiles and --compile")
    elsewhere = processor.converts or engine.cards or keeping.offload in ("groups", "disk")
    if elsewhere and request.step_cache is not None and request.step_cache.startswith("dbcache"):
        raise RequestError(
            "the step cache dbcache replaces code of blocks, as do --engine openvino, --offload groups and disk, "
            "and several cards; take easy"
        )
    if processor.converts:
        for name, value in {"token_merging": request.token_merging, "nag": request.nag, "seamless": circular}.items():
            if value is not None:
                raise RequestError(
                    "{shortcut} works inside of blocks, which OpenVINO has converted; draw with --engine torch or "
                    "--engine torch-bf16, or leave it out",
                    shortcut=name,
                )
