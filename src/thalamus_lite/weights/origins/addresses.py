"""Which addresses a download may go to when ``THALAMUS_DENY_PRIVATE_ADDRESSES`` is on.

A URL or a redirect that points into the own network (a cloud's metadata service, a database's port)
would make this process fetch what its author cannot reach. The check is on addresses, after name
resolution, and the connection goes to the very address that was checked: a name that resolves
differently the second time gains nothing.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thalamus_lite.errors import WeightAccessDenied
from thalamus_lite.weights.transfer.retry import Unanswered

if TYPE_CHECKING:
    from collections.abc import Callable

# The well-known NAT64 prefix (RFC 6052): its last 32 bits are an IPv4 address.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

# Not for the public, whatever Python calls global: Python 3.11 knows few of them. Site-local
# (RFC 3879), local-use NAT64 (RFC 8215), and IPv4 translated (RFC 2765).
_PRIVATE = (
    ipaddress.IPv6Network("fec0::/10"),
    ipaddress.IPv6Network("64:ff9b:1::/48"),
    ipaddress.IPv6Network("::ffff:0:0:0/96"),
)

# What is behind it is in the address; newer Pythons call none of them global.
_6TO4 = ipaddress.IPv6Network("2002::/16")


def resolve(host: str, port: int) -> list[str]:
    """The host's addresses, in the resolver's order.

    Raises:
        OSError: there are none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))


def is_public(address: str) -> bool:
    """False for private, loopback, link-local, shared, reserved and multicast addresses.

    An IPv6 address that carries an IPv4 one (mapped, 6to4, Teredo, NAT64) is judged by both.
    """
    try:
        # A zone ("fe80::1%eth0") only exists on link-local addresses; it must not hide one.
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if any(found in network for network in _PRIVATE):
        return False
    if found.is_multicast or not (found.is_global or found in _6TO4):
        return False
    return all(carried.is_global for carried in _carried(found))


def _carried(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    if isinstance(address, ipaddress.IPv4Address):
        return []
    carried = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        carried.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [found for found in carried if found is not None]


@dataclass(frozen=True, slots=True)
class Guard:
    """Names to the addresses that may be connected to."""

    resolve: Callable[[str, int], list[str]] = resolve
    allowed: Callable[[str], bool] = is_public

    def addresses(self, host: str, port: int) -> list[str]:
        """All of the host's addresses.

        Raises:
            WeightAccessDenied: one of them is not public. One is enough: which of them a connection
                takes is not ours to choose everywhere.
            Unanswered: the name does not resolve.
        """
        bare = host.strip("[]")
        try:
            found = self.resolve(bare, port)
        except (OSError, UnicodeError):
            raise Unanswered(
                f"the host name {bare} does not resolve: check it, and the network"
            ) from None
        if not all(self.allowed(address) for address in found):
            raise WeightAccessDenied(
                f"{bare} is a private address, and THALAMUS_DENY_PRIVATE_ADDRESSES is on: use a"
                " public host, or unset it"
            )
        return found
