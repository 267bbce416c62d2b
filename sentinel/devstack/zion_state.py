"""The book-keeping of Zion's simulator: users, limits, and an append-only ledger of what was applied (zion.md).

Pure: no I/O, the clock is passed in. A request that Zion would refuse raises `RefusedError` with Zion's status and code.
"""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

METRICS: Final = {
    "ai_input_tokens": "aiInputTokens",
    "ai_output_tokens": "aiOutputTokens",
    "ai_requests": "aiRequests",
}
PERIODS: Final = ("DAILY", "WEEKLY", "MONTHLY", "NEVER")
FORMATS: Final = ("unified", "per_limit")
BATCH_ITEMS_MAX: Final = 1000


class RefusedError(Exception):
    """What Zion answers with an error: `status`, `code` (Zion's word) and a message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


@dataclass
class Limit:
    """One metric of one user; `limit` None or negative means unlimited. `used` belongs to the current period."""

    limit: int | None
    used: int = 0

    def figures(self) -> dict[str, Any]:
        """`{limit, used, remaining}` as Zion shows them; nothing remains below zero, null where unlimited."""
        remaining = None if self.limit is None or self.limit < 0 else max(0, self.limit - self.used)
        return {"limit": self.limit, "used": self.used, "remaining": remaining}


@dataclass
class User:
    """A subscriber. `external_id` and `email` are empty where Zion knows none; `permitted` False means 403 on /users/me.

    `shown` are the names as the profile has them, since there are many ways to have no e-mail.
    """

    id: str
    external_id: str
    email: str
    limits: dict[str, Limit]
    reset_period: str = "MONTHLY"
    format: str = "unified"
    permitted: bool = True
    shown: dict[str, Any] = field(default_factory=dict)
    created_at: datetime = field(default_factory=lambda: datetime(2025, 1, 1, tzinfo=UTC))
    period_start: datetime | None = None


def period(name: str, now: datetime, created: datetime) -> tuple[datetime, datetime | None]:
    """Start and end of the period that holds `now` (UTC); the end of NEVER is None."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if name == "DAILY":
        return midnight, midnight + timedelta(days=1)
    if name == "WEEKLY":
        monday = midnight - timedelta(days=midnight.weekday())
        return monday, monday + timedelta(days=7)
    if name == "MONTHLY":
        first = midnight.replace(day=1)
        return first, (first + timedelta(days=32)).replace(day=1)
    return created, None


