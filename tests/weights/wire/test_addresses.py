from __future__ import annotations

import pytest

from thalamus_lite.errors import WeightAccessDenied, WeightUnreachable
from thalamus_lite.weights.origins.addresses import Guard, is_public, resolve


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
        *("0.0.0.0", "100.64.0.1", "224.0.0.1", "255.255.255.255", "192.0.2.1", "240.0.0.1"),
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "ff02::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a9fe:a9fe", "2002:0a00:0001::1"),
        *("2001:0:5ef5:79fb:0:0:f5ff:fffe", "not an address", ""),
        *("fec0::1", "64:ff9b:1::a00:1", "::ffff:0:127.0.0.1", "::ffff:0:8.8.8.8"),
    ],
)
def test_private_addresses_are_known_in_every_dress(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "2002:0808:0808::1"],
)
def test_public_addresses_pass(address):
    assert is_public(address)


def guard(*addresses):
    return Guard(resolve=lambda host, port: list(addresses))


def test_one_private_address_among_public_ones_is_enough():
    assert guard("8.8.8.8", "1.1.1.1").addresses("h", 80) == ["8.8.8.8", "1.1.1.1"]
    with pytest.raises(WeightAccessDenied, match="h is a private address"):
        guard("8.8.8.8", "10.0.0.1").addresses("h", 80)


def test_brackets_of_an_address_are_not_part_of_it():
    with pytest.raises(WeightAccessDenied, match="::1 is"):
        Guard().addresses("[::1]", 80)


@pytest.mark.parametrize("error", [OSError("no"), UnicodeError("label too long")])
def test_name_that_does_not_resolve_is_unreachable(error):
    def failing(host, port):
        raise error

    with pytest.raises(WeightUnreachable, match="does not resolve"):
        Guard(resolve=failing).addresses("h", 80)


def test_system_resolver_gives_each_address_once():
    found = resolve("localhost", 80)
    assert "127.0.0.1" in found or "::1" in found
    assert len(found) == len(set(found))
