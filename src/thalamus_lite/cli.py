"""The ``thalamus-lite`` command: serve, check, fetch, cache."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING

from thalamus_lite._version import __version__
from thalamus_lite.errors import ConfigurationError, ThalamusError
from thalamus_lite.imports import add_working_directory
from thalamus_lite.observability.logs import configure
from thalamus_lite.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from thalamus_lite.weights.cache import WeightCache

DEFAULT_APP = "thalamus_lite:app"


class OutputFailed(ValueError):
    """Standard output cannot be written, as on a full disk."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 for trouble that was reported, 2 for a wrong command
    line.
    """
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except (ThalamusError, ValueError) as error:
        print(f"thalamus-lite: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # `| head` has seen enough.
        _discard_output()
        return 0
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="thalamus-lite", description="Serve your own machine-learning models over HTTP."
    )
    parser.add_argument("--version", action="version", version=f"thalamus-lite {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    serve = _command(commands, "serve", _serve, "run an app with uvicorn, tuned")
    _add_app(serve)
    serve.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    serve.add_argument("--port", type=_port, default=8000, help="default: %(default)s")
    serve.add_argument("--workers", type=_workers, default=1, help="processes; default: 1")
    serve.add_argument("--root-path", default="", help="the path that a proxy strips")

    check = _command(commands, "check", _check, "look an app over without serving it")
    _add_app(check)

    fetch = _command(commands, "fetch", _fetch, "bring weights into the cache; prints their path")
    fetch.add_argument(
        "source", help="s3://bucket/key, hf:owner/name[@revision][/file] or https://..."
    )

    cache = commands.add_parser("cache", help="look after the weight cache")
    actions = cache.add_subparsers(title="actions", required=True, metavar="ACTION")
    _command(actions, "ls", _cache_ls, "list what is cached, the last used first")
    _command(actions, "verify", _cache_verify, "read every byte again; drop what is damaged")
    _command(actions, "rebuild", _cache_rebuild, "make the index again from the files")
    remove = _command(actions, "rm", _cache_rm, "remove what no process uses")
    chosen = remove.add_mutually_exclusive_group(required=True)
    chosen.add_argument("name", nargs="?", help="a name or an id that `cache ls` shows")
    chosen.add_argument("--all", action="store_true", help="everything")
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text)
    command.set_defaults(run=run)
    return command


def _add_app(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "app", nargs="?", default=DEFAULT_APP, help="module:attribute; default: %(default)s"
    )


def _port(text: str) -> int:
    return _whole(text, 0, 65535)


def _workers(text: str) -> int:
    return _whole(text, 1, 1024)


def _whole(text: str, least: int, most: int) -> int:
    # A long one would take int() long.
    if not text.isdecimal() or len(text) > 9 or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text!r:.40} is no number from {least} to {most}")
    return int(text)


def _serve(options: argparse.Namespace) -> int:
    from thalamus_lite.server import run

    # Workers inherit the path, and a console script's has no working directory.
    add_working_directory()
    # Told here, before a supervisor would start, for ever, workers that cannot.
    if options.workers > 1:
        _elsewhere(options.app)
    else:
        _load(options.app)
    run(
        options.app,
        host=options.host,
        port=options.port,
        workers=options.workers,
        root_path=options.root_path,
    )
    return 0


def _load(name: str) -> None:
    from thalamus_lite.checks import load_servable

    try:
        load_servable(name)
    except ThalamusError as error:
        if error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        raise


def _elsewhere(name: str) -> None:
    """The same in a process of its own: a supervisor need not hold what its workers import."""
    child = multiprocessing.get_context("spawn").Process(target=_load_and_end, args=(name,))
    child.start()
    try:
        child.join()
    finally:
        child.kill()
    if child.exitcode == 1:
        raise SystemExit(1)
    if child.exitcode:
        raise ConfigurationError(f"importing {name} ended its process, with {child.exitcode}")


def _load_and_end(name: str) -> None:
    code = 0
    try:
        _load(name)
    except (ThalamusError, ValueError) as error:
        print(f"thalamus-lite: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        code = 130
    sys.stdout.flush()
    sys.stderr.flush()
    # Without waiting for threads that the import has started.
    os._exit(code)


def _check(options: argparse.Namespace) -> int:
    from thalamus_lite.checks import check

    return check(options.app, _say)


def _fetch(options: argparse.Namespace) -> int:
    from thalamus_lite.weights.storage import get_cache
    from thalamus_lite.weights.uris import source_from_uri

    configure(Settings.from_env().log_level or "INFO")
    with get_cache().acquire(source_from_uri(options.source)) as lease:
        _say(str(lease.path))
    return 0


def _say(line: str) -> None:
    """A line of the result.

    Raises:
        OutputFailed: it did not get to where it belongs.
    """
    try:
        print(line, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard_output()
        raise OutputFailed(f"the output cannot be written ({error.strerror})") from error


def _discard_output() -> None:
    """What is left in the buffer would be tried again at the end of the interpreter."""
    with suppress(OSError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _cache() -> WeightCache:
    from thalamus_lite.weights.storage import get_cache

    logging.getLogger("thalamus_lite").setLevel(logging.WARNING)
    return get_cache()


def _cache_ls(options: argparse.Namespace) -> int:
    from thalamus_lite.weights.maintenance import list_entries

    cache = _cache()
    for entry in list_entries(cache):
        _say(f"{entry.entry_id[:12]}  {entry.bytes:>15,}  {entry.state:<8}  {entry.name}")
    stats = cache.stats()
    _say(
        f"{stats.total_size_bytes:,} of {stats.max_size_bytes:,} bytes in {stats.file_count} files,"
        f" {cache.cache_dir}"
    )
    return 0


def _cache_verify(options: argparse.Namespace) -> int:
    from thalamus_lite.weights.maintenance import verify

    damaged = 0
    for verdict in verify(_cache()):
        damaged += bool(verdict.problem)
        removed = "still in use, fetched anew next time" if verdict.in_use else "removed"
        word = "FAILED" if verdict.failed else f"DAMAGED ({removed})"
        said = f"{word}: {verdict.problem}" if verdict.problem else "ok"
        _say(f"{verdict.entry_id[:12]}  {verdict.name}  {said}")
    return 1 if damaged else 0


def _cache_rebuild(options: argparse.Namespace) -> int:
    _say(f"{_cache().rebuild()} entries")
    return 0


def _cache_rm(options: argparse.Namespace) -> int:
    from thalamus_lite.weights.maintenance import remove

    removal = remove(_cache(), None if options.all else options.name)
    for name in removal.removed:
        _say(f"removed  {name}")
    for name in removal.in_use:
        _say(f"in use   {name}")
    _say(f"{removal.freed_bytes:,} bytes freed")
    return 1 if removal.in_use and not removal.removed else 0
