"""Bare Debian roots: nothing but what apt needs, and perhaps one of Debian's tools. For what is tried beside hosts."""

from __future__ import annotations

from dataclasses import dataclass

from tests.hosts.recipes import SUITES, Recipe, Suite


@dataclass(frozen=True)
class BareRecipe(Recipe):
    """A root that no host boots from."""

    @property
    def name(self) -> str:
        """`trixie-bare-lintian`."""
        return "-".join((self.suite, "bare", *self.packages))

    @property
    def options(self) -> list[str]:
        """As mmdebstrap makes it: its apt can go on installing."""
        return []


def bare(suite: Suite, *packages: str) -> BareRecipe:
    """The least that Debian calls a system, and these packages without what they recommend."""
    return BareRecipe(suite, "systemd", packages, (), "")


def all_bare_recipes() -> list[BareRecipe]:
    """Those that tests ask for."""
    return [bare(suite, *tools) for suite in SUITES for tools in ((), ("lintian",), ("logrotate",))]
