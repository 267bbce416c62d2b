"""Where the API takes the id of an object in a body: dotted paths from its top, `[]` for each element, `*` for any name.

Written down route by route from OpenAI's public description. What stands at one of these is an object of the account, whatever
it looks like. Cannot fail.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Final

Places = tuple[str, ...]


class Tree(dict[str, "Tree"]):
    """The members under which a place is reached; `taken` says that the texts here are ids themselves."""

    taken = False

    def under(self, name: str) -> "Tree | None":
        """What is reached through the member `name`, None where nothing is."""
        return self.get(name, self.get("*"))


@cache
def tree(places: Places) -> Tree:
    """`places` member by member. An element of a list stands where its list does."""
    top = Tree()
    for place in places:
        at = top
        for name in place.replace("[]", "").split("."):
            at = at.setdefault(name, Tree())
        at.taken = True
    return top


def _below(prefix: str, places: Iterable[str]) -> Places:
    return tuple(f"{prefix}.{place}" for place in places)


# ---- their parts -------------------------------------------------------------------------------------------------------

_CONTAINER: Final = ("file_ids[]", "skills[].skill_id")
_TOOL: Final = (
    "vector_store_ids[]",
    "container",
    *_below("container", _CONTAINER),
    "environment.container_id",
    *_below("environment", _CONTAINER),
    "input_image_mask.file_id",
)
# Items also repeat what the provider said earlier (results of a search, calls in a container): that is read, not fetched.
_ITEM: Final = ("content[].file_id", "output[].file_id", *_below("tools[]", _TOOL))
_RESPONSE: Final = (
    "previous_response_id",
    "conversation",
    "conversation.id",
    *_below("input[]", _ITEM),
    *_below("instructions[]", _ITEM),
    *_below("tools[]", _TOOL),
    "prompt.variables.*.file_id",
    "prompt_cache_options.comparison_response_id",
)
_RESOURCES: Final = (
    "tool_resources.code_interpreter.file_ids[]",
    "tool_resources.file_search.vector_store_ids[]",
    "tool_resources.file_search.vector_stores[].file_ids[]",
)
_ASSISTANT: Final = ("file_ids[]", *_RESOURCES)
_MESSAGE: Final = ("file_ids[]", "content[].image_file.file_id", "attachments[].file_id")
_THREAD: Final = (*_below("messages[]", _MESSAGE), *_RESOURCES)

# ---- the table ---------------------------------------------------------------------------------------------------------

# By the path of a POST, as in openai/routes.py; a body of any other takes no object's id.
BY_ROUTE: Final[Mapping[str, Places]] = {
    "/chat/completions": ("messages[].content[].file.file_id", "audio.voice.id"),
    "/responses": _RESPONSE,
    "/responses/input_tokens": _RESPONSE,
    "/responses/compact": _RESPONSE,
    "/conversations": _below("items[]", _ITEM),
    "/conversations/{conversation}/items": _below("items[]", _ITEM),
    "/images/edits": ("images[].file_id", "mask.file_id"),
    "/audio/speech": ("voice.id",),
    "/audio/voices": ("consent",),
    "/vector_stores": ("file_ids[]",),
    "/vector_stores/{vector_store}/files": ("file_id",),
    "/vector_stores/{vector_store}/file_batches": ("file_ids[]", "files[].file_id"),
    "/containers": _CONTAINER,
    "/containers/{container}/files": ("file_id",),
    "/batches": ("input_file_id",),
    "/fine_tuning/jobs": ("training_file", "validation_file"),
    "/videos": ("input_reference.file_id", "characters[].id"),
    "/videos/edits": ("video.id",),
    "/videos/extensions": ("video.id",),
    "/evals/{eval}/runs": ("data_source.source.id", *_below("data_source.sampling_params.tools[]", _TOOL)),
    "/assistants": _ASSISTANT,
    "/assistants/{assistant}": _ASSISTANT,
    "/threads": _THREAD,
    "/threads/{thread}": _THREAD,
    "/threads/{thread}/messages": _MESSAGE,
    "/threads/{thread}/runs": ("assistant_id", *_below("additional_messages[]", _MESSAGE)),
    "/threads/runs": ("assistant_id", *_below("thread", _THREAD), *_RESOURCES),
}
