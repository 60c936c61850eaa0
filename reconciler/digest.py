"""SHA-256 without OpenSSL: ``hashlib`` brings 3.5 MiB of it along, for the life of the daemon.

As the stdlib's own ``random`` does it: the module behind ``hashlib``, under the name that it has had since 3.12, or
the one before.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

__all__ = ["sha256"]

if TYPE_CHECKING:
    from hashlib import sha256
elif sys.version_info >= (3, 12):
    from _sha2 import sha256
else:
    from _sha256 import sha256
