"""Hold a Xen Domain-0 on Debian in the state that a TOML file declares."""

__version__ = "0.1.0"
