"""Forms of a converted model that OpenVINO's CPU plugin computes faster, with the same numbers."""

# openvino leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportUnknownParameterType=false

from __future__ import annotations

from typing import Any

import numpy

#: The beginning of the names of products with zeros and ones, which 8 bits would round for nothing.
EXACT = "exact."
PAIR = 2


def rewrite(model: Any) -> None:
    """Applies every rewriting to a model, in its place."""
    _split_weights(model)
    _turn_by_products(model)
    _keep_feed_forwards_apart(model)


def _split_weights(model: Any) -> None:
    """Has a product whose columns are split (GEGLU's halves, Q, K and V) made as one product for each part, as OpenVINO
    has no fast split of columns. Weights, of [columns, K], are split in its place.
    """
    from openvino import opset13 as ops

    for split in model.get_ordered_ops():
        if split.get_type_name() not in ("VariadicSplit", "Split"):
            continue
        total = split.input_value(0).get_node()
        adds = total.get_type_name() == "Add"
        product = total.input_value(0).get_node() if adds else total
        if product.get_type_name() != "MatMul":
            continue
        factors = [product.input_value(1), total.input_value(1)] if adds else [product.input_value(1)]
        constants = [value.get_node() for value in (split.input_value(1), *factors)]
        widths = [port.partial_shape[-1] for port in split.outputs()]
        if (
            any(node.get_type_name() != "Constant" for node in constants)
            or any(width.is_dynamic for width in widths)
            or not product.get_attributes()["transpose_b"]
        ):
            continue
        axis, weights, *biases = (node.data for node in constants)
        rank = split.input_value(0).partial_shape.rank.get_length()
        columns = sum(width.get_length() for width in widths)
        # A split of few rows, as of an AdaLN's table, takes no time.
        if rank < 3 or axis % rank != rank - 1 or weights.shape[:-1] != (columns,):
            continue
        if any(bias.size != columns for bias in biases):
            continue
        start = 0
        for port, width in zip(split.outputs(), widths, strict=True):
            own = slice(start, start := start + width.get_length())
            part = ops.matmul(product.input_value(0), ops.constant(weights[own].copy()), False, True)
            for bias in biases:
                part = ops.add(part, ops.constant(bias[..., own].copy()))
            port.replace(part.output(0))


def _turn_by_products(model: Any) -> None:
    """Has rotary position embeddings of neighbouring pairs (RoFormer, arXiv:2104.09864, eq. 34) turn a row by a product
    with a matrix of zeros and ones. The plugin takes pairs apart and puts them together one number after the other,
    which takes as long as the attention.
    """
    for flat in model.get_ordered_ops():
        joined = _source(flat)
        if flat.get_type_name() != "Reshape" or joined is None or joined.get_type_name() != "Concat":
            continue
        parts = [_of_pair(value.get_node()) for value in joined.input_values()]
        if len(parts) != PAIR or None in parts:
            continue
        turned = _turned_half(*parts) or _turned_complex(*parts)
        if turned is not None and turned.output(0).partial_shape.compatible(flat.output(0).partial_shape):
            flat.output(0).replace(turned.output(0))


def _turned_half(first: Any, second: Any) -> Any:
    """For the pairs (-b, a) of a row of pairs (a, b): the row times a matrix. None for anything else."""
    from openvino import opset13 as ops

    if first.get_type_name() != "Multiply" or _number(first.input_value(1).get_node()) != -1:
        return None
    odd, even = _half(_source(first)), _half(second)
    if odd is None or even is None or (odd[1], even[1]) != (1, 0) or not _same(odd[0], even[0]):
        return None
    row, width = odd[0], odd[2]
    return _product(ops, row, _turn(width))


