"""What is left when the product is killed, or the system refuses a call of it, at each instant there is.

`calls` breaks each system call of a pass in turn, `kills` kills the daemon of a real host; docs/reliability.md is the
tour. `python3 -m tests.crash` (scripts/crash) runs either in full, the suite runs a part.
"""
