"""Results of older versions, read like today's. Standard library only.

Before all metrics stood in one mapping, `metrics` held the columns of the task's table and `details` the others.
"""

from transfer import tasks


def read_as_now(result: dict) -> dict:
    """`result` with everything that the evaluator gave under `metrics`, {"bbox/AP": percent or None, ...}; one that has
    that form already is returned as it is."""
    if "details" not in result:
        return result
    metrics = {column.metric: result["metrics"][column.name] for column in tasks.get(result["task"]).columns
               if column.name in result["metrics"]}
    rest = {key: value for key, value in result.items() if key != "details"}
    return {**rest, "metrics": metrics | result["details"]}
