"""`bimo finetune`: fine-tunes a model on a folder of pictures."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from bimo.cli import inputs
from bimo.cli.engine_options import DEVICE_HELP
from bimo.core.errors import RequestError
from bimo.core.messages import Listed, say
from bimo.hub import registry

EXAMPLES = say(
    "Examples:\n\n  bimo finetune photos/ -m xiaomo --class 灯笼 --out run/\n\n  bimo draw 灯笼 --lora run/\n\n"
    "  bimo finetune photos/ -m taiyi-sd-zh --dreambooth '一只<我的>猫' --class 猫 --out run/ --plan\n\n"
    "  bimo finetune train/ more.tar*3 -m kolors --rank 32 --memory 12GB --device cuda --out run/\n\n"
    "  bimo finetune duck/ -m taiyi-sd-zh --embedding '<小黄鸭>' --class 鸭 --out run/"
)
MOST = 10_000_000


class Precision(StrEnum):
    """The precision of training."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Frozen(StrEnum):
    """The storage of frozen weights: `bimo.core.stage.Stage.frozen`."""

    bf16 = "bf16"
    fp16 = "fp16"
    int8 = "int8"
    fp8 = "fp8"
    nf4 = "nf4"


def finetune(
    pictures: Annotated[
        list[str], typer.Argument(help=say("pictures: a folder, a table, tars, data of bimo curate; PATH*3 weighs"))
    ],
    out: Annotated[Path, typer.Option(help=say("the folder of the run, which goes on where it stopped"))],
    model: Annotated[str, typer.Option("-m", "--model", help=say("the model"))] = registry.DEFAULT_MODEL,
    lora: Annotated[
        bool, typer.Option("--lora", help=say("learn a LoRA; so it is unless another way is named"))
    ] = False,
    full: Annotated[bool, typer.Option("--full", help=say("all of the denoisers learn"))] = False,
    dreambooth: Annotated[
        str | None, typer.Option(help=say("the pictures are of one subject, called so: '一只<我的>猫'"))
    ] = None,
    embedding: Annotated[
        str | None, typer.Option(help=say("learn a new word alone (textual inversion): '<小黄鸭>'"))
    ] = None,
    controlnet: Annotated[
        str | None,
        typer.Option(help=say("learn a ControlNet that sees: canny, softedge, or maps of that name beside the data")),
    ] = None,
    class_word: Annotated[
        str | None,
        typer.Option(
            "--class", help=say("what pictures without a caption show; what the subject or new word is one of")
        ),
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help=say("what is not to be forgotten: drawn before, learnt beside; repeatable"))
    ] = None,
    prior: Annotated[int, typer.Option(min=0, max=MOST, help=say("how many pictures of class and --keep"))] = 0,
    captioner: Annotated[
        str | None, typer.Option(help=say("who captions pictures: a model's folder, or an OpenAI-compatible address"))
    ] = None,
    captioner_model: Annotated[str | None, typer.Option(help=say("which model of that address"))] = None,
    rank: Annotated[int, typer.Option(min=0, max=1024, help=say("the rank of a LoRA"))] = 0,
    alpha: Annotated[float, typer.Option(min=0, help=say("its strength; as the rank unless given"))] = 0.0,
    dora: Annotated[bool, typer.Option("--dora", help=say("as DoRA"))] = False,
    vectors: Annotated[int, typer.Option(min=0, max=75, help=say("how many vectors a new word has"))] = 0,
    size: Annotated[str | None, typer.Option(help=say("size of pictures: WIDTHxHEIGHT, or a side"))] = None,
    steps: Annotated[int, typer.Option(min=0, max=MOST, help=say("the steps of each stage"))] = 0,
    lr: Annotated[float, typer.Option(min=0, help=say("the learning rate"))] = 0.0,
    batch: Annotated[int, typer.Option(min=0, max=65536, help=say("pictures a step"))] = 0,
    precision: Annotated[Precision | None, typer.Option(help=say("how products are worked out"))] = None,
    memory: Annotated[str, typer.Option(help=say("the most memory to take, for instance 12GB"))] = "",
    quantise: Annotated[
        Frozen | None,
        typer.Option("--quantise", "--quantize", help=say("how weights that do not learn are kept (QLoRA)")),
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(help=say("learn where it is white: alpha, the pictures' own, or maps of that name")),
    ] = None,
    compiled: Annotated[
        bool,
        typer.Option("--compile", help=say("have torch compile the blocks of the denoisers: minutes before step 1")),
    ] = False,
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help=say("kernels of convolutions as tensor cores read them (UNets)"))
    ] = False,
    exact: Annotated[
        bool | None,
        typer.Option(
            "--exact/--no-exact",
            help=say("on CUDA: deterministic kernels alone, or the fastest; unless said, deterministic ones if any"),
        ),
    ] = None,
    log_every: Annotated[
        int,
        typer.Option(min=0, max=MOST, help=say("after how many steps losses are read of a card, which waits for it")),
    ] = 0,
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, max=1024, help=say("how many threads"))] = None,
    seed: Annotated[int, typer.Option(min=0, help=say("another one: other rows and noise"))] = 0,
    sample: Annotated[list[str] | None, typer.Option(help=say("a prompt to draw while it learns; repeatable"))] = None,
    sample_every: Annotated[int, typer.Option(min=0, max=MOST, help=say("after so many steps each time"))] = 0,
    plan: Annotated[
        bool, typer.Option("--plan", help=say("only say what would be done, by a probe of a few steps"))
    ] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help=say("set a value of the recipe: path=value"))
    ] = None,
    from_here: Annotated[
        bool, typer.Option("--from-here", help=say("a begun run has new settings from its step on"))
    ] = False,
    accept_new_data: Annotated[
        bool, typer.Option("--accept-new-data", help=say("go on with other data, and put that on record"))
    ] = False,
) -> None:
    """Fine-tunes a model on pictures; the folder it prints is what bimo draw --lora takes."""
    ways = {"--lora": lora, "--full": full, "--embedding": embedding, "--controlnet": controlnet}
    chosen_ways = [option for option, chosen in ways.items() if chosen]
    if len(chosen_ways) > 1 or (dreambooth and chosen_ways[:1] in (["--embedding"], ["--controlnet"])):
        others = ["--dreambooth"] * (dreambooth is not None)
        raise RequestError("{listed} contradict each other; one of them learns", listed=Listed([*chosen_ways, *others]))
    from bimo.cli.finetune_run import run_of

    way = chosen_ways[0][2:] if chosen_ways else "lora"
    options: dict[str, Any] = {"model": model, "way": way, "prompt": dreambooth or "", "word": embedding or ""}
    options |= {"control": controlnet or "", "class_word": class_word or "", "keep": tuple(keep or ()), "prior": prior}
    options |= {
        "rank": rank,
        "alpha": alpha,
        "dora": dora,
        "vectors": vectors,
        "steps": steps,
        "lr": lr,
        "batch": batch,
    }
    options |= {"size": None if size is None else inputs.size_of(size), "precision": precision and precision.value}
    options |= {"samples": tuple(sample or ()), "sample_every": sample_every}
    options |= {"quantise": quantise and quantise.value, "mask": mask or ""}
    options |= {"compiled": compiled, "channels_last": channels_last, "exact": exact, "log_every": log_every}
    run = run_of(
        options, pictures, out, memory=memory, device=device, captioner=captioner, captioner_model=captioner_model or ""
    )
    if plan:
        run.plan(seed, threads, settings or [])
        return
    run.train(seed, threads, settings or [], from_here=from_here, accept_new_data=accept_new_data)
    print(out)
