"""The change of a weight by each kind of adapter, by the definitions of peft and LyCORIS.

LoRA arXiv:2106.09685, DoRA arXiv:2402.09353, LoHa arXiv:2108.06098, LoKr, (IA)^3 and full differences as in LyCORIS
(arXiv:2309.14859), OFT arXiv:2306.07280, BOFT arXiv:2311.06243, GLoRA arXiv:2306.07967. A weight is [out, in], of a
convolution [out, in, height, width]; a change is added to it.
"""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

#: A weight in float32 -> its change, of the same shape. Raises ValueError or RuntimeError for a weight of another
#: shape; on the meta device nothing is computed.
Change = Callable[[Tensor], Tensor]
#: The tensors of each kind; the first is always present.
KINDS: Mapping[str, tuple[str, ...]] = {
    "LoRA": ("up", "down", "mid"),
    "LoHa": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
    "LoKr": ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
    "(IA)^3": ("ia3_weight", "ia3_on_input"),
    "(IA)^3 of peft": ("ia3_l",),
    "OFT": ("oft_blocks", "rescale"),
    "OFT of peft": ("oft_R",),
    "BOFT of peft": ("boft_R", "boft_s"),
    "GLoRA": ("a1", "a2", "b1", "b2"),
    "difference": ("diff",),
    "LoRA of a table": ("embedding_up", "embedding_down"),
}
#: Defaults of peft's OFT settings.
OFT_SETTINGS: Mapping[str, Any] = {"use_cayley_neumann": True, "num_cayley_neumann_terms": 5}


def kind_of(roles: Mapping[str, Tensor]) -> str:
    """The kind of an adapter by the names of its tensors, "" for none or several."""
    named = {role for role in roles if any(role in known for known in KINDS.values())}
    fitting = [kind for kind, known in KINDS.items() if named and named <= set(known)]
    return fitting[0] if len(fitting) == 1 else ""


def missing(kind: str, roles: Mapping[str, Tensor]) -> list[str]:
    """The missing tensors of an adapter of a kind."""
    if kind == "LoKr":
        lacks: list[str] = []
        for half in ("lokr_w1", "lokr_w2"):
            if half not in roles:
                lacks += [name for name in (f"{half}_a", f"{half}_b") if name not in roles]
        return lacks
    optional = {"mid", "rescale", "hada_t1", "hada_t2"}
    if kind == "LoHa" and ("hada_t1" in roles) != ("hada_t2" in roles):
        optional -= {"hada_t1", "hada_t2"}
    return [name for name in KINDS[kind] if name not in optional and name not in roles]


def rank_of(kind: str, roles: Mapping[str, Tensor]) -> int:
    """The rank by which its scale is divided, 0 for full tensors, which are not scaled."""
    first = {"LoRA": ("down",), "LoHa": ("hada_w1_b",), "LoKr": ("lokr_w2_b", "lokr_w1_b"), "GLoRA": ("b2",)}
    first |= {"LoRA of a table": ("embedding_down",)}
    factor = next((roles[name] for name in first.get(kind, ()) if name in roles), None)
    return 0 if factor is None or not factor.ndim else factor.shape[0]


def factors(kind: str, roles: Mapping[str, Tensor]) -> list[Tensor]:
    """The tensors of which none may be all zeros if anything is to change."""
    if kind == "OFT" and "rescale" in roles:
        return []
    if kind == "(IA)^3 of peft":
        return [roles["ia3_l"] - 1]
    if kind in ("GLoRA", "BOFT of peft"):
        return []
    return [value for name, value in roles.items() if name in KINDS[kind] and name not in ("ia3_on_input", "rescale")]


