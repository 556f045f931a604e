"""Several processes take the steps that one takes: the same rows, noise and losses, and the same after a stop."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bimo.train.processes import Processes


@given(st.lists(st.integers(1, 3), min_size=1, max_size=12), st.integers(1, 5))
def test_shares_are_all_rows_once_and_part_no_lot(lots: list[int], count: int) -> None:
    shares = [Processes(rank, count).share(lots) for rank in range(count)]
    rows = list(range(sum(lots)))
    if len(lots) < count:
        assert all(share.of(rows) == rows for share in shares)
        return
    assert [row for share in shares for row in share.of(rows)] == rows
    ends = {sum(lots[:place]) for place in range(len(lots) + 1)}
    assert {end for share in shares for end in (share.first, share.last)} <= ends
    sizes = [share.last - share.first for share in shares]
    assert min(sizes) > 0