def _turned_complex(first: Any, second: Any) -> Any:
    """For the pairs of a row times complex numbers: the row times the real parts, and the turned row times the
    imaginary parts. None for anything else.
    """
    from openvino import opset13 as ops

    if first.get_type_name() != "Subtract" or second.get_type_name() != "Add":
        return None
    factors = [_source(node, place) for node in (first, second) for place in range(PAIR)]
    if any(factor is None or factor.get_type_name() != "Multiply" for factor in factors):
        return None
    pairs = [(_half(_source(factor)), factor.input_value(1)) for factor in factors]
    halves = [half for half, _ in pairs if half is not None]
    if len(halves) < len(pairs) or [half[1] for half in halves] != [0, 1, 0, 1]:
        return None
    (row, _, width), (real, imaginary, *others) = halves[0], [other for _, other in pairs]
    if not all(_same(row, half[0]) for half in halves):
        return None
    if not all(_same(*each) for each in zip(others, (imaginary, real), strict=True)):
        return None
    twice = numpy.repeat(numpy.eye(width // PAIR, dtype=numpy.float32), PAIR, axis=1)
    scaled = ops.multiply(row, _product(ops, real, twice))
    crossed = ops.multiply(_product(ops, row, _turn(width)), _product(ops, imaginary, twice))
    return ops.add(scaled, crossed)


def _turn(width: int) -> numpy.ndarray:
    """The matrix by which pairs (a, b) of a row of so many numbers become (-b, a)."""
    matrix = numpy.zeros((width, width), numpy.float32)
    places = numpy.arange(0, width, PAIR)
    matrix[places + 1, places] = -1
    matrix[places, places + 1] = 1
    return matrix


def _product(ops: Any, value: Any, matrix: numpy.ndarray) -> Any:
    product = ops.matmul(value, ops.constant(numpy.ascontiguousarray(matrix.T)), False, True)
    product.set_friendly_name(f"{EXACT}{product.get_friendly_name()}")
    return product


def _half(node: Any) -> tuple[Any, int, int] | None:
    """Of a node that takes one number of each pair of a row: the row, which number, and the row's width."""
    if node is None:
        return None
    if node.get_type_name() == "Squeeze" and (split := _source(node)) is not None:
        if split.get_type_name() not in ("Split", "VariadicSplit"):
            return None
        index, axis, pairs = node.input_value(0).get_index(), _number(_source(split, 1)), _source(split)
    elif node.get_type_name() == "Gather":
        index, axis, pairs = _number(_source(node, 1)), _number(_source(node, 2)), _source(node)
    else:
        return None
    if index is None or axis not in (-1, pairs.output(0).partial_shape.rank.get_length() - 1):
        return None
    pairs = _without(pairs, "Convert")
    if pairs.get_type_name() != "Reshape" or pairs.output(0).partial_shape[-1] != PAIR:
        return None
    row = pairs.input_value(0)
    width = row.partial_shape[-1]
    if width.is_dynamic or width.get_length() % PAIR:
        return None
    return row, int(index), width.get_length()


def _of_pair(node: Any) -> Any:
    """What is made one number of a pair, below the nodes that only change its shape; None if it is not one number."""
    if node.get_type_name() != "Unsqueeze" or node.output(0).partial_shape[-1] != 1:
        return None
    return _without(_source(node), "Broadcast")


def _without(node: Any, *kinds: str) -> Any:
    while node.get_type_name() in kinds:
        node = _source(node)
    return node


def _source(node: Any, place: int = 0) -> Any:
    return node.input_value(place).get_node() if node.get_input_size() > place else None


def _same(one: Any, other: Any) -> bool:
    return (one.get_node().get_name(), one.get_index()) == (other.get_node().get_name(), other.get_index())


def _number(node: Any) -> float | None:
    """The value of a constant of one number, also below a conversion."""
    node = _without(node, "Convert", "ConvertLike")
    return float(node.data.reshape(-1)[0]) if node.get_type_name() == "Constant" and node.data.size == 1 else None


def _keep_feed_forwards_apart(model: Any) -> None:
    """Has the last product of gated feed-forwards (SwiGLU, arXiv:2002.05202) keep its weight transposed, by which the
    plugin does not know them: its own kernel for a whole feed-forward is made for the few rows of a language model, and
    takes longer than the three products for the rows of a picture.
    """
    from openvino import opset13 as ops

    for product in model.get_ordered_ops():
        if product.get_type_name() != "MatMul" or _source(product).get_type_name() != "Multiply":
            continue
        gates = [value.get_node().get_type_name() for value in _source(product).input_values()]
        weight, stored = product.input_value(1), _without(_source(product, 1), "Convert")
        if "Swish" not in gates or stored.get_type_name() != "Constant" or not product.get_attributes()["transpose_b"]:
            continue
        if stored.data.ndim != 2:  # a stack of matrices
            continue
        turned: Any = ops.constant(numpy.ascontiguousarray(stored.data.T))
        if weight.get_element_type() != stored.get_element_type():
            turned = ops.convert(turned, weight.get_element_type().get_type_name())
        product.output(0).replace(ops.matmul(product.input_value(0), turned, False, False).output(0))
