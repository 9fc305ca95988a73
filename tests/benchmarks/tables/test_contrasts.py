"""Named rows compared on each dataset, corrected together."""

from pathlib import Path

import pytest

from benchmarks.tables import all_tables
from pretrain.common.errors import UserError
from tests.benchmarks.table_files import trained, write_all


def test_main__contrasts_on_each_dataset_are_corrected_together(make_result, tmp_path: Path, capsys) -> None:
    # Differences 2, 3, 4: t = 3 * sqrt(3) with two degrees of freedom, p = 1 - t / sqrt(2 + t^2) = 0.03510. On bccd
    # -2, 3, 5: mean 2, deviation 3.6056, t = 0.96077, p = 0.43805. The other contrast: 1, 1, 2.5 and one trial.
    bccd = {"dataset__label": "bccd", "dataset__val__annotations_sha256": "99" * 32}
    for values, more in (([12.0, 13.0, 14.0], {}), ([8.0, 13.0, 15.0], bccd)):
        write_all(tmp_path, *trained(make_result, "CLoVE", values, **more))
    for more in ({}, bccd):
        write_all(tmp_path, *trained(make_result, "Supervised", [10.0, 10.0, 10.0], **more))
    write_all(tmp_path, *trained(make_result, "Rand init", [9.0, 9.0, 7.5]),
              *trained(make_result, "Rand init", [9.0], **bccd))
    asked = ["--contrast", "CLoVE - Supervised", "--contrast", "Supervised - Rand init"]
    assert all_tables.main(["--results", str(tmp_path), *asked]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("CLoVE - ", "Supervised - "))]
    assert [line.split(", AP bb, Own data: ")[1].partition(",")[0] for line in lines] == ["bccd", "nuclei"] * 2
    assert [line.rpartition("annotations ")[2][10:] for line in lines] == [
        "+2.0 [-7.0, +11.0] n=3, p = 0.44, with Holm's correction for 3: 0.44",
        "+3.0 [+0.5, +5.5] n=3, p = 0.035, with Holm's correction for 3: 0.11",
        "+1.0 [-] n=1 (no interval: one pretraining has no spread)",
        "+1.5 [-0.7, +3.7] n=3, p = 0.095, with Holm's correction for 3: 0.19"]
    (tmp_path / "tables" / "tables.md").unlink()
    for wrong in ("CLoVE - Superb", "CLoVE", "CLoVE - clove"):  # the last has a difference to the random start
        with pytest.raises(UserError) as caught:
            all_tables.main(["--results", str(tmp_path), "--contrast", wrong])
        assert not (tmp_path / "tables" / "tables.md").exists()
        assert str(caught.value) == (f"--contrast {wrong}: expected \"ROW - OTHER ROW\", two measured rows of one "
                                     "dataset, found none; the tables name their rows")
