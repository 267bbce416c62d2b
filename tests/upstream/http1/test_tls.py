"""tls: certificates are verified, for the name that was asked, and sessions are resumed."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trustme

from sentinel.ops.errors import UpstreamError
from sentinel.upstream.http1 import Client, UnreachableError
from sentinel.upstream.http1.tls import open_context
from sentinel.upstream.provider import OpenAI
from tests.support.wire import Wire, wire
from tests.upstream.http1.test_answer import CHUNKED, HELLO
from tests.upstream.http1.test_client import ask, holds_back, read, until
from tests.upstream.test_provider import PATIENT, nothing
from tests.upstream.test_provider import ask as post

AUTHORITY = trustme.CA()


def serving(*names: str, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """A server's context with a certificate for `names`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = version
    AUTHORITY.issue_cert(*names).configure_cert(context)
    return context


@asynccontextmanager
async def trusting(peer: Wire, authority: trustme.CA, *, connect_s: float = 5) -> AsyncIterator[Client]:
    """A client of `peer` that trusts `authority` alone."""
    context = open_context()
    authority.configure_trust(context)
    one = Client(peer.url, connect_s=connect_s, tls=context)
    try:
        yield one
    finally:
        await one.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_answers_come_over_tls_and_sessions_are_resumed(version: ssl.TLSVersion) -> None:
    """performance.md: a kept connection is used again, and a new one begins with the session of an old one."""
    async with wire([HELLO], tls=serving("127.0.0.1", version=version)) as peer, trusting(peer, AUTHORITY) as one:
        for _ in range(3):
            assert await read(await ask(one)) == b"hello"
        assert (peer.connections, peer.resumed) == (1, [False])
        several = [await ask(one) for _ in range(2)]
        assert [await read(each) for each in several] == [b"hello"] * 2
        assert peer.resumed == [False, True]


async def test_nothing_that_is_sent_over_tls_is_held_back() -> None:
    """Rule S6: TCP_NODELAY is on the socket under the TLS."""
    async with wire([HELLO], tls=serving("127.0.0.1")) as peer, trusting(peer, AUTHORITY) as one:
        connection = await ask(one)
        assert not holds_back(connection)
        assert await read(connection) == b"hello"


async def test_large_bodies_pass_over_tls() -> None:
    """Rules H18, H19: both ways, beyond every buffer."""
    piece = b"x" * 100_000
    answer = [CHUNKED, *[b"%x\r\n%s\r\n" % (len(piece), piece)] * 20, b"0\r\n\r\n"]
    async with wire(answer, tls=serving("127.0.0.1")) as peer, trusting(peer, AUTHORITY) as one:
        for _ in range(2):
            connection = await one.connection()
            connection.ask(b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 3000000\r\n\r\n", b"y" * 3_000_000)
            assert await read(connection) == piece * 20
        assert peer.connections == 1


@pytest.mark.parametrize("wrong", ["name", "authority", "plain"])
async def test_who_cannot_be_verified_is_not_asked(wrong: str) -> None:
    """Rule Y5: the wrong name, an authority nobody trusts, and no TLS at all: nothing is sent, key least of all."""
    tls = None if wrong == "plain" else serving("other.test" if wrong == "name" else "127.0.0.1")
    # Who speaks no TLS waits for the end of a line; only time ends that.
    connect_s = 0.2 if wrong == "plain" else 5
    async with wire([HELLO], tls=tls) as peer:
        peer.url = peer.url.replace("http:", "https:")
        async with trusting(peer, trustme.CA() if wrong == "authority" else AUTHORITY, connect_s=connect_s) as one:
            with pytest.raises(UnreachableError):
                await one.connection()
            with pytest.raises(UpstreamError) as caught:
                await post(OpenAI(one, "sk-key", idle_s=1, connections_max=1), "well")
            assert (caught.value.code, caught.value.sent) == ("upstream_unreachable", False)
        assert peer.heads == []
        await until(peer, 0)


async def test_the_systems_store_does_not_trust_strangers() -> None:
    """Rule Y5: what is used where nothing else is given verifies too."""
    async with wire([HELLO], tls=serving("127.0.0.1")) as peer:
        one = Client(peer.url, connect_s=5)
        with pytest.raises(UnreachableError):
            await one.connection()
        await one.close()


async def test_a_client_that_gives_up_does_not_wait_for_tls_to_end() -> None:
    """Rule D1: the connection is gone at once, whatever the other side still has to say."""
    async with (
        wire([CHUNKED + b"1\r\nx\r\n", b"y"], tls=serving("127.0.0.1"), hold=True) as peer,
        trusting(peer, AUTHORITY) as one,
    ):
        provider = OpenAI(one, "sk-key", idle_s=10, connections_max=1)
        reply = await provider.send("GET", "/x", b"", b"", b"", nothing, PATIENT)
        assert await reply.read() == b"x"
        reply.close()
        async with asyncio.timeout(1):
            await until(peer, 0)
        assert not one._open
