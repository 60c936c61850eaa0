"""Fuzzing: every parser is fed bytes that nobody thought of. Run by `scripts/fuzz`; `docs/reliability.md` says how."""
