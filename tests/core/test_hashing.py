"""SHA-256 of files: late, but of the file that was read; damage is told before anything is drawn. And of tensors."""

from __future__ import annotations

import copy
import gc
import hashlib
import os
import threading
import warnings
from pathlib import Path

import pytest
import torch

from bimo.core import hashing
from bimo.core.errors import WeightsError
from bimo.core.hashing import LateDigest, digest, digest_tensors, late_table, verify, verifying

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "w.safetensors"
    path.write_bytes(CONTENT)
    return path


def test_it_is_the_sha256_in_pieces_and_of_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "CHUNK_BYTES", 1000)
    assert digest(file) == hashlib.sha256(CONTENT).hexdigest()
    file.write_bytes(b"")
    assert digest(file) == hashlib.sha256(b"").hexdigest()


def test_a_late_hash_is_of_the_file_that_was_opened(file: Path) -> None:
    """Another file under the name, or none, changes nothing; a second call and a copy read nothing again."""
    late, gone = LateDigest(file), LateDigest(file)
    other = file.with_name("other")
    other.write_bytes(b"other")
    other.replace(file)
    assert late() == hashlib.sha256(CONTENT).hexdigest()
    file.unlink()
    assert gone() == late() == copy.deepcopy(late)()


def test_a_file_that_was_written_to_is_reported(file: Path) -> None:
    late = LateDigest(file)
    with file.open("r+b") as opened:
        opened.write(b"other")
    os.utime(file, ns=(1, 1))
    with pytest.raises(WeightsError, match="written to after it was loaded"):
        late()


def test_the_digest_of_a_large_file_is_kept_until_the_file_changes(
    file: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("BIMO_CACHE", str(cache))
    LateDigest(file)()
    assert not list(cache.rglob("*"))  # a small one is not worth it
    monkeypatch.setattr(hashing, "LARGE", 1)
    expected = LateDigest(file)()
    (kept,) = cache.glob("digests/*")
    with monkeypatch.context() as patch:
        patch.setattr(LateDigest, "_hashed", lambda self: pytest.fail("hashed again"))
        assert LateDigest(file)() == expected
    kept.write_text("0" * 64)
    assert digest(file) == expected  # what is verified is read
    kept.write_text("broken")
    assert LateDigest(file)() == expected == kept.read_text()
    file.write_bytes(b"other")
    assert LateDigest(file)() == hashlib.sha256(b"other").hexdigest()


def test_it_may_be_asked_for_by_several_threads(file: Path) -> None:
    late, found = LateDigest(file), list[str]()
    threads = [threading.Thread(target=lambda: found.append(late())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [hashlib.sha256(CONTENT).hexdigest()] * 4


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system does not tell")
def test_files_are_closed_after_hashing(file: Path) -> None:
    def held() -> int:
        places = Path("/proc/self/fd").iterdir()
        return sum(os.path.realpath(place) == str(file.resolve()) for place in places)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()  # what other tests left open is not this one's
    asked, never = LateDigest(file), LateDigest(file)
    assert held() == 2
    asked()
    assert held() == 1
    del never
    gc.collect()
    assert held() == 0


def test_the_table_is_over_names_and_hashes(file: Path) -> None:
    (file.parent / "a").mkdir()
    second = file.parent / "a" / "b"
    second.write_bytes(b"b")
    lines = f"a/b {digest(second)}\nw.safetensors {digest(file)}\n"
    assert late_table(file.parent, [file, second])() == hashlib.sha256(lines.encode()).hexdigest()


def test_damage_is_told_with_both_hashes_and_a_missing_file_by_name(file: Path) -> None:
    verify(file, digest(file))
    with pytest.raises(WeightsError, match="is damaged: its SHA-256 is") as caught:
        verify(file, "0" * 64)
    assert (digest(file) in caught.value.en, "0" * 64 in caught.value.zh) == (True, True)
    with pytest.raises(WeightsError, match=r"cannot read .*absent"):
        digest(file.with_name("absent"))


def test_verified_on_leaving_and_before_what_it_caused(file: Path) -> None:
    did: list[str] = []
    with verifying(file.parent, {file.name: digest(file)}):
        did.append("work")
    with pytest.raises(WeightsError, match="damaged"), verifying(file.parent, {file.name: "0" * 64}):
        did.append("work")
    with pytest.raises(WeightsError, match="damaged"), verifying(file.parent, {file.name: "0" * 64}):
        raise ValueError("what damage leads to")
    with pytest.raises(ValueError, match="its own"), verifying(file.parent, {file.name: digest(file)}):
        raise ValueError("its own")
    assert did == ["work", "work"]


def test_tensors_are_told_apart_by_name_and_value_whatever_their_order_and_layout() -> None:
    state = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.bfloat16), "c": torch.tensor(3)}
    found = digest_tensors(state)
    assert found == digest_tensors(dict(reversed(state.items())))
    assert found == digest_tensors(state | {"a": state["a"].T.contiguous().T})
    assert found != digest_tensors(state | {"a": state["a"] + 1})
    assert found != digest_tensors({"x": state["a"], "b": state["b"], "c": state["c"]})
