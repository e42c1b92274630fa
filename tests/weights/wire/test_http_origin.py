from __future__ import annotations

import base64
import logging
import ssl
import threading
import time

import pytest
import trustme

from thalamus_lite.errors import (
    UnsafeName,
    WeightAccessDenied,
    WeightError,
    WeightNotFound,
    WeightSourceInvalid,
    WeightUnreachable,
)
from thalamus_lite.weights.origin import DownloadCancelled, OriginOptions
from thalamus_lite.weights.origins.addresses import Guard
from thalamus_lite.weights.origins.choice import origin_for
from thalamus_lite.weights.origins.http_origin import HTTPOrigin, _Described
from thalamus_lite.weights.sources import HTTPWeight
from thalamus_lite.weights.transfer.giving_up import until
from thalamus_lite.weights.transfer.retry import is_retryable


@pytest.fixture
def server(fault_server, make_content):
    fault_server.content = make_content(10_000)
    return fault_server


@pytest.fixture
def patient(monkeypatch):
    """Retries of a listing, without their pauses."""
    slept = []
    monkeypatch.setattr("thalamus_lite.weights.transfer.giving_up.time.sleep", slept.append)
    return slept


def source(*urls, **kwargs):
    return HTTPWeight(urls=urls, **kwargs)


def test_one_url_is_a_file(server, http):
    found = http.list(source(server.url + "/a/model%20v1.pt?sig=1"))
    (file,) = found.files
    assert (file.relpath, file.size, file.validator) == ("model v1.pt", 10_000, '"v1"')
    assert (found.directory, found.validator, found.immutable) == (False, '"v1"', False)
    assert file.locator == server.url + "/a/model%20v1.pt?sig=1"


def test_sizes_that_no_files_have_are_an_error(http, monkeypatch):
    monkeypatch.setattr(http, "_describe", lambda url: _Described(10**18 - 1, "", ""))
    with pytest.raises(WeightUnreachable, match="sizes that no files have"):
        http.list(source(*(f"http://localhost/{number}.bin" for number in range(12))))


def test_several_urls_are_a_directory(server, http):
    found = http.list(source(server.url + "/a.pt", server.url + "/b.pt"))
    assert [file.relpath for file in found.files] == ["a.pt", "b.pt"]
    assert found.directory
    assert len(found.validator) == 64


def test_patterns_leave_urls_out_unasked(server, http):
    urls = [server.url + "/a.pt", server.url + "/b.json"]
    found = http.list(source(*urls, allow_patterns=["*.json"]))
    assert [file.relpath for file in found.files] == ["b.json"]
    assert {request.path for request in server.requests} == {"/b.json"}


def test_directory_of_urls_without_versions_has_none(server, http):
    server.etag = None
    assert http.list(source(server.url + "/a.pt", server.url + "/b.pt")).validator == ""
    assert http.list(source(server.url + "/a.pt")).validator == ""


def test_same_names_collide(server, http):
    with pytest.raises(UnsafeName, match="collide: give each of the URLs a weight of its own"):
        http.list(source(server.url + "/a/model.pt", server.url + "/b/MODEL.pt"))


@pytest.mark.parametrize("path", ["/..%2f..%2fetc", "/%2e%2e", "/a%00b", "/a%5cb"])
def test_hostile_names_are_refused(server, http, path):
    with pytest.raises(UnsafeName):
        http.list(source(server.url + path))


def test_last_modified_serves_where_there_is_no_strong_etag(server, http, act):
    server.head_script.append(act(headers={"ETag": None, "Last-Modified": "then"}))
    server.head_script.append(act(headers={"ETag": 'W/"1"'}))
    assert http.list(source(server.url + "/a.pt")).validator == "then 10000"
    found = http.list(source(server.url + "/a.pt"))
    assert found.validator == 'W/"1" 10000'
    assert found.files[0].validator == ""


