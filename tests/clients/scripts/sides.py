"""Runs one client's script once for each side, each in a process of its own: `sides.py SCRIPT MODULE…`.

The modules, which are the client's own, are imported once and before: that takes a second or two, a fork nothing. The sides
come as JSON on standard input: a list of {"scenarios", "environ", "home"}; each runs in its home. Exits with 1 where one
ends with an exception, which is written to standard error.
"""

import importlib
import json
import os
import runpy
import sys
import traceback
from typing import Any, NoReturn


def become(script: str, side: dict[str, Any]) -> NoReturn:
    """Run the script as if this process had been started for this side alone."""
    code = 0
    try:
        os.chdir(side["home"])
        os.environ.update(side["environ"], HOME=side["home"])
        sys.argv = [script, *side["scenarios"]]
        runpy.run_path(script, run_name="__main__")
    except BaseException:  # noqa: BLE001 - this process ends here, whatever it was
        traceback.print_exc()
        code = 1
    sys.stderr.flush()
    os._exit(code)  # a thousand modules are not taken down one by one


def main(script: str, *modules: str) -> int:
    """Start every side, wait for all of them."""
    for name in modules:
        importlib.import_module(name)
    children = []
    for side in json.load(sys.stdin):
        child = os.fork()
        if not child:
            become(script, side)
        children.append(child)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    return int(any(statuses))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
