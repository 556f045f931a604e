"""A block that was converted to OpenVINO, compiled for the CPU, and its inference on torch's tensors.

Tensors cross between the libraries as they are: bfloat16 as bfloat16, and pictures with their channels last, which is
the order both libraries' convolutions work in. Float32 in between and the other order would cost a fifth of a step of
Stable Diffusion's UNet.
"""

# openvino leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import mmap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bimo.core.pages import release

#: Rank of a batch of pictures or feature maps, [B, C, H, W].
PICTURES = 4


def of_pictures(block: nn.Module) -> bool:
    """Whether the tensors of rank 4 that a block is given are [B, C, H, W]; those of transformers are masks or rotary
    embeddings.
    """
    return any(isinstance(module, nn.Conv2d | nn.GroupNorm) for module in block.modules())


class CompiledBlock:
    """A compiled model. ``given`` are inputs as it will get them, ``answer`` the dtype of its floating outputs;
    ``pictures`` says whether tensors of rank 4 are [B, C, H, W].
    """

    def __init__(
        self,
        model: Any,
        note: Mapping[str, Any],
        precision: str,
        given: Sequence[Tensor],
        answer: torch.dtype | None,
        *,
        pictures: bool,
    ) -> None:
        import openvino

        settings = {
            "INFERENCE_PRECISION_HINT": "f32" if precision == "f32" else "bf16",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
        }
        core = openvino.Core()
        #: The model without the conversions of its inputs and outputs.
        self.model: Any = core.read_model(str(model)) if isinstance(model, Path) else model
        self.note = note
        self.halves = [tensor.dtype == torch.bfloat16 for tensor in given]
        self.answer = answer
        self.pictures = pictures
        self._compiled: Any = core.compile_model(self._adapted(), "CPU", settings)
        self._request: Any = self._compiled.create_infer_request()
        # Asked of what was compiled: on a CPU without bfloat16 that is float32, whatever was wished. What blocks keep
        # for their next inference comes to a quarter of the weights at 512 x 512 then, and making it anew takes no time
        # beside products in float32.
        self._in_float32 = self._compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
        # After the first inference OpenVINO has its own copy of the weights.
        self._pages_released = False

    def _adapted(self) -> Any:
        """The model with its inputs and outputs in torch's dtypes and order."""
        import openvino
        from openvino.preprocess import PrePostProcessor

        half, first, last = openvino.Type.bf16, openvino.Layout("NCHW"), openvino.Layout("NHWC")
        steps: Any = PrePostProcessor(self.model.clone())
        for place, port in enumerate(self.model.inputs):
            if self.halves[place]:
                steps.input(place).tensor().set_element_type(half)
            if self._is_picture(port):
                steps.input(place).tensor().set_layout(last)
                steps.input(place).model().set_layout(first)
        for place, port in enumerate(self.model.outputs):
            if self.answer == torch.bfloat16 and port.element_type.is_real():
                steps.output(place).tensor().set_element_type(half)
            if self._is_picture(port):
                steps.output(place).model().set_layout(first)
                steps.output(place).tensor().set_layout(last)
        return steps.build()

    def _is_picture(self, port: Any) -> bool:
        return self.pictures and port.element_type.is_real() and port.partial_shape.rank.get_length() == PICTURES

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The outputs, in memory of their own; pictures are laid out with their channels last."""
        ports = self.model.inputs
        self._request.infer(
            [self._given(*each) for each in zip(tensors, ports, strict=True)],
            share_inputs=True,
        )
        outputs = [self._answered(place, port) for place, port in enumerate(self.model.outputs)]
        if not self._pages_released:
            self._pages_released = True
            _release(self.model)
        if self._in_float32:
            self._compiled.release_memory()
        return outputs

    def rest(self) -> None:
        """Frees the memory of intermediate results, which OpenVINO keeps for the next inference."""
        self._compiled.release_memory()

    def _given(self, tensor: Tensor, port: Any) -> Any:
        import openvino

        if self._is_picture(port):
            tensor = tensor.permute(0, 2, 3, 1)
        tensor = tensor.contiguous()
        if tensor.dtype != torch.bfloat16:
            return openvino.Tensor(tensor.numpy(), shared_memory=True)
        # numpy has no bfloat16.
        return openvino.Tensor(tensor.view(torch.int16).numpy(), openvino.Shape(tensor.shape), openvino.Type.bf16)

    def _answered(self, place: int, port: Any) -> Tensor:
        import numpy
        import openvino

        held = self._request.get_output_tensor(place)
        half = held.element_type == openvino.Type.bf16
        value = torch.from_numpy((held.data.view(numpy.int16) if half else held.data).copy())
        value = value.view(torch.bfloat16) if half else value
        value = value.permute(0, 3, 1, 2) if self._is_picture(port) else value
        return value.to(self.answer) if self.answer is not None and value.is_floating_point() else value


def _release(model: Any) -> None:
    """Releases the memory-mapped pages of the file that a model's weights were read from."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that the memory is read-only; it is not written to
        for node in model.get_ops():
            if node.get_type_name() == "Constant" and (data := node.data).nbytes >= mmap.PAGESIZE:
                release(torch.from_numpy(data))