@pytest.mark.parametrize("status", [400, 403, 404, 405, 501])
def test_server_without_head_is_asked_for_one_byte(server, http, act, status):
    server.head_script.append(act(status=status))
    (file,) = http.list(source(server.url + "/a.pt")).files
    assert (file.size, file.validator) == (10_000, '"v1"')
    assert server.gets()[0].headers["range"] == "bytes=0-0"


@pytest.fixture
def dripping(fault_server, act, monkeypatch):
    """A server that sends heads and bodies byte by byte, and a client that waits 0.3 s for one."""
    monkeypatch.setattr("thalamus_lite.weights.origins.http_head.HEAD_S", 0.3)
    drip = b"a" * 400
    fault_server.heads = {
        "head": act(raw=b"HTTP/1.1 200 OK\r\nX-A: ", drip=drip),
        "interim": act(raw=b"", drip=b"HTTP/1.1 100 Continue\r\n\r\n" * 400),
        "redirect": act(status=302, headers={"Location": "/x", "Content-Length": "400"}, drip=drip),
        "missing": act(status=404, headers={"Content-Length": "400"}, drip=drip),
    }
    return fault_server


@pytest.mark.parametrize("kind", ["head", "interim", "redirect", "missing"])
def test_no_answer_is_waited_for_byte_by_byte(dripping, http, patient, act, kind):
    dripping.head_script.append(act(status=405))
    dripping.script.extend([dripping.heads[kind]] * 8)
    began = time.monotonic()
    with pytest.raises((WeightUnreachable, WeightNotFound)):
        http.list(source(dripping.url + "/a.pt"))
    # A drip alone would take 20 s.
    assert time.monotonic() - began < 12


@pytest.mark.parametrize("kind", ["head", "interim"])
def test_whoever_gives_up_does_not_wait_for_a_head(dripping, http, monkeypatch, act, kind):
    monkeypatch.setattr("thalamus_lite.weights.origins.http_head.HEAD_S", 30.0)
    dripping.head_script.append(dripping.heads[kind])
    cancel = threading.Event()
    timer = threading.Timer(0.2, cancel.set)
    timer.start()
    began = time.monotonic()
    with pytest.raises(DownloadCancelled), until(cancel):
        http.list(source(dripping.url + "/a.pt"))
    assert time.monotonic() - began < 10
    timer.join()


def test_whoever_gives_up_does_not_wait_for_the_next_attempt(server, http, act):
    server.head_script.extend([act(status=503, headers={"Retry-After": "15"})] * 4)
    cancel = threading.Event()
    timer = threading.Timer(0.2, cancel.set)
    timer.start()
    began = time.monotonic()
    with pytest.raises(DownloadCancelled), until(cancel):
        http.list(source(server.url + "/a.pt"))
    assert time.monotonic() - began < 10
    timer.join()


@pytest.mark.parametrize("status", [100, 102, 103, 199])
def test_interim_answers_are_passed_over(server, http, act, bench, status):
    early = f"HTTP/1.1 {status} Early\r\nLink: </x>\r\n\r\n".encode()
    server.head_script.append(act(before=early))
    server.script.append(act(before=early * 3))
    (file,) = http.list(source(server.url + "/a.pt")).files
    assert file.size == 10_000
    bench.run(http, file)
    assert bench.bytes() == server.content


@pytest.mark.parametrize("head", [{"status": 204}, {"raw": b""}])
def test_head_that_says_nothing_is_asked_again_as_a_get(server, http, act, patient, head):
    server.head_script.append(act(**head))
    (file,) = http.list(source(server.url + "/a.pt")).files
    assert (file.size, file.validator) == (10_000, '"v1"')
    assert patient == []


@pytest.mark.parametrize("status", [400, 501])
def test_server_that_refuses_ranges_is_asked_for_the_whole(
    server, http, act, make_content, bench, status
):
    server.content = make_content(100_000)
    server.ranges_answered = status
    server.head_script.append(act(status=405))
    (file,) = http.list(source(server.url + "/a.pt")).files
    assert file.size == 100_000
    bench.run(http, file)
    assert bench.bytes() == server.content


