"""Addresses of interfaces over rtnetlink (``rtnetlink(7)``): what they are, and how one is made to stay.

``ip address change`` does the same; a process for each look would cost more than the whole pass.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable
from sys import byteorder

from reconciler.errors import ActionFailed, Stale, Unobservable
from reconciler.host.netlink import ACK, REPLACE, REQUEST, ask, attribute, attributes, dump, message
from reconciler.model import Address, KeepAddress, Outcome

_ROUTE = 0  # NETLINK_ROUTE
_NEW, _GET = 20, 22  # RTM_NEWADDR, RTM_GETADDR
_HEADER = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, prefix length, flags, scope, index
_CACHE = struct.Struct("=IIII")  # struct ifa_cacheinfo: preferred, valid (seconds), created, changed
_ADDRESS, _LOCAL, _LABEL, _BROADCAST, _CACHEINFO, _FLAGS = 1, 2, 3, 4, 6, 8
_KEPT = (_ADDRESS, _LOCAL, _LABEL, _BROADCAST)
_FOR_EVER = 0xFFFFFFFF
_PERMANENT = 0x80  # IFA_F_PERMANENT
_FLAG_WORD = struct.Struct("=I")

_FAMILIES = {socket.AF_INET: 4, socket.AF_INET6: 16}  # -> bytes of an address


def addresses() -> tuple[Address, ...]:
    """Every address of every interface of this network namespace. Raises ``Unobservable``."""
    names = _interface_names()
    return tuple(one for data in _dump() if (one := parse(data, names)) is not None)


def _dump() -> list[bytes]:
    return dump(_ROUTE, _GET, _HEADER.pack(socket.AF_UNSPEC, 0, 0, 0, 0))


def _interface_names() -> dict[int, str]:
    try:
        return dict(socket.if_nameindex())
    except OSError as error:
        raise Unobservable(f"interfaces: {error.strerror}") from error


def parse(data: bytes, names: dict[int, str]) -> Address | None:
    """One ``struct ifaddrmsg``; ``None`` for an interface that is gone. Raises ``Unobservable``."""
    if len(data) < _HEADER.size:
        raise Unobservable("rtnetlink: an address is cut short")
    family, prefix, _, _, index = _HEADER.unpack_from(data)
    found = attributes(data[_HEADER.size :])
    packed = found.get(_LOCAL) or found.get(_ADDRESS) or b""  # point-to-point: _ADDRESS is the far end
    if family not in _FAMILIES or index not in names:
        return None
    if len(packed) != _FAMILIES[family]:
        raise Unobservable(f"rtnetlink: an address of {len(packed)} bytes")
    return Address(names[index], socket.inet_ntop(family, packed), prefix, _valid(found))


def _valid(found: dict[int, bytes]) -> int | None:
    cache = found.get(_CACHEINFO, b"")
    valid = _CACHE.unpack_from(cache)[1] if len(cache) >= _CACHE.size else _FOR_EVER
    return None if valid == _FOR_EVER else valid


def keep(action: KeepAddress) -> Outcome:
    """Make an address stay for ever, in place: RTM_NEWADDR with NLM_F_REPLACE touches its lifetimes only.

    Label, broadcast address and scope are sent as they are found: the kernel takes what is missing for absent.
    Raises ``Stale`` where the interface does not hold it, ``ActionFailed`` where the kernel refuses.
    """
    for data in _dump():
        one = parse(data, _interface_names())
        if one is not None and _is_same(one, action):
            return _keep(data) if one.valid is not None else Outcome("done", "it was for ever already")
    raise Stale(f"{action.interface} does not hold {action.address}/{action.prefix}")


def _is_same(one: Address, other: KeepAddress) -> bool:
    same = ipaddress.ip_address(one.address) == ipaddress.ip_address(other.address)
    return same and (one.interface, one.prefix) == (other.interface, other.prefix)


def must_last(wanted: Iterable[tuple[str, str, int]]) -> None:
    """Raise ``Stale`` unless each (interface, address, prefix) is held, and for ever."""
    for interface, address, prefix in wanted:
        found = next((one for one in addresses() if _is_same(one, KeepAddress(interface, address, prefix))), None)
        if found is None or found.valid is not None:
            how = "does not hold" if found is None else "holds only on lease"
            raise Stale(f"{interface} {how} {address}/{prefix}")


def _keep(data: bytes) -> Outcome:
    try:
        ask(_ROUTE, message(_NEW, REQUEST | ACK | REPLACE, lasting(data)))
    except Unobservable as error:
        raise ActionFailed(str(error)) from error
    return Outcome("done", "valid for ever")


def lasting(data: bytes) -> bytes:
    """The same address as a request that lets it stay for ever."""
    found = attributes(data[_HEADER.size :])
    flags = int.from_bytes(found.get(_FLAGS, b"")[: _FLAG_WORD.size], byteorder) | _PERMANENT
    body = b"".join(attribute(kind, found[kind]) for kind in _KEPT if kind in found)
    cache = attribute(_CACHEINFO, _CACHE.pack(_FOR_EVER, _FOR_EVER, 0, 0))
    return data[: _HEADER.size] + body + cache + attribute(_FLAGS, _FLAG_WORD.pack(flags))
