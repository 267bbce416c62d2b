"""What a request says of cost that neither it nor a stream of its answer will show. Cannot fail."""

from collections.abc import Iterable
from typing import Any, Final

# Members by which a request asks for output that no text shows: thought, at one vendor or another; and a prediction, which is
# paid as output where the model does not take it.
HIDDEN: Final = frozenset(
    {"reasoning", "reasoning_effort", "include_reasoning", "thinking", "thinking_config", "enable_thinking", "extra_body"}
    | {"chat_template_kwargs", "providerOptions", "provider_options", "prediction"}
)
# Tools of the caller's own; the provider's write into the prompt what they find.
_OWN_TOOLS: Final = frozenset({"function", "custom"})


def has_hosted(tools: Iterable[Any] | None) -> bool:
    """Whether one of `tools` works at the provider."""
    return any(not isinstance(tool, dict) or tool.get("type") not in _OWN_TOOLS for tool in tools or ())


def refers(body: bytes, items: Any) -> bool:
    """Whether `items` of a response, or files in them, lie elsewhere; ids of objects are seen to by themselves."""
    if b"item_reference" in body or b"file_url" in body:
        return True
    return b'"id"' in body and isinstance(items, list) and any(map(_refers, items))


def _refers(item: Any) -> bool:
    """Whether an item is a reference, which need not say so."""
    return isinstance(item, dict) and "id" in item and "content" not in item and item.get("type") is None