def test_signature_that_expires_is_not_taken_for_refused_ranges(server, http, act, bench):
    (file,) = http.list(source(server.url + "/a.pt")).files
    server.paths["/a.pt"] = act(status=400)
    part = bench.part(file, extents=((0, 5_000),))
    bench.path.write_bytes(server.content[:5_000])
    with pytest.raises(WeightSourceInvalid, match="400"):
        bench.run(http, file, part)
    assert () not in bench.saved


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("/mod\xc3\xa8le.pt", "/mod%C3%A8le.pt"),
        ("/a b.pt?c=d e", "/a%20b.pt"),
        (" /a%20b.pt", "/a%20b.pt"),
        ("/\xff.pt", "/%FF.pt"),
    ],
)
def test_redirects_are_read_as_browsers_read_them(server, http, act, location, path):
    server.paths["/from.pt"] = act(status=302, headers={"Location": location})
    (file,) = http.list(source(server.url + "/from.pt")).files
    assert file.size == 10_000
    assert server.requests[-1].path == path


@pytest.mark.parametrize("breaks", [{"status": 503}, {"raw": b""}, {"cut": 2_000}])
def test_target_that_fails_is_left_for_another(
    server, steady_fault_server, http, act, make_content, bench, breaks
):
    server.content = content = make_content(50_000)
    mirror = steady_fault_server
    mirror.reset()
    mirror.content = content
    there = {"Location": mirror.url.replace("127.0.0.1", "localhost") + "/m.pt"}
    server.head_script.append(act())
    server.script.append(act(status=302, headers=there))
    (file,) = http.list(source(server.url + "/a.pt")).files
    mirror.script.extend([act(cut=10_000), *[act(**breaks)] * 20])
    bench.run(http, file)
    assert bench.bytes() == content
    assert len(mirror.gets()) <= 2


def test_login_may_hold_any_character(server, http):
    url = server.url.replace("http://", "http://user:p%E2%82%ACss@")
    http.list(source(url + "/a.pt"))
    expected = base64.b64encode("user:p€ss".encode()).decode()
    assert server.requests[0].headers["authorization"] == f"Basic {expected}"


@pytest.mark.parametrize("proxy", ["http://", "http://[::1", "http://h:port", "http://h:0", "a b"])
def test_proxy_that_is_no_url_is_named_as_such(server, http, monkeypatch, proxy):
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(WeightSourceInvalid, match="http_proxy"):
        http.list(source(server.url + "/a.pt"))


@pytest.mark.parametrize("end", ["\n", "/\r\n", " "])
def test_white_space_around_a_proxy_is_no_part_of_it(server, http, monkeypatch, end):
    monkeypatch.setenv("http_proxy", f" {server.url}{end}")
    http.list(source("http://weights.example/a.pt"))
    assert server.requests


def test_login_of_a_proxy_may_hold_any_character(server, http, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url.replace("http://", "http://user:p%E2%82%ACss@"))
    http.list(source("http://weights.example/a.pt"))
    expected = base64.b64encode("user:p€ss".encode()).decode()
    assert server.requests[0].headers["proxy-authorization"] == f"Basic {expected}"


def test_careless_length_in_a_head_is_not_believed(server, http, act):
    server.head_script.append(act(headers={"Content-Length": "0"}))
    assert http.list(source(server.url + "/a.pt")).files[0].size == 10_000


def test_server_without_head_and_ranges_tells_its_length(server, http, act):
    server.head_script.append(act(status=405))
    server.script.append(act(ignore_range=True))
    assert http.list(source(server.url + "/a.pt")).files[0].size == 10_000


def test_first_byte_refused_is_told(server, http, act):
    server.head_script.append(act(status=405))
    server.script.append(act(status=416, body=b"", headers={"Content-Range": "bytes */9"}))
    with pytest.raises(WeightUnreachable, match="first byte"):
        http.list(source(server.url + "/a.pt"))


