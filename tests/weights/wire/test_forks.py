"""A forked child has connections of its own: on shared ones each would read the other's answers."""

from __future__ import annotations

import ssl
import threading

import pytest
import trustme

from thalamus_lite.weights import forks, storage
from thalamus_lite.weights.cache import WeightCache
from thalamus_lite.weights.options import CacheOptions
from thalamus_lite.weights.origins.s3_client import client_for
from thalamus_lite.weights.sources import HTTPWeight


@pytest.fixture
def cache(tmp_path):
    options = CacheOptions(cache_dir=tmp_path / "cache", min_free_bytes=0, timeout_s=5.0)
    return WeightCache.of(options)


@pytest.mark.parametrize("tls", [False, True])
def test_child_and_parent_each_have_their_own(
    cache, fault_server, make_content, tls, tmp_path, monkeypatch, in_child
):
    if tls:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        fault_server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(fault_server.tls)
    fault_server.content = make_content(20_000)

    def bring(name):
        with cache.acquire(HTTPWeight(urls=[f"{fault_server.url}/{name}"])) as lease:
            return lease.path.read_bytes() == fault_server.content

    assert bring("first")
    before = fault_server.connections
    assert in_child(lambda: bring("childs")) is True
    assert fault_server.connections == before + 1
    # The child went and left the parent's connection as it was.
    assert bring("parents")
    assert fault_server.connections == before + 1


@pytest.mark.usefixtures("s3_login")
def test_child_has_clients_of_s3_of_its_own(in_child):
    client = client_for("us-east-1", "http://127.0.0.1:1")
    assert in_child(lambda: client_for("us-east-1", "http://127.0.0.1:1") is client) is False
    assert client_for("us-east-1", "http://127.0.0.1:1") is client


def test_lock_that_a_thread_of_the_parent_holds_is_free_in_a_child(tmp_path, in_child):
    options = CacheOptions(cache_dir=tmp_path / "cache")
    held, done = threading.Event(), threading.Event()
    lock = forks.Lock()

    def hold():
        with lock, storage._lock:
            held.set()
            done.wait(30)

    def work():
        with lock:
            return str(storage.cache_of(options).cache_dir)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(10)
    assert in_child(work) == str(options.cache_dir)
    done.set()
    thread.join()
