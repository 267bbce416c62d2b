"""What the measurements share, and the machine's description in their JSON."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from bench import machine
from bench.in_process import InProcess
from sentinel.openai.tokens.tokenizer import Tokenizer
from sentinel.ops import vocab


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """The versions that a figure depends on stand beside it."""
    machine_info["sentinel"] = machine.describe()


def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    """Every single round would be tens of megabytes: the statistics stay."""
    for figure in output_json["benchmarks"]:
        figure["stats"].pop("data", None)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """Both encodings."""
    return Tokenizer.load(vocab.ranks)


@pytest.fixture(scope="session")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """The loop of production, for what awaits."""
    made = uvloop.new_event_loop()
    asyncio.set_event_loop(made)
    yield made
    made.close()


@pytest.fixture(scope="session")
def sentinel(loop: asyncio.AbstractEventLoop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    """Sentinel in this process, with a real Redis, Zion's simulator and a provider beside it."""
    directory: Path = tmp_path_factory.mktemp("sentinel")
    running = InProcess(directory)
    loop.run_until_complete(running.open())
    yield running
    loop.run_until_complete(running.close())
