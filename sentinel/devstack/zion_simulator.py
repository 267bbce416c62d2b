"""A Zion that runs here: all of its wire contract (zion.md), demo users, an append-only ledger, and faults on demand.

A process of its own: `python -m sentinel.devstack.zion_simulator --port 0`; its key for the external endpoints comes from
ZION_API_KEY, the secret of its tokens from SIMULATOR_JWT_SECRET (random where unset). Whatever Zion would refuse is answered in
Zion's error shape.

Control, all JSON and without a key:
- `POST /simulator/users`: create or replace a user (`ZionState.put_user`; also `expires_in_s`, `token_bytes`)
  -> `{externalId, email, jwt, exp}`
- `POST /simulator/rename`: `{user: <external id>, externalId, email}`: other names for a user, old tokens stay good -> as users
- `POST /simulator/keys`: `{kid}`: sign tokens by a new public key of this name, "" by the secret again
- `GET /simulator/users`: the demo users' tokens by name, `GET /simulator/ledger`: `{rows, users, calls, busiest_second,
  replayed}`; the last but one is the most calls that came within a second
- `POST /simulator/faults`: switches and one rule (`zion_faults.Faults.order`) -> the state
- `POST /simulator/reset`: all, or what the body names of `{"ledger": true, "faults": true, "users": true}`
"""

import argparse
import asyncio
import hashlib
import json
import os
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.typedefs import Middleware

from sentinel.devstack.keyring import Keyring
from sentinel.devstack.listener import listen
from sentinel.devstack.zion_faults import Calls, Faults, Rule
from sentinel.devstack.zion_state import RefusedError, User, ZionState

DEMO_USERS: Final[dict[str, dict[str, Any]]] = {
    "free": {
        "externalId": "demo-free",
        "email": "free@demo.test",
        "limits": {"ai_input_tokens": 2_000, "ai_output_tokens": 2_000, "ai_requests": 20},
        "resetPeriod": "DAILY",
    },
    "pro": {
        "externalId": "demo-pro",
        "email": "pro@demo.test",
        "limits": {"ai_input_tokens": 50_000_000, "ai_output_tokens": 50_000_000, "ai_requests": 1_000_000},
    },
    "spent": {
        "externalId": "demo-spent",
        "email": "spent@demo.test",
        "limits": {
            "ai_input_tokens": {"limit": 1_000, "used": 1_000},
            "ai_output_tokens": {"limit": 1_000, "used": 1_000},
            "ai_requests": {"limit": 10, "used": 10},
        },
    },
}
TOKEN_LIFE_S: Final = 30 * 86400
HANG_S: Final = 3600

_Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ZionSimulator:
    """The HTTP side: authentication, envelope, faults, idempotency keys. The books are `state`."""

    def __init__(self, *, api_key: str, secret: str) -> None:
        self.state = ZionState(lambda: datetime.now(UTC))
        self.faults = Faults()
        self._api_key = api_key
        self._keys = Keyring(secret)
        self._answered: dict[str, tuple[str, dict[str, Any]]] = {}
        self._calls = Calls()
        self._replayed = 0
        self._create_demo_users()

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application(middlewares=[cast("Middleware", self._in_shape)], client_max_size=64 * 2**20)
        app.router.add_get("/api/v1/users/me", self._me)
        app.router.add_get("/api/v1/limits/external/{external_id}", self._limits)
        app.router.add_post("/api/v1/usage/external/increment", self._increment)
        app.router.add_post("/api/v1/usage/external/batch-increment", self._batch)
        app.router.add_get("/.well-known/jwks.json", self._published)
        app.router.add_post("/simulator/keys", self._rotate)
        app.router.add_post("/simulator/users", self._put_user)
        app.router.add_post("/simulator/rename", self._rename)
        app.router.add_get("/simulator/users", self._tokens)
        app.router.add_get("/simulator/ledger", self._ledger)
        app.router.add_post("/simulator/faults", self._order_fault)
        app.router.add_post("/simulator/reset", self._reset)
        return app

    def token(self, user: User, expires_in_s: int = TOKEN_LIFE_S, length: int = 0) -> tuple[str, int]:
        """A JWT for `user` and its `exp` (Unix seconds); a negative life gives one that has expired.

        One that is shorter than `length` is made as long, but for two bytes at most.
        """
        now_s = int(time.time())
        claims = {"sub": user.id, "email": user.email, "iat": now_s, "exp": now_s + expires_in_s, "jti": secrets.token_hex(8)}
        if length:
            claims["groups"] = ""
            claims["groups"] = "x" * ((length - len(self._keys.sign(claims))) * 3 // 4)
        return self._keys.sign(claims), now_s + expires_in_s

    # Zion's own endpoints

    async def _me(self, request: web.Request) -> web.StreamResponse:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        claims = self._keys.verify(token.strip()) if scheme.lower() == "bearer" else None
        subject = str(claims.get("sub")) if claims else ""
        user = self.state.users.get(subject)
        names = frozenset((user.email, user.external_id)) if user else frozenset[str]()
        await self._fail_or_wait(request, "me", names)
        return self._success(self.state.profile(subject))

    async def _limits(self, request: web.Request) -> web.StreamResponse:
        external_id = request.match_info["external_id"]
        await self._fail_or_wait(request, "limits", frozenset((external_id,)))
        self._check_key(request)
        return self._success(self.state.limits(self.state.find(external_id=external_id)))

    async def _increment(self, request: web.Request) -> web.StreamResponse:
        item = await _json(request)
        key = request.headers.get("Idempotency-Key", "")
        return await self._book(request, "increment", [item], lambda: self.state.apply(item, key=key, batch=False))

    async def _batch(self, request: web.Request) -> web.StreamResponse:
        if self.faults.no_batch_endpoint:
            self._calls.add("batch", time.monotonic())
            raise RefusedError(404, "NOT_FOUND", "Cannot POST /api/v1/usage/external/batch-increment")
        body = await _json(request)
        items = body.get("increments") if isinstance(body, dict) else None
        key = request.headers.get("Idempotency-Key", "")

        def apply() -> dict[str, Any]:
            return self.state.apply_batch(body, key=key, failing=self.faults.fail_emails)

        return await self._book(request, "batch", items if isinstance(items, list) else [], apply)

    async def _book(
        self, request: web.Request, call: str, items: list[Any], apply: Callable[[], dict[str, Any]]
    ) -> web.StreamResponse:
        """Book usage once for an idempotency key, if keys are honoured; the same key with another body is refused (422)."""
        named = (
            str(item[name]) for item in items if isinstance(item, dict) for name in ("email", "externalId") if name in item
        )
        rule = await self._fail_or_wait(request, call, frozenset(named))
        self._check_key(request)
        key = request.headers.get("Idempotency-Key", "") if self.faults.honour_idempotency else ""
        digest = hashlib.sha256(await request.read()).hexdigest()
        if key and key in self._answered:
            self._replayed += 1
            if self._answered[key][0] != digest:
                raise RefusedError(422, "IDEMPOTENCY_KEY_REUSED", "The same Idempotency-Key came with another body")
            answer = self._answered[key][1]
        else:
            answer = apply()
            if key:
                self._answered[key] = (digest, answer)
        if rule is not None and rule.apply_then_drop and request.transport is not None:
            request.transport.abort()
        if rule is not None and rule.apply_then_hang:
            await asyncio.sleep(HANG_S)
        return self._success(answer)

    async def _published(self, request: web.Request) -> web.StreamResponse:
        await self._fail_or_wait(request, "keys", frozenset())
        return web.json_response(self._keys.published())

    # Control

    async def _rotate(self, request: web.Request) -> web.StreamResponse:
        self._keys.rotate((await _json(request))["kid"])
        return web.json_response({})

    async def _put_user(self, request: web.Request) -> web.StreamResponse:
        given = await _json(request)
        life_s, length = int(given.get("expires_in_s", TOKEN_LIFE_S)), int(given.get("token_bytes", 0))
        return self._introduced(self.state.put_user(given), life_s, length)

    async def _rename(self, request: web.Request) -> web.StreamResponse:
        given = await _json(request)
        return self._introduced(self.state.rename(given["user"], given), TOKEN_LIFE_S)

    def _introduced(self, user: User, expires_in_s: int, length: int = 0) -> web.Response:
        token, exp = self.token(user, expires_in_s, length)
        return web.json_response({"externalId": user.external_id, "email": user.email, "jwt": token, "exp": exp})

    async def _tokens(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response(
            {name: self.token(self.state.find(email=demo["email"]))[0] for name, demo in DEMO_USERS.items()}
        )

    async def _ledger(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response(
            {
                "rows": self.state.ledger,
                "users": self.state.sums(),
                "calls": dict(self._calls.counts),
                "busiest_second": self._calls.busiest_second,
                "replayed": self._replayed,
            }
        )

    async def _order_fault(self, request: web.Request) -> web.StreamResponse:
        try:
            self.faults.order(await _json(request))
        except (ValueError, TypeError) as error:
            raise RefusedError(400, "INVALID_REQUEST", str(error)) from error
        return web.json_response(self.faults.shown())

    async def _reset(self, request: web.Request) -> web.StreamResponse:
        parts = await _json(request) if request.can_read_body else {}
        if not parts or parts.get("ledger"):
            self.state.ledger.clear()
            self._answered.clear()
            self._calls = Calls()
            self._replayed = 0
        if not parts or parts.get("faults"):
            self.faults = Faults()
        if not parts or parts.get("users"):
            self._create_demo_users()
        return web.json_response({})

    # Shared by the endpoints

    def _create_demo_users(self) -> None:
        self.state.users.clear()
        for demo in DEMO_USERS.values():
            self.state.put_user(demo)

    async def _fail_or_wait(self, request: web.Request, call: str, users: frozenset[str]) -> Rule | None:
        """Count the call, take its latency, and fail as the rule in force says; returns the rule if it is for afterwards."""
        self._calls.add(call, time.monotonic())
        faults = self.faults
        wait_ms = faults.latency_ms + random.uniform(0, faults.jitter_ms)
        if wait_ms > 0:
            await asyncio.sleep(wait_ms / 1000)
        rule = faults.take(call, users)
        if rule is not None and rule.hang:
            await asyncio.sleep(HANG_S)
        if rule is not None and rule.status:
            if rule.retry_after is not None:
                request["retry_after"] = rule.retry_after
            raise RefusedError(rule.status, f"SIMULATED_{rule.status}", "This failure was asked for")
        return rule

    def _check_key(self, request: web.Request) -> None:
        if not secrets.compare_digest(request.headers.get("x-api-key", "").encode(), self._api_key.encode()):
            raise RefusedError(401, "UNAUTHORIZED", "Invalid API key")

    def _success(self, answer: dict[str, Any]) -> web.Response:
        return web.json_response({"success": True, "data": answer} if self.faults.envelope else answer)

    @web.middleware
    async def _in_shape(self, request: web.Request, **named: _Answering) -> web.StreamResponse:
        """Every failure in Zion's error shape."""
        try:
            return await named["handler"](request)  # the name is aiohttp's
        except RefusedError as refused:
            status, code, message = refused.status, refused.code, refused.message
        except web.HTTPException as error:
            status, code, message = error.status, error.reason.upper().replace(" ", "_"), error.reason
        headers = {"Retry-After": f"{request['retry_after']:g}"} if "retry_after" in request else {}
        body = {"success": False, "error": {"code": code, "message": message}}
        return web.json_response(body, status=status, headers=headers)


async def _json(request: web.Request) -> Any:
    try:
        return json.loads(await request.read())
    except ValueError as error:
        raise RefusedError(400, "INVALID_REQUEST", "The body is not JSON") from error


def main() -> None:
    """Run the simulator until it is told to stop."""
    parser = argparse.ArgumentParser(prog="zion_simulator")
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    secret = os.environ.get("SIMULATOR_JWT_SECRET") or secrets.token_hex(32)
    simulator = ZionSimulator(api_key=os.environ["ZION_API_KEY"], secret=secret)
    asyncio.run(listen(simulator.application(), arguments.port))


if __name__ == "__main__":
    main()
