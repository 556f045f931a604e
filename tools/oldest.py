"""Tests with the oldest versions that pyproject.toml allows: ``make test-oldest``.

They are installed into a folder apart, which goes before everything else on PYTHONPATH. torch stays the one that is
installed: its old wheels bring CUDA. What a package asks for in one exact version comes with it.
"""

import hashlib
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEPT = ("torch",)
RECIPES = "tests/recipes/test_recipes.py::test_"
#: Every recipe is saved, read and draws; what reads configs, weights, tokenizers and the caches of hubs; pictures of
#: several families are those of diffusers.
TESTS = (
    *(f"{RECIPES}it_reads_back_equal", f"{RECIPES}saved_and_read_it_is_the_same_and_draws_the_same"),
    *("tests/hub", "tests/models/test_diffusers_folder.py", "tests/models/test_language_model.py"),
    *("tests/models/test_flow_transformers.py", "tests/models/test_hunyuan_dit.py", "tests/parity/test_flow.py"),
    *("tests/parity/test_stable_diffusion.py", "tests/parity/test_qwen_image_edit.py"),
    *("tests/parity/test_clip_families.py", "tests/parity/test_z_image_omni.py", "tests/parity/test_qwen_image_21.py"),
)
_BOUND = re.compile(r"([\w.-]+)>=([\w.]+)")
_EXACT = re.compile(r"([\w.-]+)\s*\(?==([\w.]+)\)?\s*(?:;|$)")


def bounds() -> dict[str, str]:
    """The packages that drawing needs, and the lower bound of each."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    found = [match.groups() for each in wanted if (match := _BOUND.fullmatch(each))]
    if len(found) != len(wanted):
        raise SystemExit(f"a dependency of pyproject.toml is not NAME>=VERSION: {wanted}")
    return {name: version for name, version in found if name not in KEPT}


def exact(folder: Path) -> dict[str, str]:
    """What the packages in a folder ask for in one exact version."""
    every = (each for one in distributions(path=[str(folder)]) for each in one.requires or ())
    return dict(match.groups() for each in every if "extra" not in each and (match := _EXACT.match(each)))


def install(folder: Path, wanted: dict[str, str]) -> None:
    """Installs packages without what they depend on; those that are there already stay."""
    there = {plain(one.name) for one in distributions(path=[str(folder)])}
    lacking = [f"{name}=={version}" for name, version in wanted.items() if plain(name) not in there]
    if lacking:
        command = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps")
        subprocess.run([*command, "--target", str(folder), *lacking], check=True)


def plain(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> int:
    """Installs, says which versions there are, runs the tests and draws; the status is that of what failed."""
    wanted = bounds()
    # Other bounds have another folder: pip leaves what it replaces there half in place.
    folder = Path(sys.argv[1]).resolve() / hashlib.sha256(repr(wanted).encode()).hexdigest()[:12]
    install(folder, wanted)
    install(folder, exact(folder))
    print("\n".join(sorted(f"{one.name} {one.version}" for one in distributions(path=[str(folder)]))), flush=True)
    environment = os.environ | {"PYTHONPATH": str(folder)}
    # Old versions say of one another what is deprecated; an error is that of the pinned ones alone.
    tests = ["pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore::DeprecationWarning", *(sys.argv[2:] or TESTS)]
    drawing = ["bimo", "draw", "红苹果", "--seed", "1", "-o", str(folder / "apple.png")]
    commands = ([sys.executable, "-m", *each] for each in (tests, drawing))
    return max(subprocess.run(each, cwd=ROOT, env=environment, check=False).returncode for each in commands)


if __name__ == "__main__":
    sys.exit(main())
