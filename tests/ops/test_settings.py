"""Settings: read once, every problem at once, secrets never shown."""

import importlib.util
from pathlib import Path

import pytest

from sentinel.ops.settings import HIDDEN, SettingsError, lists, read, shown, variables

REQUIRED = {"ZION_API_URL": "http://zion.test", "ZION_API_KEY": "zk-secret", "OPENAI_API_KEY": "sk-secret"}


def problems(environ: dict[str, str]) -> list[str]:
    """The problems of an environment, as an operator sees them."""
    with pytest.raises(SettingsError) as caught:
        read(environ, dotenv=None)
    return caught.value.problems


def test_defaults_fill_in_everything_but_the_required() -> None:
    """Three variables are enough to run."""
    settings = read(REQUIRED, dotenv=None)
    assert (settings.provider, settings.port, settings.body_bytes_max) == ("openai", 8080, 33_554_432)
    assert settings.workers >= 1
    assert settings.upstream_url == "https://api.openai.com/v1"
    assert settings.upstream_key == "sk-secret"


def test_every_missing_variable_is_named_at_once() -> None:
    """An empty environment names all three missing variables in one run."""
    found = problems({})
    assert [line.split()[0] for line in found] == ["ZION_API_URL", "ZION_API_KEY", "VERCEL_AI_GATEWAY_API_KEY"]
    assert "OPENAI_API_KEY" in found[2]


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("SENTINEL_PORT", "eighty", "not a whole number"),
        ("SENTINEL_PORT", "0", "outside 1 to 65535"),
        ("SENTINEL_PORT", "70000", "outside 1 to 65535"),
        ("SENTINEL_ADMIN_PORT", "0", "outside 1 to 65535"),
        ("SENTINEL_ADMIN_PORT", "8080", "as is SENTINEL_PORT"),
        ("SENTINEL_PUBLIC_METRICS", "yes", "not one of true, false"),
        ("SENTINEL_WORKERS", "-1", "outside"),
        ("SENTINEL_LOG_LEVEL", "loud", "not one of"),
        ("SENTINEL_PROVIDER", "bard", "not one of"),
        ("ZION_USAGE_FORMAT", "xml", "not one of"),
        ("ZION_API_URL", "zion.test", "must be a URL"),
        ("ZION_API_URL", "ftp://zion.test", "must be a URL"),
        ("ZION_API_URL", "http://zion.test:99999", "must be a URL"),
        ("ZION_JWKS_URL", "zion.test/jwks.json", "must be a URL"),
        ("ZION_JWT_PUBLIC_KEY", "secret", "holds no PEM block"),
        ("ZION_JWT_PUBLIC_KEY", "-----BEGIN PRIVATE KEY-----\nAA\n-----END PRIVATE KEY-----", "only public keys belong"),
        ("ZION_JWT_PUBLIC_KEY", "-----BEGIN PUBLIC KEY-----\\nAA\\n-----END PUBLIC KEY-----", "cannot be read"),
        ("REDIS_URL", "localhost:6379", "must be a URL"),
        ("OPENAI_API_KEY", "sk secret", "no HTTP header"),
        ("SENTINEL_BODY_TIMEOUT_SECONDS", "nan", "outside"),
        ("SENTINEL_ROUTE_TIMEOUTS", "images", "not name=value"),
        ("SENTINEL_ROUTE_TIMEOUTS", "images=", "not name=value"),
        ("SENTINEL_ROUTE_TIMEOUTS", "Images=600", "no route label"),
        ("SENTINEL_ROUTE_TIMEOUTS", "a/b=600", "no route label"),
        ("SENTINEL_ROUTE_TIMEOUTS", "images=ten", "not a number of seconds"),
        ("SENTINEL_ROUTE_TIMEOUTS", "images=0", "outside 0.1 to 86,400 s"),
        ("SENTINEL_ROUTE_TIMEOUTS", "images=nan", "outside 0.1 to 86,400 s"),
        ("SENTINEL_ROUTE_TIMEOUTS", "images=1,images=2", "names something twice"),
        ("SENTINEL_FALLBACK_MODELS", "gpt-4o", "not name=value"),
        ("SENTINEL_FALLBACK_MODELS", "=gpt-4o", "not name=value"),
        ("SENTINEL_FALLBACK_MODELS", "a=b,a=c", "names something twice"),
        ("SENTINEL_FALLBACK_MODELS", "a=a", "in a ring"),
        ("SENTINEL_FALLBACK_MODELS", "a=b,b=c,c=a", "in a ring"),
        ("SENTINEL_FALLBACK_MODELS", "a=b,b=c,c=d,d=e,e=f", "more than 4 times"),
        ("SENTINEL_ALLOWED_MODELS", ",".join(map(str, range(1001))), "1001 patterns"),
    ],
)
def test_a_wrong_value_is_named_with_what_would_be_right(name: str, text: str, part: str) -> None:
    """Each problem begins with its variable and says what is wrong; a secret's value is not in it."""
    (problem,) = problems(REQUIRED | {name: text})
    assert problem.startswith(name)
    assert part in problem
    assert "sk secret" not in problem


def test_lists_are_read_with_their_blanks() -> None:
    """Several values stand in one variable, with blanks and empty parts where people put them."""
    assert lists.route_timeouts(" images = 600 , responses=1.5,") == {"images": 600.0, "responses": 1.5}
    assert lists.patterns("gpt-4o*, ,o3") == ("gpt-4o*", "o3")
    models = lists.fallback_models("a=b, b=c,x=y=z")
    assert models == {"a": "b", "b": "c", "x=y": "z"}
    assert lists.fallback_chain(models, "a") == ("b", "c")
    assert lists.fallback_chain(models, "c") == ()
    assert (lists.route_timeouts(""), lists.fallback_models(""), lists.patterns("")) == ({}, {}, ())


