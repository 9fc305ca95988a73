"""The stages of a run, as ./run_all.sh makes them."""

from benchmarks.options.run_options import Options
from benchmarks.stages import suite
from benchmarks.stages.checked_inputs import find_inputs
from benchmarks.stages.stage import Stage


def plan(options: Options) -> list[Stage]:
    """What `options` ask for, with what is found of their inputs."""
    return suite.build(options, find_inputs(options))
