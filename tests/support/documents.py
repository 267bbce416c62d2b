"""The documents that follow from the code: `python -m tests.support.documents` writes them, tests/rules compares them.

The tables of docs/compatibility.md follow from sentinel/openai/routes.py and refused_routes.py, docs/settings.md and
`.env.example` from sentinel/ops/settings/, the tests of docs/wire-rules.md from the tests. Metrics are described by hand, so
only their names, types, labels and help are compared.
"""

from pathlib import Path

import msgspec

from sentinel.openai.refused_routes import REFUSED
from sentinel.openai.request.id_paths import BY_ROUTE
from sentinel.openai.routes import ROUTES
from sentinel.ops.records import Dialect, Reads, Route, Scope
from sentinel.ops.settings import Settings, variables
from sentinel.ops.settings.variable import Variable
from tests.support import wire_rules

ROOT = Path(__file__).parents[2]

_SETTINGS_HEAD = """# Settings

Read once at start from the environment, and from `.env` in the working directory for what the environment does not set.
Wrong or missing settings are all named at once, and the command exits with 2. `sentinel config` prints what is in effect,
with secrets hidden. A secret may come from a file: `NAME_FILE` names it.

| variable | default | unit | allowed | |
| --- | --- | --- | --- | --- |
"""

_ENV_HEAD = """# Settings of Sentinel; copy to .env. Everything is described in docs/settings.md.
# Required: Zion, and the key of one provider.
"""

_REFUSED_HEAD = "| path | why |\n| --- | --- |\n"
_ROUTES_HEAD = "| path | methods | forwarded in | body | answer | tokens counted |\n| --- | --- | --- | --- | --- | --- |\n"
_PLACES_HEAD = "| POST | ids of objects |\n| --- | --- |\n"
# What OpenAI documents beside plain JSON; the relay goes by the answer's own type, so it is for people only.
_STREAMED = ("/chat/completions", "/completions", "/responses", "/images/generations", "/images/edits", "/threads/runs")
_STREAMED_TOO = (
    "/responses/{response}",
    "/audio/speech",
    "/audio/transcriptions",
    "/threads/{thread}/runs",
    "/threads/{thread}/runs/{_run}/submit_tool_outputs",
)
_BODIES = {Reads.OBJECT: "JSON", Reads.WORK: "JSON", Reads.ANY: "any", Reads.FORM: "any, searched", Reads.NOTHING: "–"}
_COUNTED = {
    Dialect.CHAT: "usage, else what came down",
    Dialect.RESPONSES: "usage of the last event, else what came down",
    Dialect.EVENTS: "where the answer has usage",
    Dialect.MEDIA: "where the answer has usage",
    Dialect.NONE: "–",
}

_COMPUTED = {"provider": "openai or vercel, by key", "workers": "one a core"}
_EXAMPLES = {"zion_api_url": "https://zion.example.com", "zion_api_key": "change-me", "openai_api_key": "change-me"}


def default(field: str) -> str:
    """A field's default as it would be written, "" where there is none."""
    if field in _COMPUTED:
        return ""
    value = next(one.default for one in msgspec.structs.fields(Settings) if one.name == field)
    return "" if value is msgspec.NODEFAULT else f"{value:g}" if isinstance(value, float) else str(value)


def settings_page() -> str:
    """docs/settings.md."""
    rows = []
    for field, variable in variables():
        shown = _COMPUTED.get(field) or (f"`{default(field)}`" if default(field) else "required" if variable.required else "–")
        name = f"`{variable.name}`" + (" (secret)" if variable.secret else "")
        rows.append(f"| {name} | {shown} | {variable.unit or '–'} | {_allowed(variable)} | {variable.help} |")
    return _SETTINGS_HEAD + "\n".join(rows) + "\n"


def env_example() -> str:
    """`.env.example`: what is required stands uncommented, everything else with its default."""
    parts = [_ENV_HEAD]
    for field, variable in variables():
        line = f"{variable.name}={_EXAMPLES.get(field, default(field))}"
        parts.append(f"# {variable.help}\n{'' if field in _EXAMPLES else '# '}{line}\n")
    return "\n".join(parts)


def compatibility_page() -> str:
    """docs/compatibility.md with its tables as they are; the rest is written by hand."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for route in ROUTES:
        rows.setdefault(_route_cells(route), []).append(route.method)
    lines = [f"| `/v1{path}` | {' '.join(verbs)} | {' | '.join(cells)} |" for (path, *cells), verbs in rows.items()]
    page = _with_table((ROOT / "docs" / "compatibility.md").read_text(), "routes", _ROUTES_HEAD, lines)
    refusals = [f"| `/v1{refused.path}` | {refused.reason} |" for refused in REFUSED]
    page = _with_table(page, "refused paths", _REFUSED_HEAD, refusals)
    return _with_table(page, "places", _PLACES_HEAD, _places())


def _places() -> list[str]:
    """The places at which a body names objects; routes with the same places share a line."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for template, places in BY_ROUTE.items():
        rows.setdefault(places, []).append(f"`{template}`")
    return [f"| {', '.join(paths)} | {', '.join(f'`{one}`' for one in places)} |" for places, paths in rows.items()]


def _with_table(page: str, name: str, head: str, lines: list[str]) -> str:
    """`page` with a table of these lines where the one called `name` stands."""
    begin, end = f"<!-- {name}: written by `python -m tests.support.documents` -->\n", f"<!-- end of {name} -->"
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{head}" + "\n".join(lines) + f"\n\n{end}{after}"


def _route_cells(route: Route) -> tuple[str, str, str, str, str]:
    path = route.template.replace("{_", "{")
    streams = route.template in (*_STREAMED, *_STREAMED_TOO) and route.method != "DELETE" and route.scope is not Scope.ACCOUNT
    answer = "bytes" if path.endswith("/content") else "plain, stream" if streams else "plain"
    return path, f"`{route.scope.value}`", _BODIES.get(route.reads, "JSON, read"), answer, _COUNTED[route.dialect]


def _allowed(variable: Variable) -> str:
    if variable.choices:
        return ", ".join(f"`{choice}`" for choice in variable.choices)
    if variable.schemes:
        return ", ".join(f"`{scheme}://`" for scheme in variable.schemes)
    if variable.low is not None and variable.high is not None:
        return f"{variable.low:,} to {variable.high:,}"
    return f"{variable.low:,} or more" if variable.low is not None else "–"


if __name__ == "__main__":
    (ROOT / "docs" / "settings.md").write_text(settings_page())
    (ROOT / "docs" / "compatibility.md").write_text(compatibility_page())
    (ROOT / ".env.example").write_text(env_example())
    wire_rules.PAGE.write_text(wire_rules.page())
