"""What scripts/demo shows: a throw-away Domain-0, and the reconciler at work on it."""
