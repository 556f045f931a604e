"""The order of jobs, by arithmetic alone: short ones sooner, and nobody longer than in order of arrival."""

import random
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from bimo.serve.fairness import Fairness, unguided
from bimo.serve.jobs import Order

STEP = 0.1
SHORT = 10


@dataclass(eq=False)
class Task:
    """A job of so many steps, and what it waited in the end."""

    order: Order
    left: int
    arrived: float = 0.0
    charged: float = 0.0
    waited: float = 0.0


def tasks(count: int, seed: int, key: str = "a", load: float = 1.5, **fields: Any) -> list[Task]:
    """Jobs of 10 or 40 steps that come at random, faster than they can be drawn."""
    rng, at, made = random.Random(seed), 0.0, list[Task]()
    for number in range(count):
        steps = SHORT if rng.random() < 0.7 else 40
        made.append(Task(Order(f"{key}{number}", "m", {}, key=key, created=at, **fields), steps))
        at += rng.expovariate(load / (19 * STEP))
    return made


def drawn(
    coming: list[Task], in_order: bool, slow: Callable[[int, Task], float] = lambda number, task: 1.0
) -> list[Task]:
    """The jobs in the order of their ends, by `Fairness` or in order of arrival; step ``number`` of all of a kind takes
    ``slow`` times as long as usual.
    """
    fairness, now, present, ended = Fairness(), 0.0, list[Task](), list[Task]()
    coming = sorted(coming, key=lambda task: task.order.created)
    steps: Counter[object] = Counter()

    def seconds(task: Task, count: int) -> float:
        return fairness.seconds(kind(task), task.order, count)

    while coming or present:
        while coming and coming[0].order.created <= now:
            task = coming.pop(0)
            task.arrived = fairness.arrived(task.order.key, (one.order.key for one in present))
            present.append(task)
        if not present:
            now = coming[0].order.created
            continue
        ranked = fairness.ranked(present, lambda task: seconds(task, task.left), lambda task: seconds(task, 1))
        task = present[0] if in_order else ranked[0]
        took = STEP * slow(steps[kind(task)], task)
        steps[kind(task)] += 1
        now, task.left = now + took, task.left - 1
        fairness.charge(task, took)
        fairness.learn(kind(task), took)
        if not task.left:
            fairness.ended(task)
            present.remove(task)
            task.waited = now - task.order.created
            ended.append(task)
    return ended


def kind(task: Task) -> object:
    """What steps take equally long by."""
    return task.order.values.get("size"), unguided(task.order)


@pytest.mark.parametrize("seed", range(8))
def test_short_jobs_are_sooner_and_the_longest_wait_is_no_longer(seed: int) -> None:
    ours, theirs = drawn(tasks(40, seed), False), drawn(tasks(40, seed), True)
    waits, before = ([task.waited for task in way] for way in (ours, theirs))
    # A job that arrives within a step waits for its end.
    assert max(waits) <= max(before) + STEP + 1e-9
    assert sum(waits) < sum(before)


@pytest.mark.parametrize("seed", range(8))
def test_estimates_that_prove_wrong_keep_nobody_waiting(seed: int) -> None:
    """The first steps of each size are slow, and other load on the machine makes some of them slow later."""

    def made(in_order: bool) -> float:
        rng, noise = random.Random(seed), random.Random(seed)
        coming = tasks(30, seed, load=2.0)
        for task in coming:
            values = {"size": rng.choice([(64, 64), (96, 64), (96, 96)]), "guidance": rng.choice([1.0, 4.0, 4.0])}
            task.order = replace(task.order, values=values)

        def slow(number: int, task: Task) -> float:
            once = 6.0 if number == 0 else 1.0 + 0.3 * abs(noise.gauss(0, 1))
            width, height = task.order.values["size"]
            return once * width * height / 64**2 * (0.55 if unguided(task.order) else 1.0)

        return max(task.waited for task in drawn(coming, in_order, slow))

    assert made(False) <= 1.05 * made(True)


def test_most_short_jobs_wait_less_than_half_as_long() -> None:
    def middles(in_order: bool) -> list[float]:
        found: list[float] = []
        for seed in range(7):
            coming = tasks(40, seed, load=2.5)
            short = {task.order.id for task in coming if task.left == SHORT}
            found.append(statistics.median(t.waited for t in drawn(coming, in_order) if t.order.id in short))
        return found

    ratios = [ours / theirs for ours, theirs in zip(middles(False), middles(True), strict=True)]
    assert statistics.median(ratios) < 0.5


def test_keys_share_the_machine_and_priority_is_within_a_key() -> None:
    many, few = tasks(20, 1, "many", load=100), tasks(2, 2, "few", load=100)
    ended = drawn([*many, *few], False)
    assert {task.order.key for task in ended[:6]} == {"many", "few"}
    urgent = tasks(3, 3, "many", load=100, priority=1)
    ended = drawn([*tasks(20, 1, "many", load=100), *urgent], False)
    assert [task.order.priority for task in ended].index(1) <= 3
    assert sum(task.order.priority for task in ended[:4]) >= 2
