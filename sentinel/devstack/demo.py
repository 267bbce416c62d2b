"""What `sentinel dev` tells the user: where Sentinel listens, who may call it, and two calls to paste. Pure text."""

import json
from collections.abc import Mapping
from typing import Final

_WHO: Final = {"free": "small limits", "pro": "large limits", "spent": "limits used up: answers 429"}


def greeting(url: str, admin_url: str, *, tokens: Mapping[str, str], provider: str, model: str, logs: str) -> str:
    """The text printed when everything runs; `tokens` is empty where Zion is a real one.

    Beside what is to be pasted stands nothing: no indent, no prompt, one line for the shell.
    """
    token = tokens.get("pro", "YOUR_TOKEN")
    lines = [
        "",
        f"Sentinel listens on {url} (base URL for SDKs: {url}/v1). Answers come from {provider}; logs are in {logs}.",
        f"For operators: {admin_url}/metrics, {admin_url}/health/ready.",
        "Ctrl-C stops it and everything it started.",
    ]
    if tokens:
        lines += ["", "Tokens:"]
        lines += [f"{name} ({_WHO.get(name, 'demo user')}):\n{value}" for name, value in tokens.items()]
    return "\n".join(
        [*lines, "", "In a shell:", curl(url, token, model), "", "In Python (pip install openai):", snippet(url, token, model)]
    )


def curl(url: str, token: str, model: str) -> str:
    """One line for a shell that gets a chat completion."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello!"}]})
    return (
        f"curl -sS {url}/v1/chat/completions -H 'Authorization: Bearer {token}' -H 'Content-Type: application/json' -d '{body}'"
    )


def snippet(url: str, token: str, model: str) -> str:
    """A few lines of Python that stream a chat completion through the OpenAI SDK."""
    asked = f'model="{model}", stream=True, messages=[{{"role": "user", "content": "Hello!"}}]'
    return "\n".join(
        (
            "from openai import OpenAI",
            f'client = OpenAI(base_url="{url}/v1", api_key="{token}")',
            f"stream = client.chat.completions.create({asked})",
            'print("".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices))',
        )
    )
