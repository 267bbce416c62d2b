"""The provider: which one, its key, its models, and how long it may take. Values only, which `sentinel.settings` checks."""

from typing import Annotated, Final

from sentinel.ops.settings import lists
from sentinel.ops.settings.variable import Variable
from sentinel.ops.settings.zion import ZionSettings

_HTTP: Final = ("http", "https")


class ProviderSettings(ZionSettings, frozen=True, kw_only=True):
    """The provider: which one, its key, its models, and how long it may take."""

    provider: Annotated[
        str,
        Variable(
            "SENTINEL_PROVIDER",
            "Which provider answers; by default openai if OPENAI_API_KEY is set, else vercel.",
            choices=("openai", "vercel"),
        ),
    ] = ""
    openai_api_key: Annotated[
        str, Variable("OPENAI_API_KEY", "The provider's key when the provider is OpenAI.", secret=True)
    ] = ""
    openai_api_url: Annotated[
        str, Variable("OPENAI_API_URL", "Where OpenAI answers, with its version path.", schemes=_HTTP)
    ] = "https://api.openai.com/v1"
    vercel_api_key: Annotated[
        str,
        Variable("VERCEL_AI_GATEWAY_API_KEY", "The provider's key when the provider is Vercel AI Gateway.", secret=True),
    ] = ""
    vercel_api_url: Annotated[
        str, Variable("VERCEL_AI_GATEWAY_URL", "Where Vercel AI Gateway answers, with its version path.", schemes=_HTTP)
    ] = "https://ai-gateway.vercel.sh/v1"
    upstream_connect_s: Annotated[
        float,
        Variable(
            "SENTINEL_UPSTREAM_CONNECT_TIMEOUT_SECONDS",
            "How long a connection to the provider may take.",
            "s",
            low=0.1,
            high=60,
        ),
    ] = 5.0
    upstream_idle_s: Annotated[
        float,
        Variable(
            "SENTINEL_UPSTREAM_IDLE_TIMEOUT_SECONDS",
            "The longest silence of the provider in the middle of an answer, or of an upload it takes.",
            "s",
            low=0.1,
            high=3600,
        ),
    ] = 300.0
    upstream_first_byte_s: Annotated[
        float,
        Variable(
            "SENTINEL_UPSTREAM_FIRST_BYTE_TIMEOUT_SECONDS",
            "How long the provider may take from the end of a request to the headers of its answer.",
            "s",
            low=0.1,
            high=86400,
        ),
    ] = 300.0
    upstream_total_s: Annotated[
        float,
        Variable(
            "SENTINEL_UPSTREAM_TOTAL_TIMEOUT_SECONDS",
            "How long it may take to the end of a JSON answer; streams and downloads have no such bound.",
            "s",
            low=0.1,
            high=86400,
        ),
    ] = 300.0
    route_timeouts: Annotated[
        str,
        Variable(
            "SENTINEL_ROUTE_TIMEOUTS",
            "Both of these for single routes, by the `route` label of the metrics, as in `images=600,responses=1800`.",
            "s",
            reads=lists.route_timeouts,
        ),
    ] = ""
    upstream_connections_max: Annotated[
        int,
        Variable(
            "SENTINEL_UPSTREAM_CONNECTIONS_MAX",
            "Connections of one worker to the provider; above it 503.",
            "connections",
            low=1,
            high=100000,
        ),
    ] = 5000
    allowed_models: Annotated[
        str,
        Variable(
            "SENTINEL_ALLOWED_MODELS",
            "The models callers may ask for, as patterns (`gpt-4o*,o3-mini`); all where it is empty, else 403.",
            reads=lists.patterns,
        ),
    ] = ""
    fallback_models: Annotated[
        str,
        Variable(
            "SENTINEL_FALLBACK_MODELS",
            "Which model is asked where another is unavailable, as in `gpt-4o=gpt-4o-mini`; chains are followed.",
            reads=lists.fallback_models,
        ),
    ] = ""
    answer_cache_s: Annotated[
        int,
        Variable(
            "SENTINEL_ANSWER_CACHE_SECONDS",
            "How long an answer at temperature 0 answers the same request of its caller again; 0: never.",
            "s",
            low=0,
            high=86400,
        ),
    ] = 0
    answer_cache_bytes_max: Annotated[
        int,
        Variable("SENTINEL_ANSWER_CACHE_BYTES_MAX", "The largest answer that is kept so.", "bytes", low=1, high=16 * 2**20),
    ] = 262_144

    @property
    def upstream_url(self) -> str:
        """The provider's base URL, without a slash at its end."""
        return (self.openai_api_url if self.provider == "openai" else self.vercel_api_url).rstrip("/")

    @property
    def upstream_key(self) -> str:
        """The provider's key."""
        return self.openai_api_key if self.provider == "openai" else self.vercel_api_key
