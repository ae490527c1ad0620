"""Which network addresses may be connected to where private ones are refused.

A name is resolved once and all its addresses are checked: one private address refuses the name.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket

import httpx2

from ..errors import SourceError

# Translated by NAT64 gateways to the IPv4 address in the last four bytes.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Site-local of old, which some still route inside, and what documents use; not every Python knows them as private.
_NOT_PUBLIC = tuple(map(ipaddress.IPv6Network, ("fec0::/10", "3fff::/20")))


async def resolve_public(url: httpx2.URL, name: str) -> str:
    """An address of the URL's host. Raises SourceError(refused) unless all its addresses are public.

    A host that cannot be resolved raises httpx2.ConnectError, as connecting to it would.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            url.raw_host.decode("ascii"), None, family=socket.AF_UNSPEC, type=socket.SOCK_STREAM
        )
    except (OSError, UnicodeError) as error:
        raise httpx2.ConnectError(str(error)) from error
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(map(is_public, addresses)):
        raise SourceError(f"{name} leads to a private network address", code="refused")
    # IPv4 first: one address is tried, and IPv6 is the one that more often leads nowhere.
    return min(addresses, key=lambda address: ":" in address)


def is_public(address: str) -> bool:
    """Whether an address is on the public internet, also when it is IPv6 with an IPv4 address inside."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(ip.packed[-4:])
        if inner is not None:
            return is_public(str(inner))
        if any(ip in network for network in _NOT_PUBLIC):
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)
