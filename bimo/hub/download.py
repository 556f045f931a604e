"""Downloads published weights from the Hugging Face hub, else ModelScope; resumable, and verified by hash."""

# huggingface_hub is typed in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import fnmatch
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from bimo.core.errors import BimoError, WeightsError
from bimo.core.messages import Both, Listed, say
from bimo.models.layouts.weight_files import complete, needed, stored

INDEX_FILES = ("model_index.json", "recipe.json")
#: The file that marks a repository of a single text encoder, in place of an index.
TEXT_ENCODER_FILES = ("config.json",)
#: Patterns of the files to download: everything a diffusers folder needs, nothing twice.
FILE_PATTERNS = ["*.json", "*.txt", "*.txt.gz", "*.model", "*.safetensors", "*.bin"]
UNWANTED = ["*.msgpack", "*.ckpt", "safety_checker/*", "flax_*", "openvino_*", "*.onnx"]
#: Variants of weights; downloaded only if there are no others.
VARIANTS = [f"*.{variant}{end}*" for variant in ("fp16", "bf16", "non_ema", "ema") for end in ".-"]
#: Suffixes of weight files.
WEIGHTS = (".safetensors", ".bin")
#: Component folders without weights, even if they hold a config.json.
WEIGHTLESS = ("tokenizer", "scheduler", "feature_extractor", "image_processor", "processor")
MODELSCOPE = "modelscope:"
GIGABYTE = 1e9
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Remote:
    """A file of a repository: path, size in bytes, and the hub's hash: SHA-256 for LFS, git's SHA-1 for others."""

    path: str
    size: int
    digest: str
    large: bool


def fetch(repo: str, modelscope: str = "", indices: Sequence[str] = INDEX_FILES, without: Sequence[str] = ()) -> Path:
    """The local folder of a repository, downloaded unless it is complete in the hub's cache.

    ``repo`` is "owner/name" on Hugging Face or a folder in it, "owner/name/folder", or "modelscope:owner/name". One of
    ``indices`` must exist at the top of it; weights of the components ``without`` are skipped. HF_ENDPOINT, HF_HOME and
    HF_HUB_OFFLINE are honoured. Raises WeightsError that says which files belong where.
    """
    if repo.startswith(MODELSCOPE):
        return _of_modelscope(repo.removeprefix(MODELSCOPE), say("it is on ModelScope alone"), without)
    from huggingface_hub import constants

    local = cached(repo, indices)
    absent = [] if local is None else [name for name in lacking(local) if name not in without]
    whole = local is not None and any((local / _whole(local, left)).is_file() for left in ((), without))
    if local is not None and whole and not absent:
        return local
    try:
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE=1")
        return _of_hugging_face(repo, indices, without)
    except BimoError:
        raise
    # The hub's client passes on the exceptions of its HTTP library; each means that the download failed.
    except Exception as error:
        why = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        if local is not None:
            # Another program downloaded it; if files are missing, reading it reports which.
            return local
        if modelscope and not constants.HF_HUB_OFFLINE:
            return _of_modelscope(modelscope, why, without)
        raise (_image_encoder_unreachable if tuple(indices) == TEXT_ENCODER_FILES else _unreachable)(
            repo, why
        ) from None


def cached(repo: str, indices: Sequence[str] = INDEX_FILES) -> Path | None:
    """The snapshot of a repository in the Hugging Face cache, complete or not; None if there is none."""
    repo, inside = _inside(repo)
    if not (hub_cache() / f"models--{repo.replace('/', '--')}").is_dir():
        return None  # without huggingface_hub, which takes a fifth of a second to import
    from huggingface_hub import try_to_load_from_cache

    for file in indices:
        path = try_to_load_from_cache(repo, inside + file)
        if isinstance(path, str):
            return Path(path).parent
    return None


def hub_cache() -> Path:
    """The cache folder of huggingface_hub, by the same environment variables."""
    if "huggingface_hub.constants" in sys.modules:
        return Path(sys.modules["huggingface_hub.constants"].HF_HUB_CACHE)
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    configured = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or os.path.join(home, "hub")
    return Path(os.path.expandvars(os.path.expanduser(configured)))


