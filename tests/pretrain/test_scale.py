"""Very many images: the start of a run, its memory and the change of epochs do not grow with their number."""

from pathlib import Path

import pytest

from pretrain.data.name_table import NameTable
from tests.pretrain import simulated_images


@pytest.mark.parametrize("number", [1, 999, 6400, 130_001])
def test_simulated_list__is_what_a_run_would_write(tmp_path: Path, number: int) -> None:
    simulated_images.write_list(tmp_path, number)
    (tmp_path / "own").mkdir()
    table = NameTable.write(tmp_path / "own", "images", simulated_images.names(number))
    assert (tmp_path / table.path.name).read_bytes() == table.path.read_bytes()
    assert list(table) == sorted(table)


@pytest.mark.slow
def test_run__ten_million_images_cost_no_time_and_no_memory(tmp_path: Path) -> None:
    """Bounds far above what was measured (docs/pretraining.md), for busy machines; a permutation would take 80 MB and
    a second an epoch, a list of names 1 GB."""
    found = simulated_images.measure(tmp_path, 10**7)
    assert found["images"] == 10**7 and found["first batch"] < 30 and found["next epoch"] < 5
    assert found["main"]["rss"] < 60
    assert len(found["loaders"]) == simulated_images.WORKERS
    assert all(loader["private"] < 60 for loader in found["loaders"])
