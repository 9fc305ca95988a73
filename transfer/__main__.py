"""`python -m transfer COMMAND`: the commands of `COMMANDS`, which `clove COMMAND` runs too."""

import argparse
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

from pretrain.common.errors import fitting_the_gpu, run_cli

_EPILOG = """\
examples:
  clove inspect ckpt_epoch_200.pth
  clove fetch --list
  clove convert ckpt_epoch_200.pth --output converted/clove
  clove convert converted/clove/backbone.safetensors --to timm,mmdet --output elsewhere/clove
  clove dataset DIR
  clove preflight --task coco --data DIR --output runs/preflight-coco
  clove finetune --task coco --weights converted/clove --data DIR --output runs/clove-coco
  clove finetune --task coco --weights random --data DIR --output runs/random-coco
  clove evaluate runs/clove-coco --task coco --data DIR --output runs/clove-coco-again
  clove diff runs/clove-coco runs/random-coco
"""
# {command: (module of this package, what goes in and comes out, what it does)}. Each module has
# `add_arguments`, the options of the command, and `run`, which does what they say and returns the
# exit code.
COMMANDS = {
    "convert": (
        "conversion.convert_command",
        "checkpoint file -> weights of detectron2, torchvision, timm or mmdet; proved",
        "Reads a checkpoint (ResNet-50, or -34 and -18) and writes backbone.safetensors, a file "
        "for each target (detectron2.pkl, torchvision.pth, timm.safetensors, mmdet.pth) and the "
        "certificate conversion.json. Every tensor must be there, and the target's feature maps "
        "must equal torchvision's."),
    "inspect": ("reading.inspection", "what a checkpoint file is", None),
    "fetch": (
        "reading.fetch", "a method's published checkpoint, or how to get it", None),
    "dataset": ("trained.dataset", "what the suite sees in a folder of data, with a figure",
                "Reads and checks a dataset as a fine-tuning does; reports counts, classes, sizes "
                "and problems."),
    "preflight": (
        "finetuning.preflight",
        "tries a fine-tuning in a minute or two",
        "Reads and checks the whole dataset, then fine-tunes random weights on a few of its "
        "images, as finetune does."),
    "finetune": (
        "finetuning.finetune", "weights and a dataset -> a detector and its metrics", None),
    "evaluate": ("trained.evaluate_model", "the metrics of a finished detector", None),
    "diff": (
        "trained.diff", "what differs between two fine-tunings; exit code 0: nothing, 1: something", None),
    "hold-out": (
        "data.hold_out", "training annotations in two files: kept, and held out",
        "Splits an annotation file of training images in COCO's format, so that nothing need be "
        "chosen by the validation images."),
    "probe": (
        "probing.probe", "frozen backbone -> k-NN and linear segmentation, in minutes",
        "Measures a frozen backbone on labelled images, beside two random networks and the pixels "
        "alone."),
    "detections": (
        "trained.show", "a figure of what a detector finds",
        "Draws what a finished run detects, on its data or on any photographs."),
}

FEWER = "take fewer images at once by --fit accumulate=N with a smaller N; batch, rate and schedule stay"
SMALLER = {  # what to do where the memory of the GPU is full
    "finetune": FEWER, "preflight": FEWER, "probe": "use a smaller --side, or --device cpu",
    "evaluate": "use --device cpu, or end what else works on it", "detections": "use --device cpu"}


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser; what only `command` needs is imported only then, so that help is fast."""
    parser = argparse.ArgumentParser(
        prog="clove", epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Converts a pretrained ResNet checkpoint to detectron2, proves that it is the "
                    "same network there, and fine-tunes it.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, text, description) in COMMANDS.items():
        own = commands.add_parser(name, help=text, description=description)
        if name == command:
            import_module(f"transfer.{module}").add_arguments(own)
    return parser


def main(given: Sequence[str] | None = None) -> int:
    # detectron2 still compiles parts with torch.jit.script; a user cannot fix that.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.jit")
    words = list(sys.argv[1:] if given is None else given)
    if words[:1] == ["show"]:  # its name in version 0.1
        words[0] = "detections"
    arguments = build_parser(words[0] if words else None).parse_args(words)
    with fitting_the_gpu(SMALLER.get(arguments.command, "end what else works on it")):
        return import_module(f"transfer.{COMMANDS[arguments.command][0]}").run(arguments)


if __name__ == "__main__":
    run_cli(main)
