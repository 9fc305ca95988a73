"""The loop over view pairs and the joined loss: the same value and gradients."""

import pytest
import torch

from benchmarks.speed import loss as loss_benchmark
from benchmarks.speed.counting import count
from pretrain.common.errors import UserError


def test_sides__give_the_same_loss_and_gradients() -> None:
    loop, joined = loss_benchmark.sides(images=5, local_views=3, channels=16)
    (plain, plain_grads), (ours, our_grads) = loop(), joined()
    assert ours == pytest.approx(plain, rel=1e-6) and 60 < ours < 140
    for found, expected in zip(our_grads, plain_grads, strict=True):
        assert expected.abs().max() > 0
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_sides__joined_does_not_grow_with_the_views() -> None:
    few, many = (loss_benchmark.sides(images=2, local_views=views, channels=8) for views in (2, 6))
    assert count(few[1]).operations == count(many[1]).operations < count(few[0]).operations
    assert count(many[0]).operations > 2 * count(few[0]).operations


def test_main__prints_both_and_the_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    assert loss_benchmark.main(["--batch", "2", "--channels", "8", "--steps", "2"]) == 0
    printed = capsys.readouterr().out
    assert "2 images, 2 + 6 views" in printed and printed.count(" ms") == 2 and "times the loop" in printed


def test_main__nothing_to_measure_is_refused() -> None:
    with pytest.raises(UserError, match="of at least 1, found less"):
        loss_benchmark.main(["--steps", "0"])
