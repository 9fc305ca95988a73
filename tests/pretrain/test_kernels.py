"""What a GPU may choose between kernels by."""

from collections.abc import Iterator

import pytest
import torch

from pretrain import kernels


@pytest.fixture(autouse=True)
def _torch_as_before() -> Iterator[None]:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    yield
    torch.use_deterministic_algorithms(False)
    cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before


def test_choose__on_a_gpu_searches_kernels_and_takes_no_tf32() -> None:
    assert kernels.choose(torch.device("cuda", 0)) == {"cudnn_benchmark": True, "tf32": False}
    assert torch.backends.cudnn.benchmark
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32


def test_choose__searches_nothing_where_runs_must_be_equal() -> None:
    torch.use_deterministic_algorithms(True)
    assert kernels.choose(torch.device("cuda", 0))["cudnn_benchmark"] is False


def test_choose__changes_nothing_for_a_cpu() -> None:
    before = torch.backends.cudnn.allow_tf32
    assert kernels.choose(torch.device("cpu")) == {} and torch.backends.cudnn.allow_tf32 == before
