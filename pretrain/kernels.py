"""How a GPU computes: by what it may choose its kernels, decided once and recorded with every checkpoint."""

import torch


def choose(device: torch.device) -> dict[str, bool]:
    """Decide it for this process and return what was decided, by name; nothing on a CPU.

    cudnn_benchmark: cuDNN's fastest convolution is searched for each shape at its first use. A run
    has few shapes, the same in every step: this costs seconds at the start. Two runs may get
    different kernels and differ in last digits: off under torch.use_deterministic_algorithms.
    tf32: never. In fp16 and bf16 hardly a product is left in fp32, and those are the loss's, on
    purpose. fp32 is what the others are compared with; TF32, with ten bits, would make it a low
    precision too. torch has it on for convolutions.
    """
    if device.type != "cuda":
        return {}
    torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return {"cudnn_benchmark": torch.backends.cudnn.benchmark, "tf32": torch.backends.cudnn.allow_tf32}