def iso(moment: datetime) -> str:
    """ISO 8601 in UTC with milliseconds and a Z, as Zion writes it."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class ZionState:
    """All that Zion knows. `now` gives the current time in UTC."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self.users: dict[str, User] = {}
        self.ledger: list[dict[str, Any]] = []

    def put_user(self, given: Mapping[str, Any]) -> User:
        """Create or replace a user from `{externalId, email, limits, resetPeriod, format, permitted}`.

        `limits` maps Zion's metric names to a number, null, or `{limit, used}`; a metric that is not named has no limit entry.
        `email` may be missing, null or blank, for a user who has none.
        """
        external_id, email, shown = _names(given)
        reset_period = given.get("resetPeriod", "MONTHLY")
        shape = given.get("format", "unified")
        if reset_period not in PERIODS or shape not in FORMATS:
            raise RefusedError(400, "INVALID_USER", "Unknown resetPeriod or format.")
        user = User(
            id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"{email} {external_id}")),
            external_id=external_id,
            email=email,
            limits={name: _limit(value) for name, value in dict(given.get("limits", {})).items()},
            reset_period=reset_period,
            format=shape,
            permitted=bool(given.get("permitted", True)),
            shown=shown,
        )
        if not set(user.limits) <= set(METRICS):
            raise RefusedError(400, "INVALID_USER", f"Limits are named {', '.join(METRICS)}.")
        self._roll(user)
        self.users = {
            key: old
            for key, old in self.users.items()
            if old.email != (email or None) and old.external_id != (external_id or None)
        }
        self.users[user.id] = user
        return user

    def rename(self, external_id: str, given: Mapping[str, Any]) -> User:
        """Give the user of this external id the `{externalId, email}` in `given`; id, tokens, limits and usage stay."""
        user = self.find(external_id=external_id)
        user.external_id, user.email, user.shown = _names(given)
        return user

    def find(self, *, external_id: str = "", email: str = "") -> User:
        """The user with this external id or e-mail; 404 if there is none."""
        for user in self.users.values():
            if (external_id and user.external_id == external_id) or (email and user.email == email):
                self._roll(user)
                return user
        raise RefusedError(404, "NOT_FOUND", "User not found")

    def profile(self, user_id: str) -> dict[str, Any]:
        """`data` of GET /users/me; 401 for an unknown subject, 403 for one who is known but not permitted."""
        user = self.users.get(user_id)
        if user is None:
            raise RefusedError(401, "UNAUTHORIZED", "Invalid or expired token")
        if not user.permitted:
            raise RefusedError(403, "FORBIDDEN", "This account is not permitted")
        return {
            "id": user.id,
            **user.shown,
            "name": (user.email or user.external_id).partition("@")[0],
            "emailVerified": True,
            "createdAt": iso(user.created_at),
            "lastLoginAt": iso(self._now()),
        }

    def limits(self, user: User) -> dict[str, Any]:
        """`data` of GET /limits/external/{externalId}, in the user's own format, beside a limit that is none of Sentinel's."""
        self._roll(user)
        other = {"limitId": "l-seats", "name": "seats", "displayName": "Seats", "unit": None, "limit": 5, "used": 1}
        entries = [self._unified(user)] if user.format == "unified" else [self._entry(user, name) for name in user.limits]
        return {"userId": user.id, "externalId": user.external_id, "limits": [other, *entries]}

    def apply(self, item: Any, *, key: str, batch: bool, position: int = 0) -> dict[str, Any]:
        """Apply one increment of either format and write it into the ledger; returns the answer of a single increment.

        `position` is its place in its report. Limits are not enforced: usage records what happened.
        """
        if not isinstance(item, dict):
            raise RefusedError(400, "INVALID_REQUEST", "An increment is an object")
        if "limitName" in item:
            name = item["limitName"]
            if name not in METRICS:
                raise RefusedError(400, "INVALID_LIMIT", f"Unknown limit {name!r}")
            user = self.find(external_id=_text(item, "externalId"))
            self._book(user, {name: _amount(item, "amount", 1)}, item, key, batch=batch, position=position)
            return self._entry(user, name)
        user = self.find(email=_text(item, "email"))
        amounts = {name: _amount(item, short, 0) for name, short in METRICS.items() if short in item}
        self._book(user, amounts, item, key, batch=batch, position=position)
        can_use = all(limit.figures()["remaining"] != 0 for limit in user.limits.values())
        return {"canUse": can_use, **{METRICS[name]: limit.figures() for name, limit in user.limits.items()}}

    def apply_batch(self, body: Any, *, key: str, failing: frozenset[str]) -> dict[str, Any]:
        """Apply a batch item by item, in order; those whose e-mail or external id is in `failing` fail alone."""
        items = body.get("increments") if isinstance(body, dict) else None
        if not isinstance(items, list) or not items:
            raise RefusedError(400, "INVALID_REQUEST", "increments must hold 1 to 1000 items")
        if len(items) > BATCH_ITEMS_MAX:
            raise RefusedError(413, "PAYLOAD_TOO_LARGE", "increments must hold 1 to 1000 items")
        results = [self._apply_item(item, key, failing, position) for position, item in enumerate(items)]
        failed = sum(not result["success"] for result in results)
        return {"processed": len(results) - failed, "failed": failed, "results": results}

    def sums(self) -> dict[str, dict[str, int]]:
        """What the ledger adds up to, by e-mail (or external id) and metric, with the number of `increments`."""
        users: dict[str, dict[str, int]] = {}
        for row in self.ledger:
            sums = users.setdefault(row["email"] or row["externalId"], {**dict.fromkeys(METRICS.values(), 0), "increments": 0})
            sums["increments"] += 1
            for short in METRICS.values():
                sums[short] += row[short]
        return users

    def _apply_item(self, item: Any, key: str, failing: frozenset[str], position: int) -> dict[str, Any]:
        named = (
            {name: item[name] for name in ("email", "externalId", "limitName") if name in item}
            if isinstance(item, dict)
            else {}
        )
        try:
            if failing.intersection(str(value) for value in named.values()):
                raise RefusedError(500, "INTERNAL", "This increment could not be applied")
            answer = self.apply(item, key=key, batch=True, position=position)
        except RefusedError as refused:
            return {**named, "success": False, "error": refused.message}
        if "limitName" in named:
            return {**named, "success": True, "newValue": answer["used"], "limit": answer["limit"]}
        figures = {
            name: {"newValue": answer[name]["used"], "limit": answer[name]["limit"]}
            for name in METRICS.values()
            if name in answer
        }
        return {**named, "success": True, **figures}

    def _book(
        self, user: User, amounts: Mapping[str, int], item: Mapping[str, Any], key: str, *, batch: bool, position: int
    ) -> None:
        for name, amount in amounts.items():
            user.limits.setdefault(name, Limit(None)).used += amount
        self.ledger.append(
            {
                "sequence": len(self.ledger),
                "at": iso(self._now()),
                "email": user.email,
                "externalId": user.external_id,
                **{short: amounts.get(name, 0) for name, short in METRICS.items()},
                "model": item.get("model"),
                "timestamp": item.get("timestamp"),
                "format": "per_limit" if "limitName" in item else "unified",
                "idempotencyKey": key,
                "batch": batch,
                "position": position,
            }
        )

    def _roll(self, user: User) -> None:
        """Begin a new period where the old one is over: what was used starts at zero again."""
        start, _ = period(user.reset_period, self._now(), user.created_at)
        if user.period_start is not None and user.period_start < start:
            for limit in user.limits.values():
                limit.used = 0
        user.period_start = start

    def _bounds(self, user: User) -> dict[str, Any]:
        start, end = period(user.reset_period, self._now(), user.created_at)
        return {"resetPeriod": user.reset_period, "periodStart": iso(start), "periodEnd": iso(end) if end else None}

    def _entry(self, user: User, name: str) -> dict[str, Any]:
        unit = "requests" if name == "ai_requests" else "tokens"
        titles = {"limitId": f"l-{name}", "name": name, "displayName": name.replace("_", " "), "unit": unit}
        return {**titles, **user.limits[name].figures(), **self._bounds(user)}

    def _unified(self, user: User) -> dict[str, Any]:
        figures = {METRICS[name]: limit.figures() for name, limit in user.limits.items()}
        return {"name": "ai_usage", "displayName": "AI usage", **figures, **self._bounds(user)}


def _limit(value: Any) -> Limit:
    return Limit(value.get("limit"), value.get("used", 0)) if isinstance(value, dict) else Limit(value)


def _names(given: Mapping[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """External id and e-mail, empty where there is none, and what of both a profile shows. RefusedError without either."""
    external_id, email = given.get("externalId", ""), given.get("email")
    if not isinstance(external_id, str) or not isinstance(email, str | None) or not (external_id or email):
        raise RefusedError(400, "INVALID_USER", "A user has an email or an externalId, both text.")
    shown: dict[str, Any] = {"externalId": external_id} if external_id else {}
    if "email" in given:
        shown["email"] = email
    return external_id, email if email and email.strip() else "", shown


def _text(item: Mapping[str, Any], name: str) -> str:
    value = item.get(name)
    if not isinstance(value, str) or not value.strip():
        raise RefusedError(400, "INVALID_REQUEST", f"{name} is required")
    return value


def _amount(item: Mapping[str, Any], name: str, default: int) -> int:
    value = item.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise RefusedError(400, "INVALID_REQUEST", f"{name} must be a whole number, not negative")
    return value
