"""What the rebound rule reaches, on the virtual time of simulation.py: no wall clock is read, and a
busy machine changes nothing. The ADR has the full tables; here are the corners, quick enough for
every run.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType


def load() -> ModuleType:
    path = Path(__file__).with_name("simulation.py")
    spec = importlib.util.spec_from_file_location("batching_simulation", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


sim = load()
WORLDS = sim.WORLDS
NARROW = ("4 + 0.25n", "10 + 0.1n")
SECONDS = 4.0


def thresholds(clients: int) -> list[int]:
    """Where the best one lies, or a neighbour as good."""
    return sorted({1, max(1, clients // 2), max(1, clients - 2), max(1, clients - 1), clients, 32})


@pytest.mark.parametrize("clients", sim.CLIENTS)
@pytest.mark.parametrize("name", NARROW)
def test_a_closed_loop_reaches_97_percent_of_an_oracle_that_knows_n(
    name: str, clients: int
) -> None:
    world = WORLDS[name]
    best = sim.oracle(world, clients, thresholds(clients), SECONDS)
    ours = sim.closed_loop(world, sim.Real(world), clients, seconds=SECONDS)
    assert ours >= 0.97 * best


@pytest.mark.parametrize("clients", [8, 24, 32])
@pytest.mark.parametrize("name", [f"{name}, wide" for name in NARROW])
def test_a_wide_round_trip_still_reaches_94_percent(name: str, clients: int) -> None:
    world = WORLDS[name]
    best = sim.oracle(world, clients, thresholds(clients), SECONDS)
    ours = sim.closed_loop(world, sim.Real(world), clients, seconds=SECONDS)
    assert ours >= 0.94 * best


@pytest.mark.parametrize(("clients", "loop_us"), [(32, 90), (24, 120)])
def test_a_loop_so_slow_that_the_burst_takes_most_of_the_fixed_cost_reaches_99_percent(
    clients: int, loop_us: int
) -> None:
    world = sim.World(4e-3, 0.25e-3, loop_s=loop_us * 1e-6)
    best = sim.oracle(world, clients, thresholds(clients), SECONDS)
    ours = sim.closed_loop(world, sim.Real(world), clients, seconds=SECONDS)
    assert ours >= 0.99 * best


@pytest.mark.parametrize("clients", [2, 3, 4])
def test_a_few_clients_far_away_are_waited_for_too(clients: int) -> None:
    world = WORLDS["10 + 0.1n, wide"]
    best = sim.oracle(world, clients, None, SECONDS)
    ours = sim.closed_loop(world, sim.Real(world), clients, seconds=SECONDS)
    assert ours >= 0.955 * best


@pytest.mark.parametrize("clients", [2, 8, 32, 64])
@pytest.mark.parametrize("name", NARROW)
def test_two_lanes_are_never_worse_off_by_the_rule(name: str, clients: int) -> None:
    world = WORLDS[name]
    plain = sim.closed_loop(world, sim.Real(world, False, lanes=2), clients, seconds=SECONDS)
    ours = sim.closed_loop(world, sim.Real(world, lanes=2), clients, seconds=SECONDS)
    assert ours >= 0.99 * plain
    if clients in (8, 32):
        assert ours >= 1.15 * plain


@pytest.mark.parametrize(("clients", "gain"), [(8, 1.7), (24, 1.5), (32, 1.45)])
def test_the_rule_is_what_gains_it(clients: int, gain: float) -> None:
    world = WORLDS["10 + 0.1n"]
    plain = sim.closed_loop(world, sim.Real(world, rebound=False), clients, seconds=SECONDS)
    ours = sim.closed_loop(world, sim.Real(world), clients, seconds=SECONDS)
    assert ours >= gain * plain


@pytest.mark.parametrize("make", [sim.poisson, sim.bursts])
@pytest.mark.parametrize("load", [0.1, 0.5, 0.9, 0.95])
@pytest.mark.parametrize("name", NARROW)
def test_open_loop_traffic_pays_nothing(name: str, load: float, make) -> None:  # type: ignore[no-untyped-def]
    world = WORLDS[name]
    trace = make(load * world.capacity, 6000, 7)
    free = sim.open_loop(sim.free_of_loop(world), sim.Threshold(world), trace)
    plain = sim.open_loop(world, sim.Threshold(world), trace)
    ours = sim.open_loop(world, sim.Real(world), trace)
    # The loop's own 60 µs a request are in the first pair, the rule alone in the second.
    assert fmean(ours) <= 1.05 * fmean(free)
    assert sim.quantile(ours, 0.99) <= 1.15 * sim.quantile(free, 0.99)
    assert fmean(ours) <= 1.005 * fmean(plain)
    assert sim.quantile(ours, 0.99) <= 1.01 * sim.quantile(plain, 0.99)


def test_the_same_seed_gives_the_same_figures() -> None:
    world = WORLDS["4 + 0.25n"]
    first, second = (sim.closed_loop(world, sim.Real(world), 24, seconds=1.0) for _ in range(2))
    assert first == second