def test_compressed_answers_are_refused(server, http, act, bench):
    gzip = act(headers={"Content-Encoding": "gzip"})
    server.paths["/a.gz"] = gzip
    with pytest.raises(WeightSourceInvalid, match="Content-Encoding 'gzip'"):
        http.list(source(server.url + "/a.gz"))
    (file,) = http.list(source(server.url + "/a.pt")).files
    server.script.append(gzip)
    with pytest.raises(WeightSourceInvalid, match="Content-Encoding"):
        bench.run(http, file)
    assert {request.headers["accept-encoding"] for request in server.requests} == {"identity"}


def test_identity_encoding_is_none(server, http, act, fetch, bench):
    server.paths["/a.pt"] = act(headers={"Content-Encoding": "identity"})
    fetch(server.url + "/a.pt")
    assert bench.bytes() == server.content


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, WeightAccessDenied), (403, WeightAccessDenied), (404, WeightNotFound)],
)
def test_refused_listing_is_typed(server, http, act, status, kind):
    server.paths["/a.pt"] = act(status=status)
    with pytest.raises(kind):
        http.list(source(server.url + "/a.pt"))


def test_listing_is_tried_again(server, http, act, patient):
    server.head_script.extend([act(status=503, headers={"Retry-After": "3"}), act(status=502)])
    http.list(source(server.url + "/a.pt"))
    assert patient[0] == 3.0
    assert len(patient) == 2


def test_listing_gives_up_after_four_attempts(server, http, act, patient):
    server.paths["/a.pt"] = act(status=503)
    with pytest.raises(WeightUnreachable, match="503"):
        http.list(source(server.url + "/a.pt"))
    assert len(server.requests) == 4


def test_unchanged_url_is_confirmed_with_one_request(server, http):
    assert http.revalidate(source(server.url + "/a.pt"), '"v1"') is None
    (asked,) = server.requests
    assert (asked.method, asked.headers["if-none-match"]) == ("HEAD", '"v1"')


def test_changed_url_is_listed_anew(server, http):
    found = http.revalidate(source(server.url + "/a.pt"), '"v0"')
    assert found is not None
    assert found.validator == '"v1"'


def test_server_that_ignores_preconditions_is_compared(server, http, act):
    server.head_script.append(act(status=200, content=server.content))
    assert http.revalidate(source(server.url + "/a.pt"), '"v1"') is None


def test_several_urls_are_compared(server, http):
    several = source(server.url + "/a.pt", server.url + "/b.pt")
    known = http.list(several).validator
    assert http.revalidate(several, known) is None
    server.etag = '"v2"'
    assert http.revalidate(several, known) is not None


def test_url_without_version_counts_as_changed(server, http):
    server.etag = None
    assert http.revalidate(source(server.url + "/a.pt"), "") is not None


def test_revalidation_is_asked_once(server, http, act, patient):
    server.paths["/a.pt"] = act(status=503)
    with pytest.raises(WeightUnreachable):
        http.revalidate(source(server.url + "/a.pt"), '"v1"')
    assert (len(server.requests), patient) == (1, [])


def redirect(act, location, status=302):
    return act(status=status, body=b"", headers={"Location": location})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(server, http, act, fetch, bench, status):
    server.paths["/old"] = redirect(act, "/new/../a.pt", status)
    fetch(server.url + "/old")
    assert bench.bytes() == server.content
    (file,) = http.list(source(server.url + "/old")).files
    assert file.relpath == "old"


def test_five_redirects_are_followed_and_a_sixth_is_not(server, http, act):
    for i in range(6):
        server.paths[f"/{i}"] = redirect(act, f"/{i + 1}")
    http.list(source(server.url + "/1"))
    with pytest.raises(WeightUnreachable, match="more than 5 redirects"):
        http.list(source(server.url + "/0"))


def test_redirect_loop_ends(server, http, act):
    server.paths["/loop"] = redirect(act, "/loop?token=canary")
    with pytest.raises(WeightUnreachable, match="redirects") as caught:
        http.list(source(server.url + "/loop"))
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "ftp://host/x", "http://[::1", "//x:99999/", "http://a b/", None],
)
def test_redirects_to_anything_but_http_are_refused(server, http, act, location):
    server.paths["/x"] = act(status=302, body=b"", headers={"Location": location})
    with pytest.raises(WeightUnreachable, match="redirects to"):
        http.list(source(server.url + "/x"))


