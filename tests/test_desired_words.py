"""The small grammars: time spans, ports, /etc/services, globs, and the lines of TOML keys by hand."""

from __future__ import annotations

import math
import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.statefile.lines import line_index
from reconciler.statefile.ports import PortNames, parse_port, parse_services
from reconciler.statefile.words import Wrong, did_you_mean, executable, inetd_line, ip_address, quote, service_name
from reconciler.timespan import parse_span
from tests.desired_trees import SERVICES

# From systemd.time(7), and what `systemd-analyze timespan` says.
SPANS = {
    "2 h": 7200,
    "2hours": 7200,
    "48hr": 172800,
    "1y 12month": 31557600 + 12 * 2630016,
    "55s500ms": 55.5,
    "300ms20s 5day": 432020.3,
    "5min": 300,
    "1h 30min": 5400,
    "1h30min": 5400,
    "90": 90,
    "90s": 90,
    " 90 ": 90,
    "1.5h": 5400,
    ".5min": 30,
    "1.": 1,
    "1 2": 3,
    "1min2": 62,
    "12.34 .56": 12.9,
    "12.34s.56": 12.9,
    "1m": 60,
    "1M": 2630016,
    "1w": 604800,
    "2000000us": 2,
    "2000000\u00b5s": 2,
    "2000000\u03bcs": 2,
}


@pytest.mark.parametrize(("text", "seconds"), SPANS.items())
def test_time_spans(text: str, seconds: float) -> None:
    assert math.isclose(parse_span(text), seconds)


@pytest.mark.parametrize(
    "text",
    ["", "s", "5min ago", "-1", "+1", "1..2", "1.2.3", ".", "5MIN", "1e3", "1,5", "5\u00a0s", "\u0665"],
)
def test_no_time_spans(text: str) -> None:
    with pytest.raises(ValueError, match="time"):
        parse_span(text)


@given(st.text())
def test_a_time_span_is_a_number_or_a_plain_error(text: str) -> None:
    with suppress(ValueError):
        assert parse_span(text) >= 0


def test_services_file() -> None:
    known = parse_services(SERVICES.content)
    assert known["portmapper"] == {"tcp": 111, "udp": 111}
    assert not {"broken", "broken2", "broken3", ""} & set(known)


def test_the_first_line_of_a_service_counts() -> None:
    assert parse_services(b"a 1/tcp\na 2/tcp\nb 3/tcp a\n\xff 4/tcp\nc 1" + b"1" * 5000 + b"/tcp")["a"] == {"tcp": 1}


@given(st.integers(0, 65535), st.integers(0, 65535), st.sampled_from(["tcp", "udp"]))
def test_ranges(one: int, other: int, protocol: str) -> None:
    names = PortNames(lambda: None)
    if one <= other:
        assert parse_port(f"{protocol}/{one}-{other}", names) == (protocol, (one, other), "")
    else:
        with pytest.raises(Wrong, match=f"write '{protocol}/{other}-{one}'"):
            parse_port(f"{protocol}/{one}-{other}", names)


@given(st.text(), st.binary())
def test_a_port_is_read_or_refused(text: str, services: bytes) -> None:
    parse_services(services)
    try:
        protocol, (first, last), path = parse_port(text, PortNames(lambda: SERVICES))
    except Wrong:
        return
    assert protocol == "unix" or 0 <= first <= last <= 65535
    assert bool(path) == (protocol == "unix")


@given(st.text(alphabet="ab-z[]!*?", min_size=1, max_size=8))
def test_an_open_bracket_is_refused(text: str) -> None:
    """fnmatch(3) takes it for the character itself, which nobody means."""
    is_open = "[" in re.sub(r"\[!?+\]?+[^\]]*\]", "", text)
    try:
        service_name(text)
        refused = ""
    except Wrong as wrong:
        refused = str(wrong)
    assert ("never closed" in refused) == is_open or "backwards" in refused


@pytest.mark.parametrize(
    "name", ["ssh", "getty@*", "xen[cd]", "[!x]y", "a[]]b", "a]b", "a[a-c-]b", "x[-a]", "luks\\x2d"]
)
def test_names_and_globs(name: str) -> None:
    assert service_name(name) == name


@pytest.mark.parametrize("name", ["collectd", "/usr/sbin/sshd", "/usr/lib/*/xen-?", "(sd-pam)", "a b"])
def test_executables(name: str) -> None:
    assert executable(name) == name


@pytest.mark.parametrize("line", ["ident/tcp", "113/udp6", "rstatd/1-3/rpc/udp", "127.0.0.1:ident/tcp"])
def test_inetd_lines(line: str) -> None:
    assert inetd_line(line) == line


def test_a_message_is_short_and_safe() -> None:
    assert quote("a\x1b[2J") == "'a\\x1b[2J'"
    assert len(quote("x" * 10000)) < 80
    assert did_you_mean("x" * 100000, ["approved"]) == ""


BY_HAND = """\
# a = 1
a = 1
"b c" . 'd' = [ # x = 1
  1, [2,
  3], # ]
  { e = "}", f = '#' },

]
g.h.i = '''
[not.a.table]
j = 1'''
k = "\\"#" # "
[l . m]
n = \"\"\"
o = \\
  \\"\"\" \"\"\"\"\"
p = {}
[[q]]
[[q]]
[q.r]
s = 1979-05-27 07:32:00
[[q.t]]
u = [ ]
[l]
"v\\u0077\\n" = { x.y = 1, z = [ { a = 1 }, "]" ] }
"""


def test_lines_by_hand() -> None:
    assert line_index(BY_HAND) == {
        ("a",): 2,
        ("b c",): 3,
        ("b c", "d"): 3,
        ("b c", "d", 0): 4,
        ("b c", "d", 1): 4,
        ("b c", "d", 1, 0): 4,
        ("b c", "d", 1, 1): 5,
        ("b c", "d", 2): 6,
        ("b c", "d", 2, "e"): 6,
        ("b c", "d", 2, "f"): 6,
        ("g",): 9,
        ("g", "h"): 9,
        ("g", "h", "i"): 9,
        ("k",): 12,
        ("l",): 24,
        ("l", "m"): 13,
        ("l", "m", "n"): 14,
        ("l", "m", "p"): 17,
        ("q",): 18,
        ("q", 0): 18,
        ("q", 1): 19,
        ("q", 1, "r"): 20,
        ("q", 1, "r", "s"): 21,
        ("q", 1, "t"): 22,
        ("q", 1, "t", 0): 22,
        ("q", 1, "t", 0, "u"): 23,
        ("l", "vw\n"): 25,
        ("l", "vw\n", "x"): 25,
        ("l", "vw\n", "x", "y"): 25,
        ("l", "vw\n", "z"): 25,
        ("l", "vw\n", "z", 0): 25,
        ("l", "vw\n", "z", 0, "a"): 25,
        ("l", "vw\n", "z", 1): 25,
    }


@pytest.mark.parametrize("text", ["0.0.0.0", "192.0.2.10", "::", "2001:db8::1", "fe80::1%eth0"])
def test_addresses(text: str) -> None:
    assert ip_address(text) == text


@pytest.mark.parametrize(
    "text", ["1.2.3", "1.2.3.256", "01.2.3.4", "1.2.3.4.5", "*", "[::1]", "::1/128", "::%a\nb", ""]
)
def test_no_addresses(text: str) -> None:
    with pytest.raises(Wrong):
        ip_address(text)


@given(st.ip_addresses())
def test_every_address_is_one(address: object) -> None:
    assert ip_address(str(address)) == str(address)
