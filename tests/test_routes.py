"""routes: the table is whole, every row is guarded, and no path can be read in two ways."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.errors import SentinelError, UnknownPathError, WrongMethodError
from sentinel.protocol import routes
from sentinel.protocol.routes import KINDS, ROUTES
from sentinel.records import Dialect, Reads, Route, Scope

IDS = {kind: f"{described.prefixes[0]}abc123" for kind, described in KINDS.items()}


def path_of(route: Route) -> str:
    """A path that the row's template describes."""
    path = route.template
    for kind, name in IDS.items():
        path = path.replace(f"{{{kind}}}", name)
    return "/v1" + routes._PLACEHOLDER.sub("some-name", path)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.template}")
def test_every_row_is_found_under_its_own_path(route: Route) -> None:
    """E4: no row hides another, and the objects in a path come with their kinds."""
    found = routes.match(route.method, path_of(route))
    assert found.route is route
    assert dict(found.named) == {kind: name for kind, name in IDS.items() if f"{{{kind}}}" in route.template}


def test_no_row_stands_twice() -> None:
    """Each method and path has one row."""
    keys = [(route.method, route.template) for route in ROUTES]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.template}")
def test_a_row_that_names_objects_is_owned(route: Route) -> None:
    """What names an object in its path is never forwarded without a guard; what makes objects says where their ids are."""
    if any(f"{{{kind}}}" in route.template for kind in KINDS):
        assert route.scope is Scope.OWNED
    if route.polls:
        assert route.leaves
    if route.method != "POST":
        assert route.reads is Reads.NOTHING
        assert route.dialect is Dialect.NONE


def test_what_models_do_without_tokens_shows_its_model() -> None:
    """Design §5: videos and trained models are made by a model, so that an allow-list is about them as well."""
    assert {route.template for route in ROUTES if route.by_model} == {"/videos", "/fine_tuning/jobs"}


def test_only_what_takes_files_goes_by_unread() -> None:
    """wire.md H18: what the SDKs send as a form, and nothing else; all other bodies are read."""
    assert {route.template for route in ROUTES if route.reads is Reads.ANY} == {
        "/content_provenance_checks",
        "/images/variations",
        "/audio/transcriptions",
        "/audio/translations",
        "/files",
        "/uploads/{upload}/parts",
        "/skills",
        "/skills/{skill}/versions",
        "/audio/voice_consents",
    }


def test_head_is_answered_where_get_is() -> None:
    """wire.md H16: HEAD on what can be read, 405 with Allow elsewhere."""
    assert routes.match("HEAD", "/v1/models").route.method == "GET"
    with pytest.raises(WrongMethodError):
        routes.match("HEAD", "/v1/embeddings")
    with pytest.raises(WrongMethodError) as caught:
        routes.match("PUT", "/v1/files/file-abc")
    assert caught.value.headers == ((b"allow", b"DELETE, GET, HEAD"),)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions/",
        "/v1/foo",
        "/v1",
        "/",
        "",
        "/v1/files/../models",
        "/v1//files/file-a",
        "/v1/files/file-a/../../organization/users",
        "/v1/files/%2e%2e/models",
        "/v1/files/file-a%2Fcontent",
        "/v1/files/%66ile-a",
        "/v1/files/file-a/content/",
        "/v1/files/file-a\\..\\b",
        "/v1/models/a/../../files",
        "/v1/models/%00",
        "/v1/organization/users",
        "/v1/organization/admin_api_keys",
        "/v1/projects/p/api_keys",
        "/v1/realtime/client_secrets",
        "/v1/realtime",
        "/v1/agents",
        "/v1/fine_tuning/checkpoints/c/permissions",
        "http://elsewhere/v1/models",
        "/V1/models",
    ],
)
def test_what_is_not_in_the_table_is_404(path: str) -> None:
    """wire.md E4, H8, H17, item 7: other spellings, climbing paths, and the administration of the account are unknown."""
    with pytest.raises(UnknownPathError):
        routes.match("GET", path)


@pytest.mark.parametrize("name", ["gpt-4o", "openai/gpt-4o", "openai%2Fgpt-4o", "ft:gpt-4o:org::abc", "a/b/c.d"])
def test_models_keep_their_slashes(name: str) -> None:
    """wire.md H8: ids of models with a slash, raw or escaped."""
    assert routes.match("GET", f"/v1/models/{name}").route.label == "model"


@given(st.text(string.printable, max_size=60))
def test_any_path_has_a_row_or_an_error(text: str) -> None:
    """Whatever the path is, it is a row or one of the documented errors; an object's id is never empty and never escaped."""
    try:
        found = routes.match("GET", "/v1/files/" + text)
    except SentinelError as error:
        assert error.status in {404, 405}
    else:
        for _, name in found.named:
            assert name
            assert not set(name) & set("/%?#\\ \r\n")


def test_kinds_are_told_by_their_ids() -> None:
    """Each kind's ids are its own, so that an id in a body is refused in the right words."""
    assert {kind: routes.kind_of(name) for kind, name in IDS.items()} == {kind: kind for kind in IDS}
    assert routes.kind_of("anything") == "file"
    assert routes.not_found("file", "file-x").message == "No such File object: file-x"
