"""Checkpoints written by tests, and what is said of those that are refused."""

from pathlib import Path

import pytest
import torch

from pretrain.common.errors import UserError
from transfer.reading.intake import read_checkpoint


def save(content: object, path: Path, **options: object) -> Path:
    torch.save(content, path, **options)
    return path


def refusal(path: Path, **options: object) -> str:
    """The one line with which the file is refused."""
    with pytest.raises(UserError) as caught:
        read_checkpoint(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
