"""What a pretraining takes of a GPU's memory: arithmetic, to be said before it starts. Standard library only.

Most of it are the layers' inputs and outputs that the backward pass needs again; a test counts them in a real step.
Added are weights, gradients and momentum, and what CUDA and cuDNN want for themselves. Not measured on a GPU; on a CPU
a step of 8 images peaked at 3.3 GB in fp32 and 2.4 GB in bf16, of which this explains all but the half GB of torch.
"""

from pretrain.common.architectures import ARCHITECTURES, Architecture
from pretrain.options.shared_options import Train

GB = 2**30
# Bytes of a trained weight: itself, its gradient, momentum, LARS's scaled gradient and the teacher's.
BYTES_OF_A_WEIGHT = 5 * 4
OF_CUDA_GB = 1.5  # context, workspaces of cuDNN, fragments
HEAD_CHANNELS = (4096, 4096, 256, 256, 768, 256, 256, 256)  # of maps that CLoVE's head keeps, default sizes


def gb(train: Train, images: int) -> float:
    """GB on a GPU whose process takes so many images through the network at once."""
    half = 4 if train.precision == "fp32" else 2
    own = ARCHITECTURES[train.architecture]
    views = [(train.global_views, train.global_size), (train.local_views, train.local_size)]
    kept = sum(number * kept_bytes(own, side, train.last_stage_stride, half) for number, side in views)
    return images * kept / GB + own.weights * BYTES_OF_A_WEIGHT / GB + OF_CUDA_GB


def in_words(train: Train, images: int) -> str:
    """`gb`, as it is said before a start."""
    return f"about {gb(train, images):.0f} GB of each GPU for {images} images at once (arithmetic, not measured)"


def kept_bytes(architecture: Architecture, side: int, last_stage_stride: int, size: int) -> int:
    """Bytes that one view of `side` pixels leaves for the backward pass, values of `size` bytes."""
    grid = _halved(side)
    stem = 64 * grid**2
    total = size * (3 * side**2 + 2 * stem)  # pixels, what batch norm gets, and what ReLU gives
    grid = _halved(grid)
    total += 64 * grid**2 * (size + 8)  # pooled, and from where
    for stage, blocks in enumerate(architecture.layers):
        width = 64 * 2**stage
        stride = (1, 2, 2, last_stage_stride)[stage]
        for block in range(blocks):
            smaller = _halved(grid) if block == 0 and stride == 2 else grid
            total += size * _block(architecture.bottleneck, width, grid, smaller, first=block == 0, stage=stage)
            grid = smaller
    return total + size * sum(HEAD_CHANNELS) * grid**2


def _block(bottleneck: bool, width: int, before: int, after: int, *, first: bool, stage: int) -> int:
    """Values of a block: of each convolution what batch norm gets, and what ReLU gives."""
    out = width * (4 if bottleneck else 1) * after**2
    inner = width * (before**2 + after**2) if bottleneck else width * after**2
    shortcut = out if first and (bottleneck or stage > 0) else 0  # a convolution there too, without ReLU
    return 2 * inner + 2 * out + shortcut


def _halved(side: int) -> int:
    return (side + 1) // 2
