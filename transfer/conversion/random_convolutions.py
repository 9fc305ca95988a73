"""A control: a backbone with its batch norm and random convolutions. Is it more than its scales?"""

import torch
import torchvision
from torch import nn

from pretrain.common.errors import refuse

INIT = "random convolutions (torchvision: He normal, fan out), batch norm of a converted checkpoint"


def method_of(method: str) -> str:
    return method.removesuffix(" (random convolutions)") + " (random convolutions)"


def redraw(state: dict[str, torch.Tensor], architecture: str, seed: int) -> dict[str, torch.Tensor]:
    """A ResNet's tensors (torchvision names) with every convolution drawn at random.

    As `torch.manual_seed(seed)` and torchvision's constructor give it; gammas, betas and statistics
    of batch norm stay. Raises `UserError` for a seed that torch does not take.
    """
    refuse((not 0 <= seed < 2**63, f"--random-convolutions {seed}: expected a seed from 0 to 2**63 "
                                   "- 1"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = torchvision.models.get_model(architecture, weights=None)
    made = dict(state)
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            made[f"{name}.weight"] = module.weight.detach().to(state[f"{name}.weight"].dtype)
    return made
