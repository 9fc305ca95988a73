"""The options of every command that reads a checkpoint file."""

import argparse


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `read_checkpoint`."""
    parser.add_argument("--prefix", metavar="P",
                        help="names the network in a file of an unknown layout, as PREFIX or "
                             "PLACE:PREFIX; '' for torchvision's bare names")
    parser.add_argument("--branch", choices=("student", "teacher"),
                        help="which network, where the file holds both (default: the one that the "
                             "authors transfer)")
    parser.add_argument("--trust", action="store_true",
                        help="let the file run its own code while it is read; only for files you "
                             "know")
