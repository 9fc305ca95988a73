"""Entry point: `python -m transfer inspect|fetch|convert|preflight|finetune|evaluate|diff|hold-out|probe|show ...`."""

import argparse
import sys
import warnings

from pretrain.errors import run_cli

_EPILOG = """\
examples:
  python -m transfer inspect ckpt_epoch_200.pth
  python -m transfer fetch --list
  python -m transfer convert ckpt_epoch_200.pth --output converted/clove
  python -m transfer convert converted/clove/backbone.safetensors --to timm,mmdet --output elsewhere/clove
  python -m transfer preflight --task coco --data DIR --output runs/preflight-coco
  python -m transfer finetune --task coco --weights converted/clove --data DIR --output runs/clove-coco
  python -m transfer finetune --task coco --weights random --data DIR --output runs/random-coco
  python -m transfer evaluate runs/clove-coco --task coco --data DIR --output runs/clove-coco-again
  python -m transfer diff runs/clove-coco runs/random-coco
"""


def _parser(command: str | None) -> argparse.ArgumentParser:
    """The parser; what only `command` needs is imported only then, so that help comes at once."""
    parser = argparse.ArgumentParser(
        prog="python -m transfer", epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Takes a pretrained ResNet checkpoint to detectron2, proves that it is the same network there, "
                    "and fine-tunes it.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    convert = commands.add_parser(
        "convert", help="checkpoint file -> weights of detectron2, torchvision, timm or mmdet, with a certificate",
        description="Reads a checkpoint (ResNet-50, or -34 and -18) and writes backbone.safetensors, a file for each "
                    "target (detectron2.pkl, torchvision.pth, timm.safetensors, mmdet.pth) and the certificate "
                    "conversion.json. Every tensor must be there, and the target's maps must equal torchvision's.")
    convert.add_argument("file", metavar="FILE", help="the checkpoint, or the backbone.safetensors of a conversion")
    convert.add_argument("--output", required=True, metavar="DIR",
                         help="folder for the files; those of an earlier conversion there are replaced")
    convert.add_argument("--to", action="append", metavar="TARGET", dest="targets",
                         help="detectron2 (default), torchvision, timm or mmdet; several with commas or another --to")
    convert.add_argument("--fpn", action="store_true",
                         help="take a pretrained FPN over too (ReSim); default: the backbone alone, as for the others")
    convert.add_argument("--random-convolutions", type=int, metavar="SEED",
                         help="a control: draw every convolution anew, as torchvision does, and keep the batch norm")
    convert.add_argument("--method", metavar="NAME", help="name of the row in the tables (default: from the file)")
    convert.add_argument("--branch", choices=("student", "teacher"),
                         help="which network, where the file holds both (default: the one the authors transfer)")
    convert.add_argument("--prefix", metavar="P",
                         help="what stands before the network's names in a file of an unknown layout; PLACE:P names "
                              "the dictionary too")
    convert.add_argument("--trust", action="store_true",
                         help="let the file run its own code while it is read; only for files you know")
    inspect = commands.add_parser("inspect", help="checkpoint file -> what it is")
    if command == "inspect":
        from transfer.inspection import add_arguments
        add_arguments(inspect)
    fetch = commands.add_parser("fetch", help="name of a method -> its published checkpoint, or how to get it")
    if command == "fetch":
        from transfer.fetch import add_arguments
        add_arguments(fetch)
    preflight = commands.add_parser("preflight", help="tries a fine-tuning in a minute or two: two iterations, a save, "
                                                      "two images evaluated",
                                    description="Reads and checks the whole dataset, then fine-tunes random weights on "
                                                "a few of its images as finetune would.")
    if command == "preflight":
        from transfer.preflight import add_arguments
        add_arguments(preflight)
    finetune = commands.add_parser("finetune", help="detectron2 weights -> fine-tuning and evaluation on one task")
    if command == "finetune":
        from transfer.finetune import add_arguments
        add_arguments(finetune)
    evaluate = commands.add_parser("evaluate", help="evaluation of a finished model alone")
    if command == "evaluate":
        from transfer.evaluate_model import add_arguments
        add_arguments(evaluate)
    diff = commands.add_parser("diff", help="what differs between two runs; exit code 0: nothing, 1: something")
    if command == "diff":
        from transfer.diff import add_arguments
        add_arguments(diff)
    hold_out = commands.add_parser("hold-out", help="annotations -> two files: training images that are kept, held out",
                                   description="Splits an annotation file of training images in COCO's format, so "
                                               "that nothing need be chosen by the validation images.")
    if command == "hold-out":
        from transfer.hold_out import add_arguments
        add_arguments(hold_out)
    probe = commands.add_parser("probe", help="frozen backbone -> k-NN and linear segmentation, retrieval: minutes",
                                description="Measures a frozen backbone on labelled images, beside two random networks "
                                            "and the pixels alone.")
    if command == "probe":
        from transfer.dense_probe import add_arguments
        add_arguments(probe)
    show = commands.add_parser("show", help="finished fine-tuning -> a picture of its detections",
                               description="Draws what a finished run detects, on its data or on any photographs.")
    if command == "show":
        from transfer.show import add_arguments
        add_arguments(show)
    return parser


def main() -> int:
    """Run one command; returns its exit code."""
    # detectron2 still compiles parts with torch.jit.script; nothing that a user could mend.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.jit")
    words = sys.argv[1:]
    arguments = _parser(words[0] if words else None).parse_args(words)
    if arguments.command == "inspect":
        from transfer.inspection import run
        return run(arguments)
    if arguments.command == "fetch":
        from transfer.fetch import run
        return run(arguments)
    if arguments.command == "preflight":
        from transfer.preflight import run
        return run(arguments)
    if arguments.command == "finetune":
        from transfer.finetune import run
        return run(arguments)
    if arguments.command == "evaluate":
        from transfer.evaluate_model import run
        return run(arguments)
    if arguments.command == "diff":
        from transfer.diff import run
        return run(arguments)
    if arguments.command == "hold-out":
        from transfer.hold_out import run
        return run(arguments)
    if arguments.command == "probe":
        from transfer.dense_probe import run
        return run(arguments)
    if arguments.command == "show":
        from transfer.show import run
        return run(arguments)
    from transfer.convert import convert, describe
    targets = ",".join(arguments.targets or ["detectron2"]).split(",")
    certificate = convert(arguments.file, arguments.output, arguments.method, fpn=arguments.fpn,
                          random_convolutions=arguments.random_convolutions,
                          targets=[target.strip() for target in targets], branch=arguments.branch,
                          trust=arguments.trust, prefix=arguments.prefix)
    print(describe(certificate, arguments.output))
    return 0


if __name__ == "__main__":
    run_cli(main)