def change(kind: str, roles: Mapping[str, Tensor], scale: float, settings: Mapping[str, Any]) -> Change:
    """The change by an adapter of a kind, at ``scale``; ``alpha`` of an OFT is its constraint. ``settings`` are those
    of peft's OFT, ``inputs`` of an (IA)^3.
    """
    if kind == "LoRA":
        return low_rank(roles["up"], roles["down"], scale, roles.get("mid"))
    if kind == "OFT":
        return _turned(roles, float(roles["alpha"]) if "alpha" in roles else 0.0)
    if kind == "OFT of peft":
        return _turned_inputs(roles["oft_R"], settings)
    if kind == "BOFT of peft":
        return _butterflies_of_inputs(roles["boft_R"], roles["boft_s"])
    known = {"LoHa": _hadamard, "LoKr": _kronecker, "GLoRA": _general, "LoRA of a table": _table}
    if kind in known:
        return known[kind](roles, scale)
    if kind == "difference":
        return lambda weight: _fitting(_float(roles["diff"], weight), weight)
    return _scaled(roles, settings.get("inputs"))


def low_rank(up: Tensor, down: Tensor, scale: float, mid: Tensor | None = None) -> Change:
    """``scale`` times up [out, r] down [r, in ...]; with ``mid`` [r, r, height, width] between them a Tucker
    decomposition.
    """

    def low(weight: Tensor) -> Tensor:
        above, below = _float(up, weight).flatten(1), _float(down, weight).flatten(1)
        if mid is not None:
            return _fitting(torch.einsum("mnhw,im,nj->ijhw", _float(mid, weight), above, below) * scale, weight)
        return _fitting(above @ below * scale, weight)

    return low


def decomposed(within: Change, magnitude: Tensor, columns: bool) -> Change:
    """DoRA: another change, followed by rescaling of the weight's rows (or ``columns``) to trained magnitudes."""

    def stretched(weight: Tensor) -> Tensor:
        whole = weight + within(weight)
        rows = whole.transpose(0, 1) if columns else whole
        lengths = _float(magnitude, weight).flatten()
        if len(lengths) != len(rows):
            raise ValueError(f"{len(lengths)} lengths for {len(rows)}")
        norms = rows.flatten(1).norm(dim=1).clamp(min=torch.finfo(weight.dtype).tiny)  # a row of zeros stays zero
        rows = rows * (lengths / norms).view(-1, *[1] * (rows.ndim - 1))
        return (rows.transpose(0, 1) if columns else rows) - weight

    return stretched


def added(value: Tensor, scale: float) -> Change:
    """``scale`` times a tensor, for a bias."""
    return lambda weight: _fitting(_float(value, weight) * scale, weight)


def bias_scaled(share: Tensor) -> Change:
    """A bias times ``share``, as peft's (IA)^3 has it."""
    return lambda bias: _fitting(bias * (_float(share, bias).flatten() - 1), bias)


def _float(value: Tensor, like: Tensor) -> Tensor:
    return value.to(like.device, torch.float32)


def _fitting(value: Tensor, weight: Tensor) -> Tensor:
    """A change in the shape of the weight, which may be a 1x1 convolution for a matrix."""
    wide, own = value.flatten(1) if value.ndim > 1 else value, weight.flatten(1) if weight.ndim > 1 else weight
    if wide.shape != own.shape:
        raise ValueError(f"{tuple(value.shape)}≠{tuple(weight.shape)}")
    return wide.reshape(weight.shape)


