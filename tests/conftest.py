"""Options and fixtures that every test shares."""

import os
from pathlib import Path

import pytest

# The tests are those of a CPU, with the same numbers on a machine that has GPUs; before torch looks for them.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the slow tests only")
    parser.addoption("--longest", action="store_true", help="run only those that take minutes each")
    parser.addoption("--all", action="store_true", dest="run_all", help="run all tests")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("run_all"):
        return
    wanted = "longest" if config.getoption("--longest") else "slow" if config.getoption("--slow") else "fast"
    kinds = {item: next((kind for kind in ("longest", "slow") if kind in item.keywords), "fast") for item in items}
    items[:] = [item for item, kind in kinds.items() if kind == wanted]
    config.hook.pytest_deselected(items=[item for item, kind in kinds.items() if kind != wanted])


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of small real datasets, which is not part of the project."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real sample data is not here ({folder})")
    return folder
