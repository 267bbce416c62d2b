"""The provider: which one, its key, and how long it may take. Values only; `sentinel.settings` reads and checks them."""

from typing import Annotated, Final

from sentinel.settings.variable import Variable
from sentinel.settings.zion import ZionSettings

_HTTP: Final = ("http", "https")


class ProviderSettings(ZionSettings, frozen=True, kw_only=True):
    """The provider: which one, its key, and how long it may take."""

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
            "The longest silence of the provider, before its headers or between two reads.",
            "s",
            low=0.1,
            high=3600,
        ),
    ] = 300.0
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

    @property
    def upstream_url(self) -> str:
        """The provider's base URL, without a slash at its end."""
        return (self.openai_api_url if self.provider == "openai" else self.vercel_api_url).rstrip("/")

    @property
    def upstream_key(self) -> str:
        """The provider's key."""
        return self.openai_api_key if self.provider == "openai" else self.vercel_api_key
