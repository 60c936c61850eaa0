"""The project's tests; a package, so that every scenario can import the harness as `tests.hosts`."""
