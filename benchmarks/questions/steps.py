"""Where do the microseconds go? One request by step, in process, 64 at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.answer import Answer, Plot, Table

if TYPE_CHECKING:
    from benchmarks.run import Run

MODELS = ("lane", "async")
_DRIVER = "benchmarks.questions.stepping"
_STEP_S = 12


def estimate_s(run: Run) -> float:
    return len(MODELS) * run.pick(_STEP_S, 4)


def measure(run: Run) -> Answer:
    answer = Answer()
    profiles: dict[str, dict[str, Any]] = {}
    for model in MODELS:
        with run.reporting(answer, f"steps of {model}"):
            profiles[model] = run.inside(_DRIVER, model, str(int(run.pick(400, 50))))
        run.step(f"steps: {model}", estimate_s(run) / len(MODELS))
    for model, profile in profiles.items():
        for name in profile["absent"]:
            answer.missing[f"step {name}"] = (
                "no longer there: benchmarks/questions/stepping.py names it"
            )
        answer.tables.append(_table(model, profile))
    answer.plots.append(_plot(profiles))
    return answer


def _shares(profile: dict[str, Any]) -> list[tuple[str, float, float]]:
    """(step, µs, calls a request), and what no step has: coroutines, the loop, thread switches, the
    driver.
    """
    found = [
        (step, seen["us"], seen["calls"])
        for step, seen in profile["steps"].items()
        if seen["calls"]
    ]
    rest = profile["request_us"] - sum(us for _, us, _ in found)
    return [*found, ("coroutines, loop, thread switches", max(rest, 0.0), 1.0)]


def _table(model: str, profile: dict[str, Any]) -> Table:
    total = profile["request_us"]
    rows = tuple((step, us, us / total * 100, calls) for step, us, calls in _shares(profile))
    note = (
        f"{total:.1f} µs a request in process, 64 at a time, without HTTP."
        f" With the clocks {profile['request_timed_us']:.1f}:"
        f" {profile['clock_us']:.2f} are taken off for each."
    )
    title = f"Where the microseconds go: {model}"
    return Table(
        title, ("step", "µs", "%", "calls/request"), (*rows, ("all", total, 100.0, 1.0)), note
    )


def _plot(profiles: dict[str, dict[str, Any]]) -> Plot:
    series = {
        model: tuple((step, us) for step, us, _ in _shares(profile))
        for model, profile in profiles.items()
    }
    return Plot("steps", "One request by step, in process", "", "µs", series, kind="bar")