@pytest.fixture
def authority(monkeypatch, tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return authority


@pytest.fixture
def secure(server, authority):
    server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server.tls)
    return server


def test_certificates_are_verified(secure, http, patient):
    with pytest.raises(WeightUnreachable, match="certificate is not trusted"):
        http.list(source(secure.url + "/a.pt"))
    assert patient == []


def test_trusted_certificate_is_taken(secure, fetch, bench, monkeypatch, tmp_path, authority):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    fetch(secure.url + "/a.pt")
    assert bench.bytes() == secure.content


def test_guarded_connection_keeps_the_name_for_tls(secure, monkeypatch, tmp_path, authority):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    authority.issue_cert("weights.example").configure_cert(secure.tls)
    guard = Guard(resolve=lambda host, port: ["127.0.0.1"], allowed=lambda address: True)
    origin = HTTPOrigin(OriginOptions(timeout_s=5.0), guard)
    (file,) = origin.list(source(f"https://weights.example:{secure.port}/a.pt")).files
    assert file.size == 10_000
    assert secure.requests[0].headers["host"] == f"weights.example:{secure.port}"


def test_redirect_from_https_to_http_is_refused(secure, http, act, monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    secure.paths["/a.pt"] = redirect(act, "http://127.0.0.1:1/a.pt")
    with pytest.raises(WeightUnreachable, match="from https to http"):
        http.list(source(secure.url + "/a.pt"))


def with_login(url):
    return url.replace("://", "://us%40er:canary%2Fpass@")


def test_userinfo_is_a_login(server, http, fetch, bench):
    fetch(with_login(server.url) + "/a.pt")
    assert bench.bytes() == server.content
    expected = "Basic " + base64.b64encode(b"us@er:canary/pass").decode()
    assert {request.headers["authorization"] for request in server.requests} == {expected}


def test_empty_userinfo_is_none(server, http):
    http.list(source(server.url.replace("://", "://@") + "/a.pt"))
    assert "authorization" not in server.requests[0].headers


def test_login_stays_with_its_origin(server, http, act, fetch, bench):
    other = server.url.replace("127.0.0.1", "localhost")
    server.paths["/here"] = redirect(act, "/a.pt")
    server.paths["/there"] = redirect(act, other + "/b.pt")
    server.paths["/back"] = redirect(act, other + "/return")
    server.paths["/return"] = redirect(act, server.url + "/c.pt")
    for path in ("/here", "/there", "/back"):
        http.list(source(with_login(server.url) + path))
    logins = {request.path: "authorization" in request.headers for request in server.requests}
    assert logins == {
        **dict.fromkeys(("/here", "/there", "/back", "/a.pt"), True),
        **dict.fromkeys(("/b.pt", "/return", "/c.pt"), False),
    }


def test_login_in_a_redirect_is_not_used(server, http, act):
    server.paths["/x"] = redirect(act, with_login(server.url) + "/a.pt")
    http.list(source(server.url + "/x"))
    assert "authorization" not in server.requests[-1].headers


def test_remembered_redirect_carries_no_login(server, act, http):
    other = server.url.replace("127.0.0.1", "localhost")
    server.paths["/x"] = redirect(act, other + "/a.pt?sig=1")
    (file,) = http.list(source(with_login(server.url) + "/x")).files
    for start in (0, 10):
        body = http.open(file, start, start + 10)
        assert body.read(20) == server.content[start : start + 10]
        body.close()
    gets = [(request.path, "authorization" in request.headers) for request in server.gets()]
    assert gets == [("/x", True), ("/a.pt", False), ("/a.pt", False)]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "169.254.169.254", "10.1.2.3"])
def test_private_addresses_are_refused_when_asked(server, host):
    origin = HTTPOrigin(OriginOptions(deny_private_addresses=True, timeout_s=1.0))
    with pytest.raises(WeightAccessDenied, match="THALAMUS_DENY_PRIVATE_ADDRESSES"):
        origin.list(source(f"http://{host}:{server.port}/a.pt"))
    assert server.requests == []


