"""The parts of a worker, each built from the settings it needs. Cannot fail on settings that were checked."""

import math
import os
import socket
from functools import partial
from pathlib import Path
from typing import Final

from sentinel.admin.health import Health
from sentinel.admin.heartbeat import Heartbeat
from sentinel.admin.usage_page import UsagePage
from sentinel.downstream.body_budget import Bodies
from sentinel.downstream.fair_share import Shares
from sentinel.downstream.idle_connections import Connections
from sentinel.downstream.offload import Offload
from sentinel.journal import Journal
from sentinel.ledger import Ledger, open_redis
from sentinel.ledger.degraded import DegradedAdmission
from sentinel.ledger.limit_errors import Attempts
from sentinel.openai.models import Fallbacks, Models
from sentinel.openai.reasoning_models import Reasoning
from sentinel.openai.tokens.histories import Histories
from sentinel.ops.settings import Settings, lists
from sentinel.ops.settings.public_keys import public_keys
from sentinel.stages.admission import Admission
from sentinel.stages.admission.counting import Counting
from sentinel.stages.auth import Auth, Signatures
from sentinel.stages.batches import Batches
from sentinel.stages.forward import Forward, RetryBudget
from sentinel.stages.intake import Intake
from sentinel.stages.ownership import Owners
from sentinel.stages.relay import BackgroundDrain, Leaving
from sentinel.stages.reporting import Reporting
from sentinel.stages.reporting.delivery import Delivery
from sentinel.stages.turns import Turns
from sentinel.upstream.http1 import Client
from sentinel.upstream.provider import PROVIDERS, Provider, Timeouts
from sentinel.zion.client import Zion
from sentinel.zion.gate import Gate
from sentinel.zion.session import open_session

_ZION_CONNECTIONS_MAX: Final = 32
_REDIS_SETUP_S: Final = 1.0
# What is decoded of such a body is 120 kB at most, and gone when its tokens are counted.
_SMALL_BODY_BYTES: Final = 4096


def ledger(settings: Settings) -> Ledger:
    """The ledger in Redis."""
    return Ledger(
        # Its own bound: a connection takes several round trips, and no request waits for it longer than for a call.
        open_redis(settings.redis_url, max(_REDIS_SETUP_S, settings.redis_timeout_s)),
        partitions=settings.ledger_partitions,
        timeout_s=settings.redis_timeout_s,
        lease_ms=settings.lease_s * 1000,
        rate_requests=settings.rate_requests,
        rate_tokens=settings.rate_tokens,
        rate_window_ms=settings.rate_window_s * 1000,
        fresh_ms=settings.cache_ttl_s * 1000,
        stale_ms=settings.limits_stale_s * 1000,
        concurrency_max=settings.caller_concurrency_max,
        works_max=settings.caller_work_max,
    )


def journal(settings: Settings, boot: str) -> Journal:
    """The journal of this worker, named after its boot."""
    return Journal(
        Path(settings.data_dir),
        boot,
        bytes_max=settings.journal_bytes_max,
        keep_s=settings.journal_keep_s,
        refuse_when_full=settings.on_journal_full == "refuse",
    )


def gate(settings: Settings, ledger: Ledger) -> Gate:
    """The gate to Zion that the fleet shares."""
    return ledger.gate(
        requests_per_s=settings.zion_requests_per_s,
        failures_max=settings.zion_failures_max,
        open_s=settings.zion_open_s,
        zion_timeout_s=settings.zion_timeout_s,
        waiting_max=settings.zion_waiting_max,
        processes=settings.fleet_processes or settings.workers,
    )


def zion(settings: Settings, gate: Gate) -> Zion:
    """The way to Zion."""
    session = open_session(
        connect_s=settings.zion_timeout_s, idle_s=settings.zion_timeout_s, connections_max=_ZION_CONNECTIONS_MAX
    )
    return Zion(session, settings.zion_api_url, settings.zion_api_key, settings.zion_timeout_s, gate)


def reporting(settings: Settings, ledger: Ledger, gate: Gate, zion: Zion, journal: Journal) -> Reporting:
    """What tells Zion of usage."""
    delivery = Delivery(
        ledger,
        gate,
        zion,
        journal,
        usage_format=settings.zion_usage_format,
        items_max=settings.report_items_max,
        retry_s=settings.report_retry_s,
    )
    return Reporting(ledger, delivery, items_max=settings.report_items_max, interval_ms=settings.report_interval_ms)


def forward(settings: Settings, provider: Provider, *, usual: bool) -> Forward:
    """What asks the provider, with its patience and its fallbacks."""
    fallbacks = lists.fallback_models(settings.fallback_models)
    return Forward(
        provider,
        RetryBudget(),
        Timeouts(settings.upstream_first_byte_s, settings.upstream_total_s),
        {label: Timeouts(seconds, seconds) for label, seconds in lists.route_timeouts(settings.route_timeouts).items()},
        Fallbacks({model: lists.fallback_chain(fallbacks, model) for model in fallbacks}),
        usual=usual,
    )


def standby(settings: Settings) -> DegradedAdmission:
    """What decides while Redis is away."""
    return DegradedAdmission(
        settings.on_redis_down,
        ratio=settings.slice_ratio,
        processes=settings.fleet_processes or settings.workers,
        window_ms=settings.rate_window_s * 1000,
        callers_max=settings.jwt_cache_entries_max,
    )


