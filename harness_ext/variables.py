"""`make TARGET NAME=value` with a NAME that the target does not read: what to say. Called by the Makefile alone.

Gets names, never values, and needs no library, as it may run before `make setup`.
"""

import difflib
import os
import sys


def main() -> int:
    """Name what is not read in one line; the exit code is that of wrong input."""
    goals, reads, unread = (os.environ.get(name, "").split() for name in ("MAKECMDGOALS", "READS", "UNREAD"))
    said = []
    for name in unread:
        near = difflib.get_close_matches(name.upper(), reads, n=2)
        said.append(f"{name} (did you mean {' or '.join(near)}?)" if near else name)
    known = " ".join(sorted(reads)) or "no variable"
    print(f"Error: make {' '.join(goals)} does not read {', '.join(said)}. It reads {known}.", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
