"""Real Debian hosts in namespaces: booted in seconds, pristine each time, gone for sure afterwards.

`tests.hosts.host.boot` boots one; the fixtures are in `tests.hosts.plugin`; docs/testing.md is the tour.
"""
