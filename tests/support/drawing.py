"""Drawing with a system that a test has built."""

from typing import Any

from bimo.core.picture import Picture
from bimo.diffusion.system import System
from bimo.engine.engine import Engine


def draw(system: System, request: Any, /, **settings: Any) -> list[Picture]:
    """As `bimo.draw`, with the system's weights where they are and as they are."""
    return Engine(system).draw(request, **settings)
