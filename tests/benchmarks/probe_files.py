"""What a probe's file holds, for tests."""


def figures(value: float) -> dict:
    return {"knn_miou": value, "linear_miou": value + 1, "knn_foreground_auc": value + 2,
            "linear_foreground_auc": value + 3, "retrieval": value + 4, "linear_background_iou": None}


def make_probe(value: float = 30.0, **changes: object) -> dict:
    probe = {
        "schema": 1, "kind": "probe", "task": "coco", "method": "CLoVE", "epochs": 200, "demo": False,
        "stage": {"name": "probe-clove-coco", "key": "ab" * 32}, "metrics": figures(value),
        "baselines": {"Rand init": figures(10.0), "Rand init, last gamma 0": figures(12.0),
                      "pixel statistics": figures(90.0)},
        "details": {}, "protocol": {"layer": "res5", "side": 320, "batch_norm": "recalibrated"},
        "weights": {"method": "CLoVE", "architecture": "resnet50", "file_sha256": "cd" * 32},
        "dataset": {"name": "mini", "train": {"images": 48, "annotations_sha256": "12" * 32},
                    "val": {"images": 40, "annotations_sha256": "34" * 32}, "classes": ["cat", "dog"],
                    "probed": {"train": 48, "val": 20}},
        "seed": 0, "versions": {"python": "3.11"}, "hardware": {"cpu": "x"}, "code": {"git_sha": None, "dirty": None},
        "wall_seconds": 100.0, "started": "2026-01-01T00:00:00+00:00", "ended": "2026-01-01T00:02:00+00:00"}
    for name, new in changes.items():
        *parents, key = name.split("__")
        place = probe
        for parent in parents:
            place = place[parent]
        place[key] = new
    return probe
