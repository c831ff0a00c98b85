"""``python -m ops <subject> <verb> PERSIST_DIR …`` and, for our own children, ``python -m ops internal …``."""

from __future__ import annotations

import sys


def main(arguments: list[str]) -> int:
    """Dispatch without importing more than the call needs: a child that reads id maps must start in milliseconds."""
    if arguments[:1] != ["internal"]:
        from ops.cli import main as command_line

        return command_line(arguments)
    if arguments[1:2] == ["id-maps"]:
        from ops.store.id_map import serve

        serve(int(arguments[2]))
    from ops import internal

    if arguments[1] == "run":
        internal.run()
    return {"reader": internal.reader, "call": internal.call}[arguments[1]]()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
