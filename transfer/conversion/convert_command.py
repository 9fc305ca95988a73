"""The options of `clove convert`, without the imports of what it does: help comes at once."""

import argparse

from transfer.reading.arguments import add_reading_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the checkpoint, or the backbone.safetensors "
                                                     "of a conversion")
    parser.add_argument("--output", required=True, metavar="DIR",
                        help="folder for the files; those of an earlier conversion there are "
                             "replaced")
    parser.add_argument("--to", action="append", metavar="TARGET", dest="targets",
                        help="detectron2 (default), torchvision, timm or mmdet; several with "
                             "commas or another --to")
    parser.add_argument("--fpn", action="store_true",
                        help="take a pretrained FPN over too (ReSim); default: the backbone "
                             "alone, as for the others")
    parser.add_argument("--random-convolutions", type=int, metavar="SEED",
                        help="a control: draw every convolution at random, as torchvision does, "
                             "and keep the batch norm")
    parser.add_argument("--method", metavar="NAME",
                        help="name of the row in the tables (default: from the file)")
    add_reading_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from transfer.conversion.convert import convert, describe

    targets = ",".join(args.targets or ["detectron2"]).split(",")
    certificate = convert(args.file, args.output, args.method, fpn=args.fpn,
                          targets=[target.strip() for target in targets],
                          random_convolutions=args.random_convolutions,
                          branch=args.branch, trust=args.trust, prefix=args.prefix)
    print(describe(certificate, args.output))
    return 0
