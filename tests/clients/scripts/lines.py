"""What every Python script here does: run the scenarios on the command line, write a JSON line of each to the file `told`."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

HELLO: list[Any] = [{"role": "user", "content": "Say something about rivers."}]
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Get the weather of a city.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "Its name."}},
                "required": ["city"],
            },
        },
    }
]
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


def run(scenarios: Mapping[str, Callable[[], Any]], failure: Callable[[Exception], dict[str, Any]]) -> None:
    """`{"scenario", "told"}` for what a scenario returns, `{"scenario", "error"}` for what it raises."""
    with Path("told").open("w") as lines:
        for name in sys.argv[1:]:
            try:
                line = {"told": scenarios[name]()}
            except Exception as error:  # noqa: BLE001 - whatever a client raises is what is asked for
                line = {"error": failure(error)}
            print(json.dumps({"scenario": name, **line}), file=lines, flush=True)


def api_failure(error: Exception) -> dict[str, Any]:
    """What a program can see of an exception of the `openai` package; its class is the one of that package it is caught by."""
    classes = [kind.__name__ for kind in type(error).__mro__ if kind.__module__.split(".")[0] == "openai"]
    names = {"status": "status_code", "code": "code", "type": "type", "param": "param", "request_id": "request_id"}
    seen = {name: getattr(error, attribute, None) for name, attribute in names.items()}
    return {"class": [*classes, type(error).__name__][0], "message": str(error), **seen}
