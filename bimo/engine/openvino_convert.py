"""From a torch module to an OpenVINO model, and its forms with numbers of 8 bits, by NNCF."""

# openvino and nncf leave parts of their interface untyped, and so does torch's tracing.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportUnknownParameterType=false

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bimo.engine.openvino_rewrites import EXACT, rewrite

#: What is added to the scores of masked keys: finite in bfloat16 as well.
MASKED = -1e30
#: The arguments of torch's attention in their order.
ATTENTION = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")


class _FiniteAttention(TorchFunctionMode):
    """Attention with a mask of booleans as torch answers it: zeros for a row that sees nothing, such as one of padding.
    OpenVINO's softmax of nothing but -inf is NaN, which the next layer's products would carry to every row.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        mask = named.get("attn_mask", args[3] if len(args) > 3 else None)
        if func is not nn.functional.scaled_dot_product_attention or mask is None or mask.dtype != torch.bool:
            return func(*args, **named)
        named |= dict(zip(ATTENTION, args, strict=False))
        scores = torch.zeros_like(mask, dtype=named["query"].dtype).masked_fill(~mask, MASKED)
        return func(**{**named, "attn_mask": scores}) * mask.any(-1, keepdim=True)


def converted(module: nn.Module, tensors: Sequence[Tensor]) -> Any:
    """Converts a module to an OpenVINO model with dynamic shapes, traced with example tensors.

    Uses the parts of ``openvino.convert_model``, which itself would send telemetry.
    """
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    frontend: Any = FrontEndManager().load_by_framework("pytorch")
    example = tuple(tensor.clone() for tensor in tensors)
    with warnings.catch_warnings(), _FiniteAttention():
        warnings.simplefilter("ignore")  # tracing warns of shape-dependent branches and of its deprecation
        decoder = TorchScriptPythonDecoder(module, example_input=example)  # the frontend does not keep it alive
    model = frontend.convert(frontend.load(decoder))
    rewrite(model)
    return model


def compressed(model: Any) -> Any:
    """A model with its weights in 8 bits, with a scale and a zero point for each output channel."""
    # It prints a table and a progress bar for each block, which takes a moment.
    with _nncf() as nncf, contextlib.redirect_stdout(io.StringIO()), _quiet("nncf"):
        return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)


def quantised_model(model: Any, samples: Sequence[Sequence[Any]]) -> Any:
    """A model with its products in 8 bits: weights per channel, activations by their ranges over the samples (NNCF's
    post-training quantisation).
    """
    with _nncf() as nncf:
        return nncf.quantize(
            model,
            nncf.Dataset(samples),
            subset_size=len(samples),
            model_type=nncf.ModelType.TRANSFORMER,
            fast_bias_correction=True,
            ignored_scope=nncf.IgnoredScope(patterns=[f"{EXACT}.*"], validate=False),
        )


@contextlib.contextmanager
def _quiet(logger: str) -> Generator[None]:
    """Mutes what a library logs below warnings."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)


@contextlib.contextmanager
def _nncf() -> Generator[Any]:
    """Imports NNCF with its telemetry turned off; what it prints goes to stderr."""
    before = os.environ.get("NNCF_CI")
    os.environ["NNCF_CI"] = "1"
    try:
        nncf = importlib.import_module("nncf")
    finally:
        if before is None:
            del os.environ["NNCF_CI"]
        else:
            os.environ["NNCF_CI"] = before
    with contextlib.redirect_stdout(sys.stderr):
        yield nncf
