"""Interpolates the weights of two systems of the same shape, as checkpoint mergers do.

For a decoder before and after adversarial training this is the network interpolation of arXiv:1809.00219, section 3.4;
for fine-tunes the weight averages of arXiv:2203.05482.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bimo.core.errors import RequestError

if TYPE_CHECKING:
    from bimo.diffusion.system import System


def blend(system: System, other: System, share: float) -> None:
    """Sets each floating-point tensor of ``system`` to (1 - share) * own + share * other.

    Raises RequestError if the two do not have the same tensors, or ``share`` is not between 0 and 1.
    """
    if not 0 <= share <= 1:
        raise RequestError("--share is {share}; it is the other model's part, from 0 to 1", share=share)
    tensors, other_tensors = system.state_dict(), other.state_dict()
    differing = [
        n
        for n in tensors.keys() | other_tensors.keys()
        if n not in tensors or n not in other_tensors or tensors[n].shape != other_tensors[n].shape
    ]
    if differing:
        raise RequestError(
            "{name} and {name_2} cannot be blended: {count} of {total} tensors are not alike, such as {tensor}; both "
            "have to be of one recipe",
            name=system.recipe.name,
            name_2=other.recipe.name,
            count=len(differing),
            total=len(tensors.keys() | other_tensors.keys()),
            tensor=min(differing),
        )
    mixed = {
        n: value.lerp(other_tensors[n].to(value), share) for n, value in tensors.items() if value.is_floating_point()
    }
    system.load_state_dict({**tensors, **mixed})
