"""Options and fixtures that every test shares."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the slow tests only")
    parser.addoption("--all", action="store_true", dest="run_all", help="run fast and slow tests")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("run_all"):
        return
    wanted = config.getoption("--slow")
    dropped = [item for item in items if ("slow" in item.keywords) != wanted]
    items[:] = [item for item in items if ("slow" in item.keywords) == wanted]
    config.hook.pytest_deselected(items=dropped)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of small real datasets, which is not part of the project."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real sample data is not here ({folder})")
    return folder
