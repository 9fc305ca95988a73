"""How a GPU computes: what it may choose between kernels by, decided once and written down with every checkpoint."""

import torch


def choose(device: torch.device) -> dict[str, bool]:
    """Decide it for this process and say what was decided, by name; nothing on a CPU.

    cudnn_benchmark: the fastest of cuDNN's convolutions is searched for each shape at its first use. A run has few
    shapes, the same in every step, so that seconds at the start are all it costs. Two runs may get different kernels,
    and differ in last digits: off under torch.use_deterministic_algorithms.
    tf32: never. In fp16 and bf16 hardly a product is left in fp32, and those are the loss's, on purpose; and fp32 is
    what the others are compared with, which TF32's ten bits would make one more low precision without a name. torch
    has it on for convolutions.
    """
    if device.type != "cuda":
        return {}
    torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return {"cudnn_benchmark": torch.backends.cudnn.benchmark, "tf32": torch.backends.cudnn.allow_tf32}
