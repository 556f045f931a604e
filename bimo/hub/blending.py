"""Two systems of one shape as one: each tensor between theirs, as checkpoint mergers do.

Between a decoder before and after adversarial training this is the network interpolation of arXiv:1809.00219, section
3.4; between fine-tunes the weight averages of arXiv:2203.05482.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bimo.core.errors import RequestError

if TYPE_CHECKING:
    from bimo.diffusion.system import System


def blend(system: System, other: System, share: float) -> None:
    """Has each floating tensor of a system become (1 - share) of its own plus ``share`` of the other's of its name.

    Raises RequestError where the two have not the same tensors, or ``share`` is not within 0 and 1.
    """
    if not 0 <= share <= 1:
        raise RequestError("--share is {share}; it is the other model's part, from 0 to 1", share=share)
    own, theirs = system.state_dict(), other.state_dict()
    apart = [
        n for n in own.keys() | theirs.keys() if n not in own or n not in theirs or own[n].shape != theirs[n].shape
    ]
    if apart:
        raise RequestError(
            "{name} and {name_2} cannot be blended: {count} of {total} tensors are not alike, such as {tensor}; both "
            "have to be of one recipe",
            name=system.recipe.name,
            name_2=other.recipe.name,
            count=len(apart),
            total=len(own.keys() | theirs.keys()),
            tensor=min(apart),
        )
    mixed = {n: value.lerp(theirs[n].to(value), share) for n, value in own.items() if value.is_floating_point()}
    system.load_state_dict({**own, **mixed})
