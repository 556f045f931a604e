"""Whatever a message, a help text or a page of documentation tells people to type exists: every command with its
options and values, every target of make, every extra of pip, every variable of the environment.
"""

import ast
import io
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import typer
from babel.messages.pofile import read_po

from bimo.cli.commands import command_line
from bimo.cli.curate import curation
from bimo.cli.main import commanded
from bimo.core.errors import BimoError
from bimo.core.messages import LOCALE
from bimo.diffusion import sampler_names
from bimo.diffusion.step_cache import StepCacheSetting
from bimo.engine.devices import KINDS
from bimo.engine.processor import AUTO, ENGINES
from bimo.hub import registry
from bimo.prompts.styles import style_named
from bimo.training.tuning import RATES
from tests.support.checkout import ROOT

CATALOGUE = LOCALE / "zh" / "LC_MESSAGES" / "bimo.po"
COMMAND: Any = commanded(typer.main.get_command(command_line()))
#: Options of other programs that texts of ours name.
OTHERS = {
    *("--nproc-per-node", "--config_file"),  # torchrun, accelerate
    "--resolution",  # of kohya-ss and of diffusers
    *(
        "--depth",
        "--numstat",
        "--pack-destination",
        "--silent",
        "--index-url",
        "--extra-index-url",
        "--border-color-primary",
    ),
    *(o for p in (ROOT / "bench").glob("*.py") for o in re.findall(r"add_argument\(\s*\"(--[a-z-]+)\"", p.read_text())),
}
#: Packages that messages name beside our own extras.
PACKAGES = {"modelscope", "tensorboard", "gradio", "pre-commit", "bitsandbytes"}
#: Options whose values are words of ours, which the parser takes for any text: what reads them.
READERS: dict[str, Callable[[str], object]] = {
    "--sampler": lambda value: sampler_names.sampler_named(value, sampler_names.SAMPLERS),
    "--schedule": sampler_names.schedule_named,
    "--spacing": sampler_names.SPACINGS.index,
    "--style": style_named,
    "--tune": list(RATES).index,
    "--device": lambda value: ("auto", *KINDS).index(value.partition(":")[0]),
    "--engine": (AUTO, *ENGINES).index,
    "--step-cache": StepCacheSetting.named,
    "--on": ["local", "ray"].index,
    "--recipe": curation,
}
#: What stands for a value that is only known when it is said.
UNKNOWN = "\N{REPLACEMENT CHARACTER}"
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*(?!\w*_)")
#: "bimo" and a word after it: a command where it is written as one, else perhaps a sentence about bimo.
INVOCATION = re.compile(
    r"(?:(^|`|run |with |运行 |请用 )|(?<![\w./-]))"
    r"bimo ((?:data |keys )?[a-z]+)(?![\w.])((?:(?!bimo [a-z])[^\n；。;）)，`])*)"
)
#: Words after an option that are no value of it.
PROSE = {
    "and",
    "or",
    "as",
    "with",
    "is",
    "to",
    "for",
    "alone",
    "of",
    "on",
    "says",
    "first",
    "may",
    "will",
    "chooses",
    "out",
}


def commands(command: Any = COMMAND, name: str = "") -> dict[str, Any]:
    """Every command by what is typed after `bimo`."""
    found = {}
    for below, inner in getattr(command, "commands", {}).items():
        found |= {f"{name}{below}": inner} | commands(inner, f"{name}{below} ")
    return found


COMMANDS = commands()
UsageError: Any = typer.BadParameter.__base__


