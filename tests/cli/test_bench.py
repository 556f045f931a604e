"""What `bimo bench` compares is the same picture."""

import importlib.util
from pathlib import Path

import numpy

import bimo
from bimo.cli.work import BENCH


def test_the_plain_loop_draws_the_same_picture(tiny_folder: Path) -> None:
    spec = importlib.util.spec_from_file_location("bench_xiaomo", BENCH)
    assert spec is not None
    assert spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    engine = bimo.load(tiny_folder)
    assert bench.like_xiaomo(engine.recipe)
    drawn, plain = (
        numpy.asarray(image).astype(int) for image in (bench.drawn(engine, 3), bench.plain(engine.system, 3))
    )
    assert numpy.abs(drawn - plain).max() <= 1
