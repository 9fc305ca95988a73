"""The processes of a run leave their group before the interpreter goes."""

import atexit
import sys
from pathlib import Path

import pytest
from detectron2.utils import comm

from transfer.finetuning.processes import start

THREADS = Path("/proc/self/task")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not THREADS.is_dir(), reason="needs Linux's list of threads")]


def _names() -> list[str]:
    return sorted((thread / "comm").read_text().strip() for thread in THREADS.iterdir())


def _talk(folder: Path, code: int) -> None:
    rank = comm.get_rank()
    atexit.register(lambda: (folder / f"after-{rank}").write_text("\n".join(_names())))
    assert comm.all_gather(rank) == [0, 1]
    (folder / f"inside-{rank}").write_text("\n".join(_names()))
    if code:
        sys.exit(code)


@pytest.mark.parametrize("code", [0, 143])
def test_processes__that_are_done_or_stopped_leave_no_thread_of_the_group(tmp_path: Path, code: int) -> None:
    if code:
        with pytest.raises(SystemExit) as ended:
            start(_talk, 2, tmp_path, code, device="cpu")
        assert ended.value.code == code
    else:
        start(_talk, 2, tmp_path, code, device="cpu")
    for rank in range(2):
        assert "gloo_tcp_loop" in (tmp_path / f"inside-{rank}").read_text()
        after = tmp_path / f"after-{rank}"
        # The first that leaves with a code has the others ended, perhaps before they came here.
        assert "gloo" not in after.read_text() if after.exists() else code
