"""routes: the table is whole, every row is guarded, and no path can be read in two ways."""

import re
import string
from pathlib import Path

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sentinel.openai import objects, refused_routes, routes
from sentinel.openai.objects import KINDS
from sentinel.openai.routes import ROUTES
from sentinel.ops.errors import ForbiddenError, SentinelError, UnknownPathError, WrongMethodError
from sentinel.ops.records import Dialect, Reads, Route, Scope

PATHS = Path(__file__).parents[1] / "samples" / "openai_paths.txt"
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
    assert dict(found.referenced_ids) == {kind: name for kind, name in IDS.items() if f"{{{kind}}}" in route.template}
    # By this owners.usual knows that nobody need be asked whose it is.
    assert ("{" in route.template) == bool(found.referenced_ids or found.parts or route.template.startswith("/models/"))


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
        assert route.creates
    if route.method != "POST":
        assert route.reads is Reads.NOTHING
        assert route.dialect is Dialect.NONE


def test_what_models_do_without_tokens_shows_its_model() -> None:
    """Design §5: videos and trained models are made by a model, so that an allow-list is about them as well."""
    assert {route.template for route in ROUTES if route.by_model} == {"/videos", "/fine_tuning/jobs"}


def test_only_what_takes_files_goes_by_unread() -> None:
    """Rule H18: what the SDKs send as a form, and nothing else; all other bodies are read."""
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
    """Rule H16: HEAD on what can be read, 405 with Allow elsewhere."""
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
        "/v1/organization/",
        "/v1/organization/../models",
        "/v1/organization//users",
        "/v1/organization/%2e%2e/models",
        "/v1/organizations",
        "/v1/organization/users?a=b",
        "/v1/realtime/a\\b",
        "/v1/creditsx",
        "/v1/credits/x",
        "/v1/files/organization/users",
        "/v1/fine_tuning/checkpoints/permissions",
        "/organization/users",
        "http://elsewhere/v1/models",
        "http://elsewhere/v1/organization/users",
        "/V1/models",
    ],
)
def test_what_is_not_in_the_table_is_404(path: str) -> None:
    """Rules E4, H8, H17, item 7: other spellings, climbing paths, also of what is refused, are unknown."""
    with pytest.raises(UnknownPathError):
        routes.match("GET", path)


def described() -> dict[str, set[str]]:
    """The methods of every path of OpenAI's public API, by the list that was read."""
    rows = [line.split() for line in PATHS.read_text().splitlines() if not line.startswith("#")]
    return {path: set(methods) for path, *methods in rows}


@pytest.mark.parametrize(("path", "methods"), described().items(), ids=described())
def test_every_path_of_the_public_api_is_a_route_or_refused(path: str, methods: set[str]) -> None:
    """None is forgotten; a route has every method the API has, and what is refused is so with any method."""
    target = "/v1" + path.replace("{}", "some-name")
    if refused_routes.reason(target):
        for method in (*methods, "HEAD", "PUT", "X"):
            with pytest.raises(ForbiddenError, match="is not available through this gateway: ") as caught:
                routes.match(method, target)
            assert (caught.value.status, caught.value.code) == (403, "route_not_available")
            assert (
                caught.value.message
                == f"{method} {target} is not available through this gateway: {refused_routes.reason(target)}."
            )
    else:
        for method in methods:
            found = routes.match(method, target)
            assert re.sub(r"\{_?[a-z_]+\}", "{}", found.route.template) == path


def test_the_list_has_what_the_sdk_asks_for() -> None:
    """A newer SDK among the tests that knows a path which was not looked at is told."""
    calls = re.compile(r'self\._(get_api_list|get|post|put|patch|delete)\(\s*(?:path_template\(\s*)?"(/[^"?]*)')
    (package,) = openai.__path__
    asked = set()
    for source in (Path(package) / "resources").rglob("*.py"):
        asked |= {re.sub(r"\{\w+\}", "{}", path) for _, path in calls.findall(source.read_text())}
    assert len(asked) > 200
    assert asked <= set(described())


@pytest.mark.parametrize("one", refused_routes.REFUSED, ids=lambda one: one.path)
def test_a_refusal_hides_no_route_and_stands_for_something(one: refused_routes.Refused) -> None:
    """What is refused is no route, is a path of OpenAI's or of Vercel's, and says why in a sentence that goes on."""
    begin = one.path.removesuffix("/*")
    assert not [route for route in ROUTES if route.template == begin or route.template.startswith(f"{begin}/")]
    told = [
        path for path in described() if re.sub(r"\{\w*\}", "{}", f"{path}/").startswith(re.sub(r"\{\w*\}", "{}", f"{begin}/"))
    ]
    assert told or begin in {"/credits", "/generation", "/report", "/messages"}
    assert re.fullmatch(r"(it|what) [a-z].*[a-z]", one.reason)


def test_a_run_of_an_eval_is_cancelled_under_both_its_paths() -> None:
    """As the description has it, and as an SDK does; metered alike."""
    plain = routes.match("POST", "/v1/evals/eval_1/runs/run_1")
    under_cancel = routes.match("POST", "/v1/evals/eval_1/runs/run_1/cancel")
    assert plain.referenced_ids == under_cancel.referenced_ids == (("eval", "eval_1"),)
    assert plain.route == replace(under_cancel.route, template=plain.route.template)


@pytest.mark.parametrize("name", ["gpt-4o", "openai/gpt-4o", "openai%2Fgpt-4o", "ft:gpt-4o:org::abc", "a/b/c.d"])
def test_models_keep_their_slashes(name: str) -> None:
    """Rule H8: ids of models with a slash, raw or escaped."""
    assert routes.match("GET", f"/v1/models/{name}").route.label == "model"


@given(st.text(string.printable, max_size=60))
def test_any_path_has_a_row_or_an_error(text: str) -> None:
    """Whatever the path is, it is a row or one of the documented errors; an object's id is never empty and never escaped."""
    try:
        found = routes.match("GET", "/v1/files/" + text)
    except SentinelError as error:
        assert error.status in {404, 405}
    else:
        for _, name in found.referenced_ids:
            assert name
            assert not set(name) & set("/%?#\\ \r\n")


def test_kinds_are_told_by_their_ids() -> None:
    """Each kind's ids are its own, so that an id in a body is refused in the right words."""
    assert {kind: objects.kind_of(name) for kind, name in IDS.items()} == {kind: kind for kind in IDS}
    assert objects.kind_of("anything") == "file"
    assert objects.not_found("file", "file-x").message == "No such File object: file-x"
