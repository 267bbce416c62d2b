"""The settings: read once from the environment and `.env` into one frozen Struct.

Fails as a whole: `read` collects every problem, by variable name, and raises one `SettingsError` (the command line exits
with 2). Each field carries its variable, unit and one sentence; docs/settings.md and `.env.example` are tested against them.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, get_args, get_origin, get_type_hints

import msgspec
from dotenv import dotenv_values

from sentinel.ops.settings import lists
from sentinel.ops.settings.gateway import GatewaySettings
from sentinel.ops.settings.public_keys import missing
from sentinel.ops.settings.variable import Variable, text_of, value_of

HIDDEN: Final = "(hidden)"


class SettingsError(Exception):
    """Wrong or missing settings; `problems` has one sentence for each, beginning with the variable's name."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Settings(GatewaySettings, frozen=True, kw_only=True):
    """The effective settings of one deployment: every group below, in the order of the documentation."""


def variables() -> list[tuple[str, Variable]]:
    """Every setting as (field name, variable), in the order of the documentation."""
    hints = get_type_hints(Settings, include_extras=True)
    return [(name, _variable(hints[name])) for name in Settings.__struct_fields__]


def read(environ: Mapping[str, str] | None = None, dotenv: Path | None = Path(".env")) -> Settings:
    """The settings from `environ` (default: this process's) over the file `dotenv`.

    Raises SettingsError with every problem at once.
    """
    outside: dict[str, str] = {}
    if dotenv is not None and dotenv.is_file():
        outside.update({name: value for name, value in dotenv_values(dotenv).items() if value is not None})
    outside.update(os.environ if environ is None else environ)
    problems: list[str] = []
    values: dict[str, Any] = {}
    hints = get_type_hints(Settings, include_extras=True)
    for field in msgspec.structs.fields(Settings):
        variable = _variable(hints[field.name])
        text = text_of(variable, outside, problems)
        if text:
            values[field.name] = value_of(variable, get_args(hints[field.name])[0], text, problems)
        elif variable.required:
            problems.append(f"{variable.name} is not set: {variable.help}")
    _complete(values, problems)
    if problems:
        raise SettingsError(problems)
    return Settings(**values)


def shown(settings: Settings) -> list[tuple[str, str]]:
    """Every setting as (variable, value) with secrets hidden, for `sentinel config`."""
    rows = []
    for field, variable in variables():
        value = getattr(settings, field)
        rows.append((variable.name, HIDDEN if variable.secret and value else str(value)))
    return rows


def _variable(hint: Any) -> Variable:
    assert get_origin(hint) is Annotated
    variable = get_args(hint)[1]
    assert isinstance(variable, Variable)
    return variable


def _complete(values: dict[str, Any], problems: list[str]) -> None:
    """Fill in what depends on other settings, and check what only holds between two."""
    values.setdefault("provider", "openai" if "openai_api_key" in values else "vercel")
    values.setdefault("workers", os.cpu_count() or 1)
    fresh, stale = (values.get(field, _default(field)) for field in ("cache_ttl_s", "limits_stale_s"))
    if isinstance(fresh, int) and isinstance(stale, int) and stale < fresh:
        problems.append(f"SENTINEL_STALE_LIMITS_SECONDS is {stale}, shorter than CACHE_TTL_SECONDS, {fresh}")
    port, admin_port = (values.get(field, _default(field)) for field in ("port", "admin_port"))
    if port == admin_port:
        problems.append(f"SENTINEL_ADMIN_PORT is {admin_port}, as is SENTINEL_PORT; choose another for one of them")
    if values.get("zion_jwks_url") and (absent := missing()):
        problems.append(f"ZION_JWKS_URL {absent}")
    if values.get("zion_jwks_url") and values.get("zion_jwt_public_key"):
        problems.append("ZION_JWKS_URL and ZION_JWT_PUBLIC_KEY are both set: keys come from one of them")
    _check_fallbacks(values.get("fallback_models", ""), values.get("allowed_models", ""), problems)
    keys = {"openai": ("openai_api_key", "OPENAI_API_KEY"), "vercel": ("vercel_api_key", "VERCEL_AI_GATEWAY_API_KEY")}
    field, name = keys.get(values["provider"], ("provider", ""))
    if field not in values:
        other = " (or OPENAI_API_KEY)" if values["provider"] == "vercel" else ""
        problems.append(f"{name}{other} is not set: without it no provider can be asked")


def _check_fallbacks(fallbacks: str, allowed: str, problems: list[str]) -> None:
    """A caller must not get from a fallback what may not be asked for."""
    try:
        models, patterns = lists.fallback_models(fallbacks), lists.patterns(allowed)
    except ValueError:
        return  # told already, by the variable itself
    problems.extend(
        f"SENTINEL_FALLBACK_MODELS hands {model} on to {other}, which SENTINEL_ALLOWED_MODELS does not allow"
        for model, other in models.items()
        if patterns and not lists.matches(other, patterns)
    )


def _default(field: str) -> object:
    return next(one.default for one in msgspec.structs.fields(Settings) if one.name == field)
