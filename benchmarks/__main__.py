"""``python -m benchmarks all``: measure, store, render.

Results go to benchmarks/results/, those of ``--quick`` to the environments' folder, since they are
for a look only. Ends with 0 whatever the figures are, unless ``--strict`` asks for more; a goal
that was not reached is a line of the result.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from benchmarks import peers
from benchmarks.answer import Answer
from benchmarks.environments import Environments
from benchmarks.machine import provenance
from benchmarks.plots import draw
from benchmarks.processes import ROOT
from benchmarks.report import render, short_falls, voids
from benchmarks.results import Result, load, store
from benchmarks.run import Run
from benchmarks.subjects import BESIDE_PEERS, SUBJECTS, chosen, question, title

_ENV_DIR = ROOT / ".nox" / "bench-servers"
_RESULTS = ROOT / "benchmarks" / "results"


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    out = options.out or (options.env_dir / "quick-results" if options.quick else _RESULTS)
    try:
        names = [] if options.subjects == ["render"] else chosen(options.subjects or ["all"])
        only = _only(options.only)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    out.mkdir(parents=True, exist_ok=True)
    failed = _measure(names, options, only, out) if names else []
    results = load(out, chosen(["all"]))
    (out / "README.md").write_text(render(results))
    plots = draw(results, out)
    if not plots:
        print("no plots: pip install matplotlib", file=sys.stderr)
    missed = short_falls(results)
    print(f"{out / 'README.md'}: {len(results)} questions, {len(plots)} plots")
    print(f"goals not reached: {', '.join(missed) or 'none'}")
    if failed:
        print(f"questions that broke: {', '.join(failed)}", file=sys.stderr)
    if options.strict:
        asked = [result for result in results if result.question in names]
        unproven = [f"{r.question}: {name}" for r in asked for name in r.answer.missing]
        failed += short_falls(asked) + voids(asked) + unproven
        print(f"not shown: {', '.join(failed) or 'nothing'}")
    return 1 if failed else 0


def _measure(
    names: list[str], options: argparse.Namespace, only: frozenset[str], out: Path
) -> list[str]:
    """Ask each question and store its answer; the names of those that broke."""
    from tqdm import tqdm

    environments = Environments(options.env_dir)
    run = Run(environments, options.quick, only, options.overload_seconds)
    beside_peers = not BESIDE_PEERS.isdisjoint(names)
    run.prepare(lambda line: print(line, flush=True), beside_peers)
    total = sum(question(name).estimate_s(run) for name in names)
    print(f"{len(names)} questions, about {total / 60:.0f} minutes", flush=True)
    shape = "{percentage:3.0f}% |{bar:30}| {elapsed} so far, about {remaining} to go {postfix}"
    with tqdm(total=total, bar_format=shape, file=sys.stdout, mininterval=1) as bar:
        done, failed = 0.0, []
        for name in names:
            run.bar = bar
            on = provenance(run)
            begun = time.perf_counter()
            try:
                answer = question(name).measure(run)
            except Exception as error:
                # The answers of an hour must not go with the question that broke.
                failed.append(name)
                answer = Answer(missing={name: f"it broke: {type(error).__name__}: {error}"[:600]})
            took_s = time.perf_counter() - begun
            store(Result(name, title(name), on, took_s, answer), out)
            done += question(name).estimate_s(run)
            bar.update(done - bar.n)
    return failed


def _only(text: str | None) -> frozenset[str]:
    names = frozenset(name.strip() for name in (text or "").split(",") if name.strip())
    known = {peer.name for peer in peers.FIELD}
    if unknown := names - known:
        raise ValueError(
            f"unknown peer {sorted(unknown)[0]!r}: choose from {', '.join(sorted(known))}"
        )
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "subjects",
        nargs="*",
        metavar="subject",
        help=f"{', '.join(SUBJECTS)}, all (the default), a single question, or render",
    )
    parser.add_argument("--quick", action="store_true", help="minutes instead of a good many")
    parser.add_argument("--only", metavar="peer,...", help="these peers alone, beside ours")
    parser.add_argument(
        "--overload-seconds", type=float, help="how long the overload lasts (15; 4 with --quick)"
    )
    parser.add_argument("--env-dir", type=Path, default=_ENV_DIR, help="the servers' environments")
    parser.add_argument("--out", type=Path, help="where results go")
    parser.add_argument(
        "--strict", action="store_true", help="end with 1 unless every goal asked for was reached"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
