"""Prompts outside of chats: texts and lists of tokens, as completions and embeddings have them, or as other routes may.

Fails closed where the format is known: what is of no one kind is BadRequestError, in OpenAI's words. Where it is not, anything
is a prompt, and of at least a token.
"""

from typing import Any, Final

from sentinel.openai.request import validation_errors
from sentinel.ops.records import Prompt, ResponsesPrompt, TextPrompt

Given = str | list[str | int | list[int]]

_UNKNOWN: Final = TextPrompt(tokens_given=1)


def read(given: Given, name: str) -> tuple[TextPrompt, int]:
    """The prompt in `given` and how many prompts it holds; a list of integers is one prompt (rule T4)."""
    if isinstance(given, str):
        return TextPrompt((given,)), 1
    kinds = set(map(type, given))
    if kinds == {str}:
        return TextPrompt(given), len(given)  # type: ignore[arg-type]
    if kinds == {int}:
        return TextPrompt(tokens_given=len(given)), 1
    if kinds == {list}:
        return TextPrompt(tokens_given=sum(map(len, given))), len(given)  # type: ignore[arg-type]
    raise validation_errors.mixed_array(name) if kinds else validation_errors.empty_array(name)


def guess(*given: Any) -> Prompt:
    """Texts and token lists in what stands under the usual names, or items as a response has them; instructions come first."""
    texts: list[str] = []
    tokens = 0
    for value in given:
        if isinstance(value, str):
            texts.append(value)
        elif isinstance(value, list):
            if any(isinstance(part, dict) for part in value):
                return ResponsesPrompt(value, given[0])
            texts += [part for part in value if isinstance(part, str)]
            tokens += sum(len(part) if isinstance(part, list) else isinstance(part, int) for part in value)
    return TextPrompt(texts, tokens) if tokens or any(texts) else _UNKNOWN
