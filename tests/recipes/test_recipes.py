"""Every recipe of the package: it is data that reads back equal, and at toy width it saves, draws and trains."""

from __future__ import annotations

import fnmatch
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from bimo.core.errors import RequestError
from bimo.core.part import dumps, loads
from bimo.core.recipe import Recipe
from bimo.core.tensors import TextEncoding
from bimo.data.loader import Pictures
from bimo.diffusion.image_inputs import to_image
from bimo.diffusion.preparation import prepare
from bimo.diffusion.system import System
from bimo.hub.registry import recipes
from bimo.models.clip.scoring import similarity
from bimo.training import snapshots
from bimo.training.adapters.lora_stage import Lora
from bimo.training.distributed.processes import Processes
from bimo.training.objectives.distil import Distil
from bimo.training.objectives.online_rewards import OnlineRewards
from bimo.training.stage_trainer import StageTrainer
from bimo.training.trainer import Trainer
from tests.support.drawing import draw, same_weights, within_one
from tests.support.one_device import ELSEWHERE, OneDevice, counted
from tests.support.steps import stepped
from tests.support.tiny_systems import TEXT, give_words, tiny_system

SIZE = (128, 128)
STEPS = 3
#: Whose denoiser or objective makes tensors as long as numbers on the device say.
READ_BACK = (
    *("glm-image", "hunyuan-image-2.1", "hunyuan-image-2.1-distilled", "hunyuan-image-2.1-refined"),
    *(
        "longcat-image-edit",
        "lumina-image-2",
        "qwen-image-2.1",
        "qwen-image-edit",
        "qwen-image-edit-2509",
        "qwen-image-edit-2511",
        "skypaint",
    ),
)
#: Whose sampler asks the device for numbers at each step of a drawing.
READS_STEPS = ("hunyuan-dit-1.2-control",)
#: Of which a whole run is made on a device without contents: one of each kind of denoiser, cascade and adapter.
WHOLE = (
    *("composer", "damo-cascade-xglm", "hunyuan-dit-1.2-control", "kolors-inpainting", "qwen-image"),
    *("taiyi-clip-huge", "wukong-huahua-lora", "xiaomo"),
)


def one_of_each(*fields: str) -> pytest.MarkDecorator:
    """Asks for the recipes that differ in these fields at toy width: where several are the same, the first."""
    names: dict[str, str] = {}
    for name, recipe in sorted(recipes().items()):
        tiny = recipe.tiny()
        names.setdefault(repr([getattr(tiny, field) for field in fields]), name)
    return pytest.mark.parametrize("recipe", names.values(), indirect=True)


ARCHITECTURE = ("text_encoders", "text_fusion", "vision", "levels")


@pytest.fixture(scope="module", params=sorted(recipes()))
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return recipes()[request.param]


