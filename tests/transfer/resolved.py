"""The config of a run from a dataset and a few choices, for the tests."""

from detectron2.config import CfgNode

from transfer.data.dataset import Dataset
from transfer.settings import resolved_config
from transfer.settings.request import Request
from transfer.settings.start_weights import RGB_PIXELS, Weights


def resolve(dataset: Dataset, heads: str, scale: str, overrides: tuple[str, ...] = (), *, device: str = "cpu",
            architecture: str = "resnet50", pixel_format: dict | None = None, weights: str = "", output: str = "",
            **choices: object) -> CfgNode:
    """`settings.resolve` of random weights that want `pixel_format`, or of the file `weights`."""
    request = Request(task=dataset.task, heads=heads, scale=scale, overrides=overrides, weights="random", data="",
                      output=output, **choices)
    start = Weights("any", architecture, pixel_format or RGB_PIXELS, pkl=weights)
    return resolved_config.resolve(dataset, request, start, device)
