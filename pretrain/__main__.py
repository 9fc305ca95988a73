"""Pretrain CLoVE on a folder of images.

  clove pretrain --recipe demo --data PHOTOS --output OUT               one process, CPU or GPU
  torchrun --nproc-per-node 4 -m pretrain --recipe imagenet_200ep --data IMAGENET/train --output OUT

Writes OUT/backbone.safetensors (the student's ResNet under torchvision names), checkpoints/,
metrics.jsonl, tensorboard/, curves.png, views.png and show.png. Run the same command again to
resume.

  clove shards --help        packs a folder of images into tar shards
  clove drill --help         kills a small run and proves that nothing is lost
  clove show --help          figures of views, positive cells and attention, and the training curves
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pretrain.common.errors import UserError, is_out_of_memory, run_cli
from pretrain.common.signals import stop_signals
from pretrain.config import Config, load_config
from pretrain.options.command_line import add_all_options, given_values
from pretrain.options.recipe_file import recipe_names

COMMANDS = {"show": "pretrain.figures.show", "shards": "pretrain.data.shards", "drill": "pretrain.runs.drill"}


def build_parser() -> argparse.ArgumentParser:
    """The command line; one option for each value of the configuration."""
    parser = argparse.ArgumentParser(
        prog="clove pretrain",
        usage="clove pretrain --data DIR --output DIR [--recipe NAME|FILE] [options]",
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False)
    parser.add_argument("--data", type=_path, required=True, metavar="DIR",
                        help="folder of images, nested or flat, or of .tar shards (clove shards)")
    parser.add_argument("--output", type=_path, required=True, metavar="DIR", help="where everything is written")
    parser.add_argument("--recipe", metavar="NAME|FILE",
                        help=f"one of {', '.join(recipe_names())}, or a YAML file; its values can be overridden below")
    add_all_options(parser)
    return parser


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("expected a folder, found an empty argument: a variable that is not set?")
    return Path(text)


def parse(arguments: list[str] | None = None) -> tuple[argparse.Namespace, Config]:
    """Arguments and the resolved configuration."""
    args = build_parser().parse_args(arguments)
    return args, load_config(args.recipe, given_values(args))


def run(config: Config, data: Path, output: Path, stop: Callable[[], int]) -> Path:
    """One process's whole run, from joining the group of processes to leaving it; otherwise
    `pretrain.train.train`."""

    from pretrain import distributed
    from pretrain.train import Ended, train

    try:
        process = distributed.start(config.runtime.device, config.runtime.collective_timeout)
        return train(config, data, output, process, stop)
    except (RuntimeError, MemoryError) as error:
        of_others = distributed.problem(error)
        if of_others and stop():
            raise Ended(stop()) from None
        if of_others:
            raise of_others from None
        problem = _problem(error, config)
        if not problem:
            raise
        raise UserError(problem) from None
    finally:
        distributed.stop()


def _problem(error: Exception, config: Config) -> str:
    """What a user can do about an error of torch or the system; "" when it is a bug of ours."""
    if is_out_of_memory(error):
        return (f"the GPU has too little memory for {config.runtime.device_batch} images at once: use a smaller "
                "--device-batch (accumulation follows; batch norm then sees fewer images)")
    if isinstance(error, MemoryError) or "t allocate memory" in str(error):
        return ("the machine has too little memory for this network and batch: use a smaller --device-batch, fewer "
                "--workers or a smaller network")
    return ""


def main(given: Sequence[str] | None = None) -> int:
    """Pretrain, or run a command of `COMMANDS`; returns the exit code."""
    words = list(sys.argv[1:] if given is None else given)
    if words and words[0] in COMMANDS:
        return importlib.import_module(COMMANDS[words[0]]).main(words[1:])
    args, config = parse(words)
    with stop_signals() as stop:  # before the seconds that importing torch takes
        from pretrain.train import Stopped, TrainingFailed  # with torch: a wrong option should not wait for it

        try:
            print(run(config, args.data, args.output, stop))
        except Stopped as stopped:
            print(stopped, file=sys.stderr)
            return stopped.exit_code
        except TrainingFailed as failed:
            print(f"error: {failed}", file=sys.stderr)
            return 3
    return 0


if __name__ == "__main__":
    run_cli(main)