def auth(settings: Settings, ledger: Ledger, zion: Zion) -> Auth:
    """What knows callers by their tokens."""
    return Auth(
        ledger,
        zion,
        signatures(settings, zion),
        profile_ttl_s=settings.jwt_cache_ttl_s,
        stale_s=settings.jwt_stale_s,
        refusal_ttl_s=settings.jwt_refusal_ttl_s,
        entries_max=settings.jwt_cache_entries_max,
    )


def signatures(settings: Settings, zion: Zion) -> Signatures | None:
    """What tells tokens that Zion has not signed, where its keys are set."""
    if not settings.zion_jwks_url and not settings.zion_jwt_public_key:
        return None
    from sentinel.zion import signatures as checks  # noqa: PLC0415 - its libraries are an extra

    if settings.zion_jwks_url:
        return checks.FetchedKeys(partial(zion.keys, settings.zion_jwks_url))
    return checks.OwnKeys(checks.own_keys(public_keys(settings.zion_jwt_public_key)))


def intake(settings: Settings, owners: Owners, aside: Offload) -> Intake:
    """What reads requests."""
    return Intake(
        bodies(settings),
        aside,
        Models(lists.patterns(settings.allowed_models)),
        upload_bytes_max=settings.upload_bytes_max,
        searching=owners.guarding,
        trace_upstream=settings.trace_upstream == "true",
    )


def batches(settings: Settings, provider: Provider) -> Batches:
    """What reads input files; a line is a request, and no longer than one."""
    return Batches(
        provider,
        how=settings.batch_input,
        file_bytes_max=settings.batch_bytes_max,
        line_bytes_max=settings.body_bytes_max,
        output_tokens_default=settings.output_tokens_default,
    )


def bodies(settings: Settings) -> Bodies:
    """What there is for the bodies of requests: one of the largest fits into its caller's share with what is decoded of it,
    whatever is set, but for one that is mostly structure, or wide characters.

    Each that streams by has a connection to the provider, of which others must find some too.
    """
    connections = max(1, settings.upstream_connections_max // 2)
    return Bodies(
        Shares(settings.bodies_bytes_max, max(settings.caller_bodies_bytes_max, 3 * settings.body_bytes_max)),
        Shares(math.inf, min(settings.caller_arriving_max, settings.caller_concurrency_max or math.inf, connections)),
        bytes_max=settings.body_bytes_max,
        small_bytes=_SMALL_BODY_BYTES,
        timeout_s=settings.body_timeout_s,
        bytes_per_s_min=settings.body_bytes_per_s_min,
    )


def usage_page(settings: Settings, auth: Auth, turns: Turns, admission: Admission, ledger: Ledger) -> UsagePage:
    """A caller's own page."""
    stale_ms = settings.limits_stale_s * 1000
    return UsagePage(auth, turns, admission, ledger.admin_ledger, limits_stale_ms=stale_ms, window_s=settings.rate_window_s)


def connections(settings: Settings, listener: socket.socket | None) -> Connections | None:
    """What ends connections that ask for nothing; None where nobody knows the socket they come to."""
    if listener is None:
        return None
    return Connections(listener, first_s=settings.first_request_timeout_s, places=settings.connections_max)


def heartbeat(health: Health) -> Heartbeat | None:
    """What the supervisor reads; None where there is no supervisor."""
    directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    return Heartbeat(Path(directory), health.look, health.state) if directory else None


def public_pages(settings: Settings) -> frozenset[str]:
    """The operators' pages that the public port answers too."""
    health = {"/health/live", "/health/ready"} if settings.public_health == "true" else set()
    return frozenset(health | ({"/metrics"} if settings.public_metrics == "true" else set()))


def provider(settings: Settings) -> Provider:
    """The provider that this deployment asks."""
    return PROVIDERS[settings.provider](
        Client(settings.upstream_url, connect_s=settings.upstream_connect_s, ahead=True),
        settings.upstream_key,
        idle_s=settings.upstream_idle_s,
        connections_max=settings.upstream_connections_max,
    )


def admission(
    settings: Settings,
    ledger: Ledger,
    journal: Journal,
    standby: DegradedAdmission,
    zion: Zion,
    counting: Counting,
    histories: Histories,
) -> Admission:
    """What holds limits."""
    return Admission(
        ledger,
        journal,
        standby,
        zion,
        counting,
        Attempts(settings.rate_requests, settings.rate_window_s * 1000),
        histories,
        output_tokens_default=settings.output_tokens_default,
        work_output_tokens=settings.work_output_tokens_default,
        limits_ttl_s=settings.cache_ttl_s,
        limits_wait_s=settings.zion_timeout_s,
        missing_limit=settings.missing_limit,
    )


def leaving(settings: Settings, histories: Histories) -> Leaving:
    """What becomes of answers whose client has left."""
    background_drain = BackgroundDrain(
        answers_max=settings.read_on_answers_max,
        timeout_s=settings.read_on_s,
        bytes_max=settings.read_on_bytes_max,
    )
    return Leaving(settings.on_disconnect, background_drain, Reasoning(lists.patterns(settings.reasoning_models)), histories)
