"""The kernel argument that keeps the daemon off, or its hands."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.host.bootarg import boot_word, parse
from reconciler.host.files import Root


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("BOOT_IMAGE=/vmlinuz root=/dev/sda1 ro quiet\n", ""),
        ("ro dom0-reconciler=off quiet\n", "off"),
        ("placeholder dom0-reconciler=observe", "observe"),
        ("dom0-reconciler=off dom0-reconciler=observe", "observe"),
        ("dom0-reconciler=observe -- dom0-reconciler=off", "off"),
        ("dom0-reconciler=obsreve", "observe"),
        ("dom0-reconciler=", "observe"),
        ("xdom0-reconciler=off dom0-reconciler", ""),
        ("", ""),
    ],
)
def test_the_last_word_counts(line: str, word: str) -> None:
    assert parse(line) == word


def test_an_image_has_not_been_booted(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cmdline").write_text("dom0-reconciler=off\n")
    assert boot_word(Root(str(tmp_path))) == ""
