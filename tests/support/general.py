"""Sentinel whose journey asks its stages for every case, never for the usual one: `python -m tests.support.general serve`.

A usual case that is asked all the same is a defect: its request is answered with 500. Wrong settings are raised.
"""

import sys
from typing import Any, Final, NoReturn

from sentinel import serve
from sentinel.ops import settings

# Not `Auth.known`, which is also asked about who is refused.
USUAL: Final = (
    ("sentinel.stages.ownership", "Owners", "usual"),
    ("sentinel.upstream.provider", "OpenAI", "ask"),
    ("sentinel.upstream.provider", "Vercel", "ask"),
    ("sentinel.stages.settlement", "Settlement", "usual"),
)


def create() -> Any:
    """The application of a worker."""
    # Here and not above: metrics, once imported, have the place of their files, which `serve` makes first.
    from sentinel.app import App

    for module, stage, name in USUAL:
        kind = getattr(sys.modules[module], stage)
        assert callable(getattr(kind, name))
        setattr(kind, name, _asked)
    return App(usual=False)


def _asked(*_arguments: Any) -> NoReturn:
    raise AssertionError("the usual case was asked of a gateway that has none")


if __name__ == "__main__":
    assert sys.argv[1:] == ["serve"]
    serve.serve(settings.read(), "tests.support.general:create")
