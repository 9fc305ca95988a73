"""What is asked for: the options of a protocol, said on the command line and read back."""

import argparse

import pytest

from transfer.settings import request
from transfer.settings.request import Protocol, Request


def parsed(words: list[str]) -> Protocol:
    parser = argparse.ArgumentParser()
    request.add_protocol_arguments(parser)
    return Protocol.of(parser.parse_args(words))


@pytest.mark.parametrize("asked", [
    Protocol(task="coco"),
    Protocol(task="keypoints", scale="mini", heads="4conv1fc", overrides=("SOLVER.MAX_ITER=9", "SOLVER.STEPS=3,5")),
    Protocol(task="voc", schedule="24k_1gpu", solver="vicreg"),
    Protocol(task="coco", schedule="2x", fit="accumulate=4", overrides=("MODEL.RESNETS.NORM=",)),
])
def test_arguments__read_back_are_the_same_protocol(asked: Protocol) -> None:
    assert parsed(asked.arguments()) == asked


def test_of__sixteen_bit_is_a_value_of_the_config() -> None:
    said = parsed(["--task", "coco", "--set", "SOLVER.MAX_ITER=9", "--sixteen-bit", "range", "--precision", "bf16"])
    assert said == Protocol(
        task="coco", overrides=("SOLVER.MAX_ITER=9", "INPUT.SIXTEEN_BIT=range", "SOLVER.AMP.PRECISION=bf16"))


def test_arguments__only_what_is_not_the_default() -> None:
    assert Protocol(task="coco").arguments() == ["--task", "coco"]
    every = Protocol(task="coco", scale="full", heads="2fc", schedule="1x", solver="common", fit="linear=2",
                     overrides=("A=1", "B=2"))
    assert every.arguments() == ["--task", "coco", "--heads", "2fc", "--schedule", "1x", "--solver", "common",
                                 "--fit", "linear=2", "--set", "A=1", "--set", "B=2"]


def test_sixteen_bit__is_another_name_of_a_config_value() -> None:
    asked = parsed(["--task", "coco", "--set", "SOLVER.MAX_ITER=9", "--sixteen-bit", "range"])
    assert asked.overrides == ("SOLVER.MAX_ITER=9", "INPUT.SIXTEEN_BIT=range")


def test_request__is_a_protocol_whose_own_options_are_not_said_with_it() -> None:
    asked = Request(task="coco", heads="2fc", weights="random", data="d", output="o", trial=3, num_gpus=2)
    assert asked.arguments() == ["--task", "coco", "--heads", "2fc"]


def test_fields__each_has_an_option() -> None:
    """A field that the command line cannot say would be lost between the suite and its stages."""
    parser = argparse.ArgumentParser()
    request.add_protocol_arguments(parser)
    options = {action.dest for action in parser._actions} - {"help"}
    assert options == set(Protocol.__dataclass_fields__)
