"""openai.response.model_list and Owners.show_models: a list of models without those of others, every other byte as it was."""

import json
from collections.abc import Sequence
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.ledger import Ledger
from sentinel.openai.response import model_list
from sentinel.ops.errors import LedgerUnavailableError, UpstreamError
from sentinel.ops.records import Caller, Origin
from sentinel.stages.ownership import Owners
from sentinel.upstream.provider import Whole

# By the name under which its owner is known.
TUNED = {"ft:one": "ft:one", "ft:two": "ft:two", "ft:two:ckpt-step-1": "ft:two", "openai/ft:three": "ft:three"}
NAMES = st.sampled_from(["gpt-4o", "left:x", *TUNED])
ANNA = Caller("anna", "anna@example.test")


def listed(names: Sequence[str], **more: Any) -> dict[str, Any]:
    """A list of models."""
    return {"object": "list", "data": [{"id": name, "object": "model", "x": [1, {"a": "]},"}]} for name in names], **more}


@given(st.lists(NAMES, max_size=6), st.sets(st.sampled_from(["ft:one", "ft:two", "ft:three"])), st.sampled_from([None, 0, 2]))
def test_what_is_not_hidden_stays(names: list[str], hidden: set[str], indent: int | None) -> None:
    """Whatever is hidden, the rest is what the provider said, in its order and layout."""
    body = json.dumps(listed(names, has_more=False), indent=indent).encode()
    found = model_list.tuned(body)
    assert found == {TUNED[name] for name in names if name in TUNED}
    shown = model_list.without(body, hidden & found)
    kept = [name for name in names if TUNED.get(name) not in hidden]
    assert json.loads(shown) == listed(kept, has_more=False)
    if kept == names:
        assert shown == body


@pytest.mark.parametrize("body", [b"ft:", b'{"data":"ft:one"}', b'["ft:one"]', b'{"data":[{"id":"ft:one"}', b'\xff"ft:'])
def test_what_cannot_be_read_is_refused(body: bytes) -> None:
    """What may name a model and is no list raises ValueError."""
    with pytest.raises(ValueError, match="no list"):
        model_list.tuned(body)


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"data":[]}', b"[]", json.dumps(listed(["gpt-4o"])).encode()])
def test_what_names_none_is_not_read(body: bytes) -> None:
    """Without a fine-tuned model there is nothing to hide."""
    assert model_list.tuned(body) == frozenset()


class _Known:
    """A ledger that knows owners of models, or is away."""

    def __init__(self, owners: dict[str, str] | None) -> None:
        self.owners = self
        self._owners = owners

    async def known(self, names: Sequence[str]) -> dict[str, str]:
        if self._owners is None:
            raise LedgerUnavailableError("away")
        return {name: self._owners[name] for name in names if name in self._owners}


BODY = json.dumps(listed(["gpt-4o", "ft:annas", "ft:berts", "ft:nobodys"])).encode()


async def shown(mode: str, owners: dict[str, str] | None, body: bytes = BODY) -> tuple[bytes, dict[bytes, bytes]]:
    """What Anna sees of a list, and its headers."""
    stage = Owners(cast("Ledger", _Known(owners)), mode=mode, life_s=5)
    reply = await stage.show_models(ANNA, Whole(((b"content-type", b"application/json"),), body, Origin()))
    text = b""
    while chunk := await reply.read():
        text += chunk
    return text, dict(reply.headers)


OWNED = {"ft:annas": "anna", "ft:berts": "bert"}


async def test_a_list_has_ones_own_and_nobodys() -> None:
    """Others' fine-tuned models are not in it, and its length is right."""
    text, headers = await shown("owned", OWNED)
    assert [model["id"] for model in json.loads(text)["data"]] == ["gpt-4o", "ft:annas", "ft:nobodys"]
    assert headers == {b"content-type": b"application/json", b"content-length": b"%d" % len(text)}


@pytest.mark.parametrize("mode", ["off", "stateless", "all"])
async def test_where_nothing_has_an_owner_the_list_is_the_providers(mode: str) -> None:
    """Models can be made in one mode with owners only, so that elsewhere each is everybody's to ask and to see."""
    assert (await shown(mode, None))[0] == BODY


async def test_while_redis_is_away_a_list_with_such_models_is_refused() -> None:
    """Nobody can say whose they are; a list without them is answered."""
    with pytest.raises(LedgerUnavailableError):
        await shown("owned", None)
    plain = json.dumps(listed(["gpt-4o"])).encode()
    assert (await shown("owned", None, plain))[0] == plain


@pytest.mark.parametrize("body", [b'{"data":"ft:one"}', b"x" * (16 * 2**20 + 1)], ids=["unreadable", "too long"])
async def test_a_list_that_cannot_be_searched_is_refused(body: bytes) -> None:
    """What may show others' models is the provider's failure, not its answer."""
    with pytest.raises(UpstreamError):
        await shown("owned", {}, body)