def parameters(command: Any) -> dict[str, Any]:
    return {name: parameter for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


ALL = {"--help"} | {name for command in (COMMAND, *COMMANDS.values()) for name in parameters(command)}


@cache
def texts() -> tuple[tuple[str, str], ...]:
    """(where, text): every string of the package with what is only known later as ``UNKNOWN``, each of its sentences in
    Chinese, every page.
    """
    return tuple(_texts())


def _texts() -> Iterator[tuple[str, str]]:
    for message in read_po(io.BytesIO(CATALOGUE.read_bytes())):
        yield f"{CATALOGUE.name}:{message.lineno}", str(message.string)
    for path in sorted((ROOT / "bimo").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        name, inside = path.relative_to(ROOT), set[int]()
        # Breadth first: a formatted string comes before its parts.
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                inside |= {id(part) for part in node.values}
                parts = [str(p.value) if isinstance(p, ast.Constant) else UNKNOWN for p in node.values]
                yield f"{name}:{node.lineno}", "".join(parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
                yield f"{name}:{node.lineno}", node.value
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*/*.md"), *ROOT.glob("bimo/xiaomo/weights/*.md")]
    # What was called otherwise once is for the change log alone to name.
    for path in (page for page in pages if page.name != "CHANGELOG.md"):
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
            yield f"{path.relative_to(ROOT)}:{number}", line


def untypeable(text: str) -> Iterator[str]:
    """What a text tells people to type and nothing takes."""
    for option in OPTION.findall(text):
        if option not in ALL | OTHERS:
            yield f"there is no option {option}"
    for mark, name, rest in INVOCATION.findall(text):
        command = COMMANDS.get(name, COMMANDS.get(name.partition(" ")[0]))
        if command is None or (" " in name and name not in COMMANDS):
            if mark or " " in name:
                yield f"there is no command bimo {name}"
        else:
            yield from wrong_options(f"bimo {name}", command, rest)
    for option, value in re.findall(rf"({OPTION.pattern})[ =]([a-z0-9_.]+)", text):
        if value not in PROSE and not takes(option, value):
            yield f"{option} takes no {value}"
    for target in re.findall(r"(?<![\w-])make ([a-z]+)(?=[`\s\]）)，。,.;；\"']|$)", text):
        if ("`make" in text or text.lstrip().startswith("make ")) and target not in targets():
            yield f"there is no make {target}"
    for extra in re.findall(r"pip install[^\n]*?\[([\w,]+)\]", text):
        for one in extra.split(","):
            if one not in extras():
                yield f"there is no extra {one}"
    for name in re.findall(r"pip install (?!-)['\"]?([\w-]+)", text):
        if name not in PACKAGES:
            yield f"no index of packages has {name}"


def takes(option: str, value: str) -> bool:
    """Whether one of the commands that have an option reads the value; flags take none, and none is wrong."""
    if option in READERS and value[0] != ".":
        try:
            READERS[option](value)
        except (BimoError, ValueError):
            return False
    having = [(c, parameters(c)[option]) for c in COMMANDS.values() if option in parameters(c)]
    for command, parameter in having:
        try:
            command.make_context("bimo", [option, value])
        except typer.BadParameter as error:
            # What is given is read first; what is missing then is another matter.
            if getattr(error, "param", None) is parameter:
                continue
        return True
    return not having


def wrong_options(said: str, command: Any, rest: str) -> Iterator[str]:
    known = {**parameters(command), **parameters(COMMAND)}
    for option in re.findall(r"(?<![\w-])(--[a-z][a-z0-9-]*|-[a-zA-Z](?![\w-]))", rest):
        if option not in known and option not in ("--help", "-h"):
            yield f"{said} has no option {option}"


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))


def extras() -> set[str]:
    return set(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"])


@pytest.mark.slow
def test_whatever_is_suggested_can_be_typed() -> None:
    assert [f"{where}: {wrong} ({text[:90]!r})" for where, text in texts() for wrong in untypeable(text)] == []


def lines() -> Iterator[tuple[str, str]]:
    """(where, `bimo ...`): the command lines of examples in help, in blocks of code, between backticks."""
    fenced = False
    for where, text in texts():
        if ".md:" not in where:
            own = re.findall(r"^  (bimo [a-z].*?)(?:（列.*|（CC.*|  \(.*)?$", text, flags=re.MULTILINE)
        else:
            fenced ^= text.startswith("```")
            own = re.findall(r"^(bimo [a-z].*)$", text) if fenced else re.findall(r"`(bimo [a-z][^`]*)`", text)
        yield from ((where, line) for line in own if not re.search(rf"[{UNKNOWN}…]|\.\.\.", line))


def misread(where: str, line: str) -> str | None:
    """What is wrong with an example: a command, option or value that there is not, a model that nothing has."""
    words = shlex.split(line, comments=True)[1:]
    command = COMMAND
    while hasattr(command, "commands"):
        name = words.pop(0)
        if name not in command.commands:
            return f"no command {name}"
        command = command.commands[name]
    try:
        given = command.make_context("bimo", words).params
    except UsageError as error:
        # Within a sentence a command may be named without all that it needs.
        return None if type(error).__name__ == "MissingParameter" and ".md" in where else str(error)
    model = given.get("model")
    systems = {
        *(model if isinstance(model, list) else [model]),
        # A key is named as its owner likes.
        None if "keys" in line.split() else given.get("name"),
        None if command is COMMANDS["curate"] else given.get("recipe"),
    }
    named = {str(one) for one in systems if one is not None and re.fullmatch("[a-z0-9-]+", str(one))}
    unknown = named - {*registry.listed()}
    return f"no model {unknown}" if unknown else None


@pytest.mark.slow
def test_every_example_is_read_by_its_command() -> None:
    examples = [*lines()]
    assert len(examples) > 400
    wrong = [(where, line, misread(where, line)) for where, line in examples]
    assert [one for one in wrong if one[2]] == []


@pytest.mark.parametrize(
    "wrong",
    ["bimo darw 猫", "bimo draw 猫 --stepz 3", "bimo draw 猫 --steps many", "bimo draw 猫 -m kolorz", "bimo keys ad"],
)
def test_an_example_that_is_not_read_is_found(wrong: str) -> None:
    assert misread("README.md:1", wrong)


def variables() -> set[str]:
    """Variables that the code reads: named in it where it is no message."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "bimo").rglob("*.py"))
    return set(re.findall(r"""["'](_?BIMO_[A-Z_]+)["']""", source))


@pytest.mark.slow
def test_every_variable_that_is_named_is_read() -> None:
    named = {name for _, text in texts() for name in re.findall(r"(?<!\w)BIMO_[A-Z]+(?:_[A-Z]+)*", text)}
    assert named <= variables()
    assert "BIMO_LANGUAGE" in named


@pytest.mark.parametrize(
    "wrong",
    [
        "draw again with --dtype float32",
        "it goes with a model: -m MODEL --adapter FILE",
        "run bimo darw",
        "`bimo liste`",
        "bimo list --seed 1",
        "pip install 'bimo[data]'",
        "pip install -e '.[everything]'",
        "`make drawing`",
        "run bimo data folders x y",
        "bimo draw -z",
        "`bimo draw 猫 -q`",
        "--sampler eulr",
        "--schedule kerras",
        "--spacing traling",
        "--style watercolr",
        "--tune lorra",
        "--device gpu",
        "--recipe wukongg",
    ],
)
def test_what_cannot_be_typed_is_found(wrong: str) -> None:
    assert list(untypeable(wrong))