def _tucker(core: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """core [r, r, ...] over first [r, out] and second [r, in] -> [out, in, ...]."""
    return torch.einsum("ij...,ip,jr->pr...", core, first, second)


def _hadamard(roles: Mapping[str, Tensor], scale: float) -> Change:
    """The elementwise product of two low-rank matrices."""

    def product(weight: Tensor) -> Tensor:
        tensors = {name: _float(value, weight) for name, value in roles.items()}
        halves = [
            _tucker(tensors[f"hada_t{i}"], tensors[f"hada_w{i}_a"], tensors[f"hada_w{i}_b"])
            if f"hada_t{i}" in tensors
            else tensors[f"hada_w{i}_a"] @ tensors[f"hada_w{i}_b"].flatten(1)
            for i in (1, 2)
        ]
        return _fitting(halves[0] * halves[1] * scale, weight)

    return product


def _kronecker(roles: Mapping[str, Tensor], scale: float) -> Change:
    """The Kronecker product of a small matrix and one that may be of low rank, or a convolution's."""

    def product(weight: Tensor) -> Tensor:
        tensors = {name: _float(value, weight) for name, value in roles.items()}
        first = tensors["lokr_w1"] if "lokr_w1" in tensors else tensors["lokr_w1_a"] @ tensors["lokr_w1_b"]
        if "lokr_w2" in tensors:
            second = tensors["lokr_w2"]
        elif "lokr_t2" in tensors:
            second = _tucker(tensors["lokr_t2"], tensors["lokr_w2_a"], tensors["lokr_w2_b"])
        else:
            rest = tensors["lokr_w2_b"]
            second = (tensors["lokr_w2_a"] @ rest.flatten(1)).unflatten(1, rest.shape[1:])
        if second.ndim == 2 and weight.ndim == 4:
            # The kernel's positions are the last axes.
            second = second.unflatten(1, (-1, *weight.shape[2:]))
        small = first.reshape(*first.shape, *[1] * (second.ndim - 2))
        return _fitting(torch.kron(small, second.contiguous()) * scale, weight)

    return product


def _general(roles: Mapping[str, Tensor], scale: float) -> Change:
    """W a1 a2 + b1 b2."""

    def sum_of(weight: Tensor) -> Tensor:
        a1, a2, b1, b2 = (_float(roles[name], weight).flatten(1) for name in ("a1", "a2", "b1", "b2"))
        along = torch.einsum("oi...,ij,jk->ok...", weight, a1, a2)
        return (along + _fitting(b1 @ b2, weight)) * scale

    return sum_of


def _table(roles: Mapping[str, Tensor], scale: float) -> Change:
    """LoRA for an embedding table [words, width]: its factors are named for the transposed table."""

    def product(weight: Tensor) -> Tensor:
        up, down = _float(roles["embedding_up"], weight), _float(roles["embedding_down"], weight)
        return _fitting((up @ down).T * scale, weight)

    return product


def _scaled(roles: Mapping[str, Tensor], inputs: bool | None) -> Change:
    """(IA)^3: rows or columns of the weight times a trained vector. LyCORIS stores the difference from 1; for peft the
    shape decides between rows and columns, and ``inputs`` if both are equal.
    """

    def scaled(weight: Tensor) -> Tensor:
        if "ia3_l" in roles:
            share = _float(roles["ia3_l"], weight) - 1
            columns = inputs_scaled(share, weight.shape, inputs)
        else:
            share = _float(roles["ia3_weight"], weight)
            columns = bool(roles["ia3_on_input"].item())
        wide = (1, -1) if columns else (-1, 1)
        return _fitting(weight * share.flatten().view(*wide, *[1] * (weight.ndim - 2)), weight)

    return scaled


def inputs_scaled(share: Tensor, shape: Sequence[int], otherwise: bool | None) -> bool:
    """Whether an (IA)^3 of peft scales the inputs of a layer with this shape. Raises ValueError if that is unknown."""
    if share.ndim == 2:
        return share.shape[1] != 1
    if shape[0] != shape[1]:
        return share.numel() == shape[1]
    if otherwise is None:
        raise ValueError("feedforward_modules")
    return otherwise


def _turned(roles: Mapping[str, Tensor], furthest: float) -> Change:
    """OFT and BOFT of kohya-ss and LyCORIS: rows in blocks, rotated by (1 + Q) (1 - Q)^-1 with skew-symmetric Q,
    limited to ``furthest`` times the rows if that is above 0.
    """

    def turned(weight: Tensor) -> Tensor:
        blocks = _float(roles["oft_blocks"], weight)
        q = blocks - blocks.transpose(-1, -2)
        if furthest > 0:
            length = q.norm() + 1e-8
            q = q * (length.clamp(max=furthest * len(weight)) / length)
        one = torch.eye(q.shape[-1], device=q.device)
        turns = torch.linalg.solve(one - q, one + q, left=False)
        new = _butterflies(weight, turns) if turns.ndim == 4 else _in_blocks(weight, turns.transpose(1, 2))
        if "rescale" in roles:
            new = new * _float(roles["rescale"], weight).view(-1, *[1] * (weight.ndim - 1))
        return _fitting(new - weight, weight)

    return turned


def _in_blocks(weight: Tensor, turns: Tensor) -> Tensor:
    """Rotates each block of rows by one of ``turns`` [blocks, size, size]."""
    rows = weight.flatten(1).unflatten(0, turns.shape[:2])
    return torch.einsum("bij,bjk->bik", turns, rows).flatten(0, 1).view(weight.shape)


def _butterflies(weight: Tensor, stages: Tensor) -> Tensor:
    """Stages [m, blocks, size, size] that rotate blocks of rows with increasing strides."""
    size = stages.shape[-1]
    rows = weight.flatten(1)
    for stage, turns in enumerate(stages):
        apart = 2**stage * (size // 2)
        rows = rows.unflatten(0, (-1, 2, apart)).transpose(1, 2).flatten(0, 2).unflatten(0, (-1, size))
        rows = torch.einsum("bij,bjk->bik", turns, rows)
        rows = rows.flatten(0, 1).unflatten(0, (-1, apart, 2)).transpose(1, 2).flatten(0, 2)
    return rows.view(weight.shape)


def _turned_inputs(learnt: Tensor, settings: Mapping[str, Any]) -> Change:
    """peft's OFT: columns in blocks, rotated by (1 - Q) (1 + Q)^-1, or by the first terms of its Neumann series.
    ``learnt`` [blocks, n] is the upper triangle of Q.
    """

    def turned(weight: Tensor) -> Tensor:
        above = _float(learnt, weight)
        size = round((1 + (1 + 8 * above.shape[1]) ** 0.5) / 2)
        rows, columns = torch.triu_indices(size, size, 1, device=above.device)
        q = above.new_zeros(len(above), size, size)
        q[:, rows, columns] = above
        q = q - q.transpose(1, 2)
        one = torch.eye(size, device=q.device).expand_as(q)
        if settings.get("use_cayley_neumann", OFT_SETTINGS["use_cayley_neumann"]):
            terms = int(settings.get("num_cayley_neumann_terms", OFT_SETTINGS["num_cayley_neumann_terms"]))
            turns = _series(q, one, terms)
        else:
            turns = torch.linalg.solve(one + q, one - q, left=False)
        wide = weight.flatten(1)
        if len(turns) == 1:  # one shared by all blocks
            turns = turns.expand(wide.shape[1] // size, -1, -1)
        blocks = wide.unflatten(1, turns.shape[:2])
        return _fitting(torch.einsum("obk,bjk->obj", blocks, turns).flatten(1) - wide, weight)

    return turned


def _series(q: Tensor, one: Tensor, terms: int) -> Tensor:
    """1 + 2 Q + 2 Q^2 + ... with this number of terms, the last counting once; peft computes four if three are asked
    for.
    """
    terms = 4 if terms == 3 else terms
    total, power = one, q
    for term in range(1, terms):
        total = total + (1 if term == terms - 1 and term > 1 else 2) * power
        power = power @ q
    return total


def _butterflies_of_inputs(learnt: Tensor, lengths: Tensor) -> Change:
    """peft's BOFT: columns rotated in stages [m, blocks, size, size] with permutations of half blocks between them;
    then rows times ``lengths``.
    """

    def turned(weight: Tensor) -> Tensor:
        blocks = _float(learnt, weight)
        q = (blocks - blocks.transpose(-1, -2)) / 2
        one = torch.eye(q.shape[-1], device=q.device).expand_as(q)
        stages = torch.linalg.solve(one + q, one - q, left=False)
        columns = weight.flatten(1).T
        for stage, turns in enumerate(stages):
            order = _interleaved(len(columns), len(turns) // 2**stage, turns.shape[-1] // 2, len(stages) > 1)
            back = torch.argsort(order)
            inner = columns[back.to(weight.device)].unflatten(0, turns.shape[:2])
            columns = torch.einsum("bij,bjk->bik", turns, inner).flatten(0, 1)[order.to(weight.device)]
        new = columns.T * _float(lengths, weight).reshape(-1, 1)
        return _fitting(new - weight.flatten(1), weight)

    return turned


def _interleaved(count: int, groups: int, half: int, more: bool) -> Tensor:
    """The permutation of columns that, within each group, puts every second half of a block first."""
    order = torch.arange(count)
    if not more:
        return order
    parts = order.reshape(groups, -1, half)
    return torch.cat([parts[:, ::2], parts[:, 1::2]], dim=1).flatten()
