"""How what is missing is installed: a command that can be typed as it is."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def installing(extra: str) -> str:
    """The command that installs an extra: from the checkout where there is one, else its libraries by their names,
    as no index of packages has bimo.
    """
    pip = f"{shlex.quote(sys.executable)} -m pip install"
    if (CHECKOUT / "pyproject.toml").is_file():
        return f"{pip} -e {shlex.quote(f'{CHECKOUT}[{extra}]')} -c {shlex.quote(str(CHECKOUT / 'constraints.txt'))}"
    import importlib.metadata  # a tenth of what `bimo --help` takes

    wanted = [line.partition(";") for line in importlib.metadata.requires("bimo") or ()]
    names = [name.strip() for name, _, mark in wanted if re.search(rf"extra == ['\"]{extra}['\"]", mark)]
    return f"{pip} {' '.join(map(shlex.quote, names))}"


def installed_version() -> str:
    """The version that is installed; looked up when asked for, as it is seldom."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("bimo")
    except PackageNotFoundError:
        return "0+not.installed"
