"""How a GPU computes: by what it may choose its kernels, decided once and recorded with every run."""

import os

import torch
from torch.backends import cuda


def choose(device: torch.device, search: bool = True, deterministic: bool = False) -> dict[str, bool]:
    """Decide it for this process and return what was decided, by name; nothing on a CPU.

    cudnn_benchmark: cuDNN's fastest convolution is searched for each shape at its first use. A
    pretraining has few shapes, the same in every step: this costs seconds at the start. `search`
    False: fine-tunings, evaluations and probes, where images have many shapes and each would be
    searched for. Two runs may get different kernels and differ in last digits: never with
    `deterministic`.
    tf32: never. In fp16 and bf16 hardly a product is left in fp32, and those are the loss's, on
    purpose. fp32 is what the others are compared with, and what the published fine-tunings were
    made in; TF32, with ten bits, would make it a low precision too. torch has it on for
    convolutions.
    deterministic: slower kernels that give the same bits in every run. An operator that has none is
    warned of, and runs; so would attention's fused kernels, which are left out for that: the gradients
    of its plain products are the same in every run.
    """
    if device.type != "cuda":
        return {}
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
        torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic = torch.are_deterministic_algorithms_enabled()  # or by who calls us
    if deterministic:
        for use in (cuda.enable_flash_sdp, cuda.enable_mem_efficient_sdp, cuda.enable_cudnn_sdp):
            use(False)
    torch.backends.cudnn.benchmark = search and not deterministic
    torch.backends.cudnn.allow_tf32 = cuda.matmul.allow_tf32 = False
    return {"cudnn_benchmark": torch.backends.cudnn.benchmark, "tf32": torch.backends.cudnn.allow_tf32,
            "deterministic": deterministic}
