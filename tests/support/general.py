"""Sentinel whose journey asks its stages for every case, never for the usual one: `python -m tests.support.general serve`."""

import sys

from sentinel import serve, settings
from sentinel.app import App

MODULE = "tests.support.general"


def create() -> App:
    """The application of a worker."""
    return App(usual=False)


if __name__ == "__main__":
    assert sys.argv[1:] == ["serve"]
    serve.serve(settings.read(), f"{MODULE}:create")
