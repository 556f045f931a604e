"""Tests here draw, or load, beside the libraries that the systems were published with: all are slow but a few files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

#: Single layers and tables beside those of a library, in milliseconds: what of this room is tried while writing.
QUICK = {
    *("test_bert_network.py", "test_clip_families.py", "test_flow_euler.py", "test_kolors_published.py"),
    "test_pixart_network.py",
}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Runs torch in one thread, so that sums are added in the same order as by the library."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of this folder."""
    for item in items:
        if Path(__file__).parent in item.path.parents and item.path.name not in QUICK:
            item.add_marker(pytest.mark.slow)
