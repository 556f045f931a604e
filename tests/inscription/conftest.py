"""What tests of inscriptions share: the faces of this machine. CI installs fonts-wqy-zenhei."""

from __future__ import annotations

import numpy as np
import pytest

from bimo.inscription.fonts import Face, system_faces

pytest.importorskip("fontTools")
pytest.importorskip("rapidocr")


@pytest.fixture(scope="session")
def faces() -> tuple[Face, ...]:
    """All faces with Chinese, best first."""
    found = system_faces()
    if not found:
        pytest.skip("no font with Chinese is installed here (fonts-wqy-zenhei)")
    return found


@pytest.fixture
def paper() -> np.ndarray:
    """[256, 256, 3] in 0..255: light paper with a grain and a dark shape in its lower half."""
    chance = np.random.default_rng(0)
    pixels = np.full((256, 256, 3), (232.0, 222.0, 200.0))
    pixels[150:240, 70:180] = (60, 90, 70)
    return np.clip(pixels + chance.normal(0, 3, (256, 256, 1)), 0, 255)
