"""Results of older versions, read like today's. Standard library only.

Schema 1 had the columns of its table under `metrics`, by the names that the tables show (AP_bb),
and every other number of the evaluator as GROUP/NAME under `details`. The names below are those of
that time: they stay as they are when a table changes.
"""

from typing import Any

from pretrain.common.fields import is_number

SCHEMA = 2  # today's
GROUPS = {"bb": "bbox", "mb": "segm", "kp": "keypoints"}  # end of a column's name -> the evaluator's group
# Tables whose columns had no such end.
PLAIN = {"cityscapes_instance_segmentation": "segm", "voc_detection": "bbox"}


def metric_of(table: str | None, column: str) -> str:
    """The metric (GROUP/NAME) that a column of a table was; ValueError for a column of no table."""
    if "/" in column:
        return column
    name, _, end = column.partition("_")
    group = GROUPS.get(end) if end else PLAIN.get(table)
    if group is None:
        raise ValueError("metrics: expected GROUP/NAME or a column of schema 1, found "
                         f"{column!r:.60}")
    return f"{group}/{name}"


def read_as_now(result: dict[str, Any]) -> dict[str, Any]:
    """`result` with all that the evaluator gave under `metrics`, {"bbox/AP": percent or None, ...}.

    A result of today's schema is returned as it is. ValueError for a column that was in no table.
    What is not a percentage under GROUP/NAME in `details` stays there.
    """
    if result.get("schema") != 1:
        return result
    found, metrics, rest = dict(result), {}, {}
    for column, value in result["metrics"].items():
        metrics[metric_of(result.get("table"), column)] = value
    for name, value in found.pop("details", {}).items():
        if "/" in name and (value is None or is_number(value, 0, 100)):
            metrics.setdefault(name, value)
        else:
            rest[name] = value
    found |= {"schema": SCHEMA, "metrics": metrics}
    if rest:
        found["details"] = rest
    return found