def test_redirect_to_a_private_address_is_refused(server, act):
    guard = Guard(allowed=lambda address: address == "127.0.0.1")
    origin = HTTPOrigin(OriginOptions(), guard)
    server.paths["/x"] = redirect(act, "http://169.254.169.254/latest/meta-data")
    with pytest.raises(WeightAccessDenied, match=r"169\.254\.169\.254 is a private address"):
        origin.list(source(server.url + "/x"))


def test_connection_goes_to_the_address_that_was_checked(server):
    answers = iter([["127.0.0.1"]])
    guard = Guard(resolve=lambda host, port: next(answers), allowed=lambda address: True)
    origin = HTTPOrigin(OriginOptions(), guard)
    (file,) = origin.list(source(f"http://rebinding.example:{server.port}/a.pt")).files
    assert file.size == 10_000


def test_next_address_is_tried(server):
    guard = Guard(resolve=lambda host, port: ["127.0.0.2", "127.0.0.1"], allowed=lambda a: True)
    origin = HTTPOrigin(OriginOptions(timeout_s=5.0), guard)
    origin.list(source(f"http://two.example:{server.port}/a.pt"))


@pytest.mark.parametrize("addresses", [[], ["127.0.0.2"]])
def test_host_without_a_working_address_is_unreachable(server, patient, addresses):
    guard = Guard(resolve=lambda host, port: addresses, allowed=lambda address: True)
    origin = HTTPOrigin(OriginOptions(timeout_s=5.0), guard)
    with pytest.raises(WeightUnreachable, match="no connection"):
        origin.list(source(f"http://dead.example:{server.port}/a.pt"))


@pytest.mark.parametrize("guard", [None, Guard()])
def test_name_that_does_not_resolve_is_unreachable(monkeypatch, patient, guard):
    def unknown(*args, **kwargs):
        import socket

        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", unknown)
    origin = HTTPOrigin(OriginOptions(timeout_s=1.0), guard)
    with pytest.raises(WeightUnreachable, match="does not resolve"):
        origin.list(source("http://nowhere.invalid/a.pt"))


def test_refused_connection_is_unreachable(http, patient):
    with pytest.raises(WeightUnreachable, match="no connection") as caught:
        http.list(source("http://127.0.0.1:1/a.pt?sig=canary"))
    assert "canary" not in str(caught.value)
    assert len(patient) == 3


def test_proxy_of_the_environment_is_used(server, http, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url.replace("://", "://puser:ppass@"))
    (file,) = http.list(source("http://weights.example/a.pt?sig=1")).files
    assert file.size == 10_000
    (asked,) = server.requests
    assert asked.target == "http://weights.example/a.pt?sig=1"
    expected = "Basic " + base64.b64encode(b"puser:ppass").decode()
    assert asked.headers["proxy-authorization"] == expected