@pytest.fixture(scope="module")
def system(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> System:
    """The recipe at toy width, with made-up weights and words."""
    return tiny_system(recipe, tmp_path_factory.mktemp(recipe.name))


def test_it_reads_back_equal(recipe: Recipe) -> None:
    for wanted in (recipe, recipe.tiny()):
        assert loads(dumps(wanted)) == wanted


@pytest.mark.slow
@one_of_each(*ARCHITECTURE, "request")
def test_saved_and_read_it_is_the_same_and_draws_the_same(system: System, tmp_path: Path) -> None:
    system.save(tmp_path / "saved")
    again = System.read(tmp_path / "saved")
    assert again.recipe == system.recipe
    same_weights(system, again)
    if not system.recipe.levels:
        scores = [similarity(one, [TEXT, "a red cat"], [Image.new("RGB", (40, 30), "red")]) for one in (system, again)]
        assert torch.equal(*scores)
        with pytest.raises(RequestError):
            draw(system, TEXT)
        return
    # Where a system knows no other sizes, the last: the smallest sides come first and last.
    size = system.recipe.request.sizes[-1] if system.recipe.request.sizes else SIZE
    request = {"text": TEXT, "size": size, "seed": 1, "steps": 2}
    pictures = [draw(one, request)[0].image for one in (system, again)]
    assert pictures[0].size == size
    within_one(*pictures)


@pytest.mark.slow
@one_of_each(*ARCHITECTURE, "stages")
def test_every_stage_trains_what_it_names_alone_and_learns_a_batch(
    recipe: Recipe, system: System, tiny_shards: Path, tmp_path: Path
) -> None:
    run = begun(recipe, system, tiny_shards, tmp_path / "run", lr=1e-3, lr_schedule="constant", lr_overrides=())
    run._words()
    for number, stage in enumerate(run.recipe.stages):
        run.place.stage = number
        before = {name: value.clone() for name, value in run.system.state_dict().items()}
        learning = run._stage_trainer(stage, None)
        run._modes()
        losses = []
        for _ in range(STEPS):
            # The same rows, noise and times again and again.
            run.place.step = 0
            losses.append(stepped(run, stage, learning))
        run._left(stage, learning)
        after = run.system.state_dict()
        assert after.keys() == before.keys()
        moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
        merged = isinstance(stage.adapter, Lora) and stage.adapter.merge
        globs = [*stage.train, *(f"{glob}.weight" for glob in (stage.adapter.targets if merged else ()))]
        # What only training needs is no part of the system.
        own = [glob for glob in globs if fnmatch.filter(before, glob)]
        assert own or stage.adapter
        assert all(fnmatch.filter(moved, glob) for glob in own), stage.name
        assert moved <= {name for glob in own for name in fnmatch.filter(before, glob)}, stage.name
        assert losses[-1] < losses[0], stage.name
    run.place.stage = len(run.recipe.stages)
    run.everything()
    assert System.read(run.out).recipe.stages == run.recipe.stages


@pytest.mark.slow
@one_of_each(*ARCHITECTURE, "stages")
def test_a_caption_is_read_in_training_as_in_drawing(
    recipe: Recipe, system: System, tiny_shards: Path, tmp_path: Path
) -> None:
    if recipe.name == "viscpm-paint":
        pytest.skip("its padding is seen, up to the longest text of those read together, as its publisher draws")
    run = begun(
        recipe, system, tiny_shards, tmp_path / "run", caption_dropout=0.0, encoder_dropout=(), joint_dropout=0.0
    )
    run._words()
    for number, stage in enumerate(run.recipe.stages):
        run.place.stage = number
        if getattr(stage.objective, "sees", "") != "latents":
            continue
        batches = run._stage_trainer(stage, None).batches
        batches.prepared()
        run.system.eval()
        with torch.no_grad():
            inputs = batches.inputs(0, torch.Generator().manual_seed(0))
        assert inputs.batch is not None
        size = run.recipe.request.sizes[-1] if run.recipe.request.sizes else SIZE
        for row, text in enumerate(inputs.texts[:2]):
            shown = {name: to_image(map_[row]) for name, map_ in inputs.batch.maps.items() if name == "image"}
            drawn = prepare(run.system, {"text": text, "size": size, **shown})
            for learnt, given in zip(inputs.batch.encodings, drawn.prompt, strict=True):
                alike(learnt, row, given)
        return


def alike(learnt: TextEncoding, row: int, given: TextEncoding) -> None:
    """Asserts that a row of a batch tells a denoiser what a prompt by itself does: the same tokens, as many of them."""
    mask = torch.ones(learnt.tokens.shape[:2]) if learnt.mask is None else learnt.mask
    own = torch.ones(given.tokens.shape[:2]) if given.mask is None else given.mask
    assert (learnt.mask is None) == (given.mask is None)
    torch.testing.assert_close(learnt.tokens[row][mask[row] > 0], given.tokens[0][own[0] > 0], rtol=1e-4, atol=1e-4)
    if given.pooled is not None:
        assert learnt.pooled is not None
        torch.testing.assert_close(learnt.pooled[row], given.pooled[0], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@one_of_each(*ARCHITECTURE, "stages")
def test_a_step_of_every_stage_is_all_on_its_device(
    recipe: Recipe, system: System, tiny_shards: Path, tmp_path: Path
) -> None:
    if recipe.name in READ_BACK:
        pytest.skip("shapes of its step are read back from the device, and here there are no numbers")
    run = begun(recipe, system, tiny_shards, tmp_path / "run")
    run._words()
    for number, stage in enumerate(run.recipe.stages):
        if isinstance(stage.objective, OnlineRewards) or getattr(stage.objective, "times", None):
            continue  # it reads back what it draws, or how many times fall within an expert's range
        run.place.stage = number
        # What is encoded once is encoded where there are numbers.
        # Narrower products are a GPU's or a processor's, and this device is neither.
        learning = run._stage_trainer(replace(stage, precision="fp32"), None)
        batches, blank = learning.batches, learning.batches.blank
        if learning.objective.sees == "latents":
            batches.prepared()
        for module in (run.system, blank.extra, blank.teacher):
            if module is not None:
                module.to(ELSEWHERE)
        batches.processes = Processes(device=ELSEWHERE)
        with counted(), OneDevice():
            there = StageTrainer(blank.stage, batches, learning.objective, list(learning.parameters), None)
            run._modes()
            loss, _ = there._loss(0, torch.Generator().manual_seed(0))
            loss.backward()
        assert loss.device == ELSEWHERE
        learnt = [p.grad for p in there.parameters.values() if p.grad is not None]
        assert learnt, stage.name
        assert {grad.device for grad in learnt} == {ELSEWHERE}, stage.name
        run.system = System(run.recipe)
        run._words()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", WHOLE, indirect=True)
def test_a_run_is_all_on_its_device(
    recipe: Recipe, system: System, tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its first encoding over what is drawn while it learns to the file of its weights, of the last stage: what
    the others do besides, a step of each shows.
    """
    made = begun(
        recipe,
        system,
        tiny_shards,
        tmp_path / "run",
        steps=1,
        precision="fp32",
        max_unknown=1.0,
        max_truncated=1.0,
    )
    monkeypatch.setattr(snapshots, "SAMPLE_STEPS", 3)
    stages = made.recipe.stages[-1:]
    draws = bool(recipe.levels) and stages[0].level == recipe.levels[-1].name and recipe.name not in READS_STEPS
    wanted = replace(made.recipe, stages=stages, prompts=(TEXT,) if draws else ())
    with counted(), OneDevice():
        run = Trainer(wanted, made.pictures, made.out, teacher=made.teacher, processes=Processes(device=ELSEWHERE))
        run.everything()
    assert System.read(made.out).recipe.stages == wanted.stages
    assert (made.out / "state.pt").is_file()
    assert bool(list(made.out.glob("sheets/*.png"))) == draws


def test_a_tensor_left_on_the_processor_is_found() -> None:
    there, here = torch.zeros(2, 2, device=ELSEWHERE), torch.zeros(2, 2)
    with counted(), OneDevice():
        assert (there + 2.0 * here.to(ELSEWHERE)).device == ELSEWHERE
        assert (there * here.sum()).device == ELSEWHERE
        assert there[here[0].long()].device == ELSEWHERE
        for wrong in (lambda: there + here, lambda: here @ there, lambda: torch.cat([there, here])):
            with pytest.raises(AssertionError, match="on cpu"):
                wrong()


def begun(recipe: Recipe, system: System, shards: Path, out: Path, **settings: Any) -> Trainer:
    """A run of the recipe at toy width with other settings of its stages, and with words and teachers."""
    tiny = recipe.tiny()
    for index, tower in enumerate(system.text_encoders):
        give_words(tower, out / f"words.{index}")
    taught = [stage.objective for stage in tiny.stages if isinstance(stage.objective, Distil)]
    teacher = None
    if taught:
        teacher = System(Recipe(name="teacher", text_encoders=(taught[0].teacher,)))
        give_words(teacher.text_encoders[0], out / "teacher")
        teacher.text_encoders[0].load_tokenizer(out / "teacher")
    stages = tuple(replace(stage, **settings) for stage in tiny.stages)
    torch.set_num_threads(1)
    return Trainer(replace(tiny, stages=stages, prompts=()), Pictures(shards), out, teacher=teacher)
