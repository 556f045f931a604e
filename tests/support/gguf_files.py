"""Files of GGUF, written by the gguf package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy

from bimo.models.layouts import gguf_file

Arrays = dict[str, numpy.ndarray]


def write(path: Path, tensors: Arrays, kind: str, architecture: str = "", **shapes: list[int]) -> Arrays:
    """Writes a file: matrices whose rows are whole blocks as ``kind``, the rest as float32. Answers what it holds."""
    import gguf as library

    gguf: Any = library
    wanted = gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(path, architecture or "none")
    held: Arrays = {}
    for name, value in tensors.items():
        fits = value.ndim >= 2 and value.shape[-1] % gguf.GGML_QUANT_SIZES[wanted][0] == 0
        if not fits:
            writer.add_tensor(name, value)
            held[name] = value
            continue
        rounded = gguf.quants.quantize(value, wanted)
        writer.add_tensor(name, rounded, raw_dtype=None if kind == "F16" else wanted)
        held[name] = gguf.quants.dequantize(rounded, wanted) if rounded.dtype == numpy.uint8 else rounded.astype("f4")
    for name, shape in shapes.items():
        writer.add_array(gguf_file.SHAPE_KEY + name.replace("__", "."), shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return held