def test_no_proxy_is_honoured(server, http, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert http.list(source(server.url + "/a.pt")).files[0].size == 10_000


def test_proxy_without_scheme_and_one_that_is_away(http, monkeypatch, patient):
    monkeypatch.setenv("http_proxy", "127.0.0.1:1")
    with pytest.raises(WeightUnreachable, match="proxy"):
        http.list(source("http://weights.example/a.pt"))


def test_socks_proxy_is_refused_with_a_sentence(http, monkeypatch):
    monkeypatch.setenv("http_proxy", "socks5://user:canary@127.0.0.1:1")
    with pytest.raises(WeightSourceInvalid, match="socks5") as caught:
        http.list(source("http://weights.example/a.pt"))
    assert "canary" not in str(caught.value)


def test_target_behind_a_proxy_is_held_against_the_guard(server, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    origin = HTTPOrigin(OriginOptions(deny_private_addresses=True))
    with pytest.raises(WeightAccessDenied):
        origin.list(source("http://10.0.0.1/a.pt"))
    assert server.requests == []
    public = HTTPOrigin(OriginOptions(), Guard(resolve=lambda host, port: ["93.184.216.34"]))
    assert public.list(source("http://weights.example/a.pt")).files[0].size == 10_000


def test_host_that_is_no_host_is_told(http):
    with pytest.raises(WeightError):
        http.list(HTTPWeight.model_construct(urls=("http://x..y/a.pt",), allow_patterns=None))


def test_identity_is_public_and_stable(http):
    signed = "https://user:canary@Host.example/m.pt?X-Amz-Signature=canary"
    assert http.identity(source(signed)) == "http:https://host.example/m.pt"
    first = http.identity(source("https://h/m?file=a"))
    assert first != http.identity(source("https://h/m?file=b"))
    two = http.identity(source("https://h/a?k=canary", "https://h/b"))
    assert two != http.identity(source("https://h/b", "https://h/a?k=canary"))
    assert "canary" not in two


def test_nothing_secret_is_logged_or_raised(server, http, act, fetch, bench, caplog):
    caplog.set_level(logging.DEBUG)
    url = with_login(server.url) + "/a.pt?X-Amz-Signature=canary&token=canary"
    server.paths["/r"] = redirect(act, url)
    server.script.extend(
        [act(status=503), act(cut=100), act(raw=b"canary\r\n\r\n"), act(cut=5_000)]
    )
    fetch(url)
    assert bench.bytes() == server.content
    assert any("token=canary" in request.target for request in server.requests)
    assert [record for record in caplog.records if record.name.startswith("urllib3")]
    for status in (400, 401, 403, 404, 410, 418):
        server.paths["/a.pt"] = act(status=status)
        with pytest.raises(WeightError) as caught:
            http.list(source(url))
        assert "canary" not in repr(caught.value)
        assert caught.value.__cause__ is None
    assert "canary" not in caplog.text


def test_origin_is_made_for_its_source():
    assert isinstance(origin_for(source("http://h/a"), OriginOptions()), HTTPOrigin)


def test_parallel_listings_share_one_origin(server, http):
    failures = []

    def ask():
        try:
            assert http.list(source(server.url + "/a.pt")).files[0].size == 10_000
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.parametrize("tls", [False, True])
def test_bytes_that_come_after_the_end_of_an_answer_are_not_believed(
    server, http, make_content, monkeypatch, tmp_path, authority, tls
):
    if tls:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(server.tls)
    server.content = make_content(2_000_000)
    (file,) = http.list(source(server.url + "/a.pt")).files
    body = http.open(file)
    got = body.read(100_000)
    # More has arrived by now, or arrives while the connection is shut.
    body.abort()
    with pytest.raises(WeightUnreachable) as caught:
        body.read(100_000)
    assert is_retryable(caught.value)
    assert got == server.content[: len(got)]
    body.close()


def test_read_in_progress_ends_with_its_answer(secure, http, act, monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    (file,) = http.list(source(secure.url + "/a.pt")).files
    secure.script.append(act(cut=1_000, stall=True))
    body = http.open(file)
    assert body.read(1_000) == secure.content[:1_000]
    timer = threading.Timer(0.05, body.abort)
    timer.start()
    began = time.monotonic()
    with pytest.raises(WeightUnreachable):
        body.read(1_000)
    assert time.monotonic() - began < 4.0
    timer.join()
    body.close()


def test_connection_that_was_shut_is_not_used_again(secure, http, monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    (file,) = http.list(source(secure.url + "/a.pt")).files
    body = http.open(file)
    body.abort()
    with pytest.raises(WeightUnreachable):
        body.read(20_000)
    body.close()
    again = http.open(file)
    assert again.read(20_000) == secure.content
    again.abort()
    again.close()


def test_end_that_was_made_here_is_not_the_end_of_the_file(server, http, act):
    (file,) = http.list(source(server.url + "/a.pt")).files
    server.script.append(act(headers={"Content-Length": None}, cut=1_000, stall=True))
    body = http.open(file)
    assert body.read(1_000) == server.content[:1_000]
    body.abort()
    with pytest.raises(WeightUnreachable, match="broken off"):
        body.read(1_000)
    body.close()
