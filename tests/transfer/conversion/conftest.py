"""Conversions without their longest part."""

import pytest


@pytest.fixture
def unproved(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests about files and what they say: detectron2 is not asked, which takes most of a conversion's time."""
    from transfer.conversion.proof import PROOFS  # detectron2 takes seconds to import
    from transfer.conversion.stage_maps import STAGES

    proof = {"loader": "none", "tensors": 0, "largest_difference": dict.fromkeys(STAGES, 0.0)}
    monkeypatch.setitem(PROOFS, "detectron2", lambda *_: proof)
