"""How an exchange over HTTP fails. Whoever asked says in its own words what that means to its caller."""


class UnreachableError(Exception):
    """No connection could be made (DNS, TCP, TLS, or its time), so nothing was sent."""


class BrokenError(Exception):
    """What came is no answer to what was asked, or the connection ended before the answer did."""


class LateError(Exception):
    """Nothing came in time."""