def show_terms(name: str, terms: tuple[str, str], tell: Callable[[str], None] | None = None) -> None:
    """Shows a licence's terms the first time a system is used on this machine, and writes a marker file."""
    from huggingface_hub import constants

    if not any(terms):
        return
    text = say(Both(*terms))
    marker = (
        Path(constants.HF_HUB_CACHE) / ".bimo-terms" / hashlib.sha256("\n".join((name, *terms)).encode()).hexdigest()
    )
    if marker.is_file():
        return
    (tell or _stderr)(say("terms of {name}: {text}", name=name, text=text))
    try:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_text(f"{name}\n{text}\n", encoding="utf-8")
    except OSError:
        # Without the marker the terms are shown again next time.
        return


def _stderr(text: str) -> None:
    print(text, file=sys.stderr)


def _inside(repo: str) -> tuple[str, str]:
    """Splits "owner/name/folder" into the repository and the path prefix, "" for the whole repository."""
    owner, name, *folders = repo.split("/")
    return f"{owner}/{name}", "".join(f"{folder}/" for folder in folders)


def _of_hugging_face(repo: str, index_names: Sequence[str], without: Sequence[str] = ()) -> Path:
    from huggingface_hub import HfApi, constants, hf_hub_download

    endpoint = os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")
    repo, inside = _inside(repo)
    info = HfApi(endpoint=endpoint).model_info(repo, files_metadata=True)
    files = _once(
        [f for f in _listed(info) if f.path.startswith(inside) and _chosen(f.path.removeprefix(inside))], inside
    )
    skipped = tuple(f"{inside}{component}/" for component in without)
    files = [file for file in files if not (file.path.startswith(skipped) and file.path.endswith(WEIGHTS))]
    indices = {inside + name for name in index_names}
    if not {file.path for file in files} & indices:
        raise WeightsError(
            "{repo} has no {names}; download the single file in it yourself and name it: -m FILE",
            repo=repo,
            names=Listed(index_names, "or"),
        )
    blobs = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}" / "blobs"
    missing = [file for file in files if file.digest and not (blobs / file.digest).is_file()]
    if missing:
        size = sum(file.size for file in missing) / GIGABYTE
        _stderr(say("fetching {repo} from {endpoint}: {size:.2f} GB", repo=repo, endpoint=endpoint, size=size))
    for file in missing:
        _download(endpoint, repo, str(info.sha), file, blobs / file.digest)
    # All blobs are in the cache now: the hub's client only links them into the snapshot folder.
    places = {file.path: Path(hf_hub_download(repo, file.path, endpoint=endpoint)) for file in files}
    folder = next(place.parent for path, place in places.items() if path in indices)
    absent = lacking(folder)
    if not set(absent) - {*without}:
        (folder / _whole(folder, without if absent else ())).write_text("", encoding="utf-8")
    return folder


def lacking(folder: Path) -> list[str]:
    """The components of a folder that have a config but lack weights, so that the download has to be repeated."""
    parts = [folder] if not (folder / INDEX_FILES[0]).is_file() else []
    parts += sorted(place for place in folder.iterdir() if place.is_dir())
    parts = [p for p in parts if (p / TEXT_ENCODER_FILES[0]).is_file() and not p.name.startswith(WEIGHTLESS)]
    names = {place.name: [file.name for file in place.iterdir()] for place in parts}
    return [name for name, files in names.items() if _lacks(files)]


def _lacks(names: Sequence[str]) -> bool:
    if any(name.endswith(WEIGHTS) for name in names) and not stored(names):
        return False  # weights under other names, such as OpenCLIP's
    return complete(names) is None


def _whole(snapshot: Path, without: Sequence[str] = ()) -> str:
    """The name of the empty file that marks a snapshot as complete, or complete but for the weights of some components;
    an interrupted download leaves a snapshot folder, too.
    """
    return "-".join((f".bimo-whole-{snapshot.name[:12]}", *(("without", *without) if without else ())))


def _listed(info: Any) -> Iterator[Remote]:
    for file in info.siblings or []:
        digest = file.lfs.sha256 if file.lfs else file.blob_id
        yield Remote(file.rfilename, int(file.size or 0), digest or "", bool(file.lfs))


def _chosen(path: str) -> bool:
    included = any(fnmatch.fnmatch(path, pattern) for pattern in FILE_PATTERNS)
    return included and not any(fnmatch.fnmatch(path, pattern) for pattern in UNWANTED)


