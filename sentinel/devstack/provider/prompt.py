"""The input of a response, as messages whose tokens are counted and as items that are listed. Pure; cannot fail on JSON."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sentinel.devstack.provider.kinds import ITEM

# Of an item that is no message, what it says; the rest of it costs no tokens.
_SAID: Final = ("name", "arguments", "output", "input")


def items(given: Any) -> list[dict[str, Any]]:
    """`input` as items with ids, as GET /v1/responses/{id}/input_items and conversations show them."""
    if given is None:
        return []
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    return [_item(one) for one in given if isinstance(one, dict)]


def messages(given: Sequence[Mapping[str, Any]], instructions: Any = None) -> list[dict[str, Any]]:
    """Items as chat messages: instructions are a developer message, calls and their outputs messages of what they say."""
    opening = [{"role": "developer", "content": instructions}] if isinstance(instructions, str) else []
    return opening + [_message(one) for one in given]


def _item(one: Mapping[str, Any]) -> dict[str, Any]:
    kind = one.get("type") or "message"
    prefix = {"message": ITEM.prefix, "function_call": "fc_", "function_call_output": "fco_", "reasoning": "rs_"}
    name = one.get("id") or ITEM.new_id().replace(ITEM.prefix, prefix.get(kind, "item_"))
    shown = {**one, "id": name, "type": kind, "status": "completed"}
    if kind == "message" and isinstance(one.get("content"), str):
        part = {"type": "output_text", "annotations": []} if one.get("role") == "assistant" else {"type": "input_text"}
        shown["content"] = [{**part, "text": one["content"]}]
    return shown


def _message(one: Mapping[str, Any]) -> dict[str, Any]:
    if one.get("type") == "message":
        return {"role": one.get("role", "user"), "content": one.get("content") or ""}
    said = [one[field] for field in _SAID if one.get(field)]
    return {"role": "assistant" if "arguments" in one else "tool", "content": [part for part in said if isinstance(part, str)]}
