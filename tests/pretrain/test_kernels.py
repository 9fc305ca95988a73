"""What a GPU may choose between kernels by."""

import os
from collections.abc import Iterator

import pytest
import torch
from torch.backends import cuda

from pretrain import kernels


@pytest.fixture(autouse=True)
def _torch_as_before() -> Iterator[None]:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    yield
    torch.use_deterministic_algorithms(False)
    cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before
    for use in (cuda.enable_flash_sdp, cuda.enable_mem_efficient_sdp, cuda.enable_cudnn_sdp):
        use(True)


def test_choose__on_a_gpu_searches_kernels_and_takes_no_tf32() -> None:
    assert kernels.choose(torch.device("cuda", 0)) == {
        "cudnn_benchmark": True, "tf32": False, "deterministic": False}
    assert torch.backends.cudnn.benchmark
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32


def test_choose__searches_nothing_where_runs_must_be_equal() -> None:
    torch.use_deterministic_algorithms(True)
    assert kernels.choose(torch.device("cuda", 0))["cudnn_benchmark"] is False


def test_choose__where_shapes_are_many_no_kernel_is_searched_for() -> None:
    assert kernels.choose(torch.device("cuda", 0), search=False) == {
        "cudnn_benchmark": False, "tf32": False, "deterministic": False}


def test_choose__the_same_bits_in_every_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    assert kernels.choose(torch.device("cpu"), deterministic=True) == {}
    assert not torch.are_deterministic_algorithms_enabled()
    assert kernels.choose(torch.device("cuda", 0), deterministic=True) == {
        "cudnn_benchmark": False, "tf32": False, "deterministic": True}
    assert torch.is_deterministic_algorithms_warn_only_enabled() and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_choose__attention_that_only_warns_is_left_out_where_bits_must_be_the_same() -> None:
    fused = (cuda.flash_sdp_enabled, cuda.mem_efficient_sdp_enabled, cuda.cudnn_sdp_enabled)
    kernels.choose(torch.device("cuda", 0))
    assert all(enabled() for enabled in fused) and cuda.math_sdp_enabled()
    kernels.choose(torch.device("cuda", 0), deterministic=True)
    assert not any(enabled() for enabled in fused) and cuda.math_sdp_enabled()


def test_choose__changes_nothing_for_a_cpu() -> None:
    before = torch.backends.cudnn.allow_tf32
    assert kernels.choose(torch.device("cpu")) == {} and torch.backends.cudnn.allow_tf32 == before
