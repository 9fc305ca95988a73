"""metrics.jsonl and TensorBoard: what stays after a kill, and which process writes."""

import json
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pretrain.distributed import Process
from pretrain.runs.metrics import MetricsLog, lines_until

MAIN = Process(0, 1, torch.device("cpu"))


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_log__one_line_and_one_scalar_for_each_value(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, 0, MAIN) as log:
        log.write(0, {"retrieval_backbone": 0.25, "knn_top1": 0.5})
        log.step(1, {"loss": 2.0}, 33.333, 0.12345)
    assert lines(tmp_path) == [{"step": 0, "retrieval_backbone": 0.25, "knn_top1": 0.5},
                               {"step": 1, "loss": 2.0, "images_per_second": 33.33, "loader_wait": 0.1235}]
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(e.step, e.value) for e in board.Scalars("knn_top1")] == [(0, 0.5)]
    assert [(e.step, e.value) for e in board.Scalars("loss")] == [(1, 2.0)]


def test_log__not_finite_is_null(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, 0, MAIN) as log:
        log.step(1, {"loss": float("nan")}, 1.0, 0.0)
    assert lines(tmp_path)[0]["loss"] is None


def test_log__resumed_drops_later_and_torn_lines_and_knows_its_probes(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, 0, MAIN) as log:
        log.write(0, {"retrieval_backbone": 0.1})
        log.write(2, {})
        for step in (1, 2, 3):
            log.step(step, {"loss": float(step)}, 1.0, 0.0)
        log.write(3, {"retrieval_backbone": 0.2})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "lo')
    with MetricsLog(tmp_path, 2, MAIN) as log:
        assert log.probed == {0}
    assert [line["step"] for line in lines(tmp_path)] == [0, 1, 2]


def test_log__other_processes_write_nothing_but_know_the_probes(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, 0, MAIN) as log:
        log.write(0, {"retrieval_backbone": 0.1})
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with MetricsLog(tmp_path, 5, Process(1, 2, torch.device("cpu"))) as log:
        log.step(6, {"loss": 1.0}, 1.0, 0.0)
        assert log.probed == {0}
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_lines_until__drops_what_comes_again_and_what_is_no_entry(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.json"
    assert lines_until(metrics, "iteration", 3) == []
    whole = [json.dumps({"iteration": number, "total_loss": 1.5}) for number in (0, 2, 3, 4, 5)]
    broken = b'[1, 2]\n{"iteration": "x"}\n{}\n\xff\xfe\n{"iteration": 3, "tot'
    metrics.write_bytes("\n".join(whole).encode() + b"\n" + broken)
    assert lines_until(metrics, "iteration", 3) == [(line, json.loads(line)) for line in whole[:3]]
    assert lines_until(metrics, "iteration", -1) == []