def _once(files: Sequence[Remote], inside: str) -> list[Remote]:
    """Drops duplicate weights: pickles and variants where there are others, and single files at the top of a diffusers
    folder. ``inside`` is the common path prefix.
    """
    folders: dict[str, list[str]] = {}
    for file in files:
        folders.setdefault(file.path.rpartition("/")[0], []).append(PurePosixPath(file.path).name)
    paths = {f"{folder}/{name}".lstrip("/") for folder, names in folders.items() for name in needed(names)}
    if any(file.path == inside + INDEX_FILES[0] for file in files):
        paths -= {
            file.path for file in files if _at_top(file.path.removeprefix(inside)) and file.path.endswith(WEIGHTS)
        }
    return [file for file in files if file.path in paths]


def _at_top(path: str) -> bool:
    return "/" not in path


def _download(endpoint: str, repo: str, revision: str, file: Remote, place: Path) -> None:
    """Downloads one file, resuming an earlier attempt, and moves it to ``place`` if its hash is right."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f"{place.name}.bimo-part")
    url = hf_hub_url(repo, file.path, revision=revision, endpoint=endpoint)
    with part.open("ab") as target:
        offset = target.tell()
        if offset < file.size or not file.size:
            http_get(url, target, resume_size=offset, headers=build_hf_headers(), expected_size=file.size or None)
    digest = _digest(part, file.large)
    if digest != file.digest:
        part.unlink()
        raise WeightsError(
            "{path} of {repo} came with the hash {found}, published is {digest}; it was deleted, try again",
            path=file.path,
            repo=repo,
            found=digest,
            digest=file.digest,
        )
    part.replace(place)


def _digest(path: Path, large: bool) -> str:
    """SHA-256 of an LFS file; for others git's blob hash, SHA-1 over length and content."""
    total = hashlib.sha256() if large else hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            total.update(chunk)
    return total.hexdigest()


def _of_modelscope(repo: str, why: str, without: Sequence[str] = ()) -> Path:
    """Downloads a snapshot with ModelScope's client, which resumes and verifies by itself."""
    try:
        from modelscope import snapshot_download  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise WeightsError(
            "{repo} is on ModelScope (Hugging Face: {why}); pip install modelscope and try again, or "
            "download the repository elsewhere into one folder and name it with -m FOLDER",
            repo=repo,
            why=why,
        ) from None
    try:
        unwanted = [*UNWANTED, *(f"{component}/*{end}" for component in without for end in WEIGHTS)]
        folder = Path(snapshot_download(repo, allow_patterns=FILE_PATTERNS, ignore_patterns=[*unwanted, *VARIANTS]))
        if parts := [name for name in lacking(folder) if name not in without]:
            patterns = [f"{part}/*" for part in parts if (folder / part).is_dir()] or FILE_PATTERNS
            folder = Path(snapshot_download(repo, allow_patterns=patterns, ignore_patterns=unwanted))
        return folder
    # ModelScope's client, too, passes on the exceptions of its HTTP library.
    except Exception as error:
        raise _unreachable(f"{MODELSCOPE}{repo}", f"{type(error).__name__}: {str(error)[:200]}") from None


def _image_encoder_unreachable(repo: str, why: str) -> WeightsError:
    files = f"{TEXT_ENCODER_FILES[0]}, weights, tokenizer"
    return WeightsError(
        "cannot get the text encoder of {repo} ({why}); try again with a network (HF_ENDPOINT may name a "
        "mirror), or download it elsewhere ({files}): the text encoder into FOLDER/text_encoder, the "
        "pictures' into FOLDER/vision_encoder; then name that folder",
        repo=repo,
        why=why,
        files=files,
    )


def _unreachable(repo: str, why: str) -> WeightsError:
    return WeightsError(
        "cannot get the weights of {repo} ({why}); try again with a network (HF_ENDPOINT may name a "
        "mirror), or download the repository elsewhere ({index_files} and the folders unet, vae, "
        "text_encoder, tokenizer, scheduler ...) into one folder and name it with -m FOLDER",
        repo=repo,
        why=why,
        index_files=INDEX_FILES[0],
    )