def test_a_fallback_must_be_allowed_itself() -> None:
    """Design §5: no caller gets from a fallback what may not be asked for."""
    allowed = {"SENTINEL_ALLOWED_MODELS": "gpt-4o*", "SENTINEL_FALLBACK_MODELS": "gpt-4o=gpt-4o-mini"}
    assert read(REQUIRED | allowed, dotenv=None).fallback_models == "gpt-4o=gpt-4o-mini"
    (problem,) = problems(REQUIRED | allowed | {"SENTINEL_FALLBACK_MODELS": "gpt-4o=o3-mini"})
    assert problem == "SENTINEL_FALLBACK_MODELS hands gpt-4o on to o3-mini, which SENTINEL_ALLOWED_MODELS does not allow"


def test_limits_cannot_be_too_old_before_they_age() -> None:
    """The bound on stale limits is checked against what counts as fresh."""
    (problem,) = problems(REQUIRED | {"CACHE_TTL_SECONDS": "600", "SENTINEL_STALE_LIMITS_SECONDS": "300"})
    assert problem.startswith("SENTINEL_STALE_LIMITS_SECONDS")


JWKS = {"ZION_JWKS_URL": "http://zion.test/.well-known/jwks.json"}
ED25519 = "-----BEGIN PUBLIC KEY-----\\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\\n-----END PUBLIC KEY-----"


def test_zions_keys_come_from_one_place() -> None:
    """Either is enough; of both, one would be forgotten when keys change."""
    assert read(REQUIRED | JWKS, dotenv=None).zion_jwks_url == JWKS["ZION_JWKS_URL"]
    assert read(REQUIRED | {"ZION_JWT_PUBLIC_KEY": ED25519}, dotenv=None).zion_jwt_public_key == ED25519
    (problem,) = problems(REQUIRED | JWKS | {"ZION_JWT_PUBLIC_KEY": ED25519})
    assert problem == "ZION_JWKS_URL and ZION_JWT_PUBLIC_KEY are both set: keys come from one of them"


@pytest.mark.parametrize("key", [JWKS, {"ZION_JWT_PUBLIC_KEY": ED25519}], ids=["url", "key"])
@pytest.mark.parametrize("library", ["jwt", "cryptography"])
def test_signatures_need_their_extra(monkeypatch: pytest.MonkeyPatch, library: str, key: dict[str, str]) -> None:
    """Where a library is missing, an operator is told what to install; without these settings nobody needs it."""
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == library else found(name))
    (problem,) = problems(REQUIRED | key)
    assert problem == f"{next(iter(key))} needs the extra signatures (pip install sentinel-gateway[signatures])"
    assert read(REQUIRED, dotenv=None).zion_jwks_url == ""


def test_all_wrong_values_are_named_together() -> None:
    """Three mistakes are three sentences in one run."""
    wrong = {"SENTINEL_PORT": "x", "SENTINEL_WORKERS": "x", "CACHE_TTL_SECONDS": "x"}
    assert {line.split()[0] for line in problems(REQUIRED | wrong)} == set(wrong)


def test_secrets_come_from_files(tmp_path: Path) -> None:
    """NAME_FILE is read, without its line end; NAME itself wins."""
    file = tmp_path / "key"
    file.write_text("sk-from-file\n")
    environ = {name: text for name, text in REQUIRED.items() if name != "OPENAI_API_KEY"} | {"OPENAI_API_KEY_FILE": str(file)}
    assert read(environ, dotenv=None).openai_api_key == "sk-from-file"
    assert read(environ | REQUIRED, dotenv=None).openai_api_key == "sk-secret"


def test_a_missing_secret_file_is_a_problem(tmp_path: Path) -> None:
    """A file that cannot be read is named by its variable."""
    found = problems(REQUIRED | {"ZION_API_KEY": "", "ZION_API_KEY_FILE": str(tmp_path / "none")})
    assert found[0].startswith("ZION_API_KEY_FILE cannot be read")


def test_the_environment_wins_over_dotenv(tmp_path: Path) -> None:
    """`.env` fills in what the environment does not set."""
    file = tmp_path / ".env"
    file.write_text("SENTINEL_PORT=9000\nSENTINEL_WORKERS=3\n")
    settings = read(REQUIRED | {"SENTINEL_PORT": "9001"}, dotenv=file)
    assert (settings.port, settings.workers) == (9001, 3)


def test_vercel_is_chosen_without_an_openai_key() -> None:
    """The provider follows the key that is there, unless it is named."""
    vercel = {"ZION_API_URL": "http://zion.test", "ZION_API_KEY": "k", "VERCEL_AI_GATEWAY_API_KEY": "vk"}
    assert read(vercel, dotenv=None).provider == "vercel"
    assert read(vercel | {"OPENAI_API_KEY": "sk"}, dotenv=None).provider == "openai"
    named = read(vercel | {"OPENAI_API_KEY": "sk", "SENTINEL_PROVIDER": "vercel"}, dotenv=None)
    assert (named.upstream_url, named.upstream_key) == ("https://ai-gateway.vercel.sh/v1", "vk")


def test_shown_settings_hide_every_secret() -> None:
    """`sentinel config` shows each variable once, and no secret."""
    rows = dict(shown(read(REQUIRED | {"REDIS_URL": "redis://:pw@localhost"}, dotenv=None)))
    assert set(rows) == {variable.name for _, variable in variables()}
    assert rows["ZION_API_KEY"] == rows["OPENAI_API_KEY"] == rows["REDIS_URL"] == HIDDEN
    assert not any("secret" in value or "pw" in value for value in rows.values())
