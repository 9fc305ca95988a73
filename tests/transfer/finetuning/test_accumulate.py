"""The accumulated step against the whole one: where they are equal, and by how much they differ where they are not."""

import copy
from pathlib import Path

import pytest
import torch
from detectron2.engine import SimpleTrainer
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tests.transfer.resolved import resolve
from transfer.data.dataset import Dataset, Split
from transfer.finetuning.accumulate import AccumulatingTrainer, parts
from transfer.finetuning.processes import start

SPLIT = Split(2, Path("annotations.json"), Path("images"), "0" * 64)
ALL = 10_000  # more regions than there are: every one is sampled, nothing is drawn
CONFIG = ("MODEL.FPN.OUT_CHANNELS=16", "MODEL.ROI_BOX_HEAD.FC_DIM=16", "MODEL.ROI_MASK_HEAD.CONV_DIM=16",
          "MODEL.RESNETS.NORM=FrozenBN", "MODEL.FPN.NORM=", f"MODEL.RPN.BATCH_SIZE_PER_IMAGE={ALL}",
          f"MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE={ALL}", "MODEL.RPN.POST_NMS_TOPK_TRAIN=60")


class PerImage(nn.Module):
    """Two losses, each a mean over images."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2, dtype=torch.float64)

    def forward(self, batch: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        out = self.layer(torch.stack(batch))
        return {"loss_a": out[:, 0].square().mean(), "loss_b": out[:, 1].exp().mean()}


def images(number: int) -> list[torch.Tensor]:
    return list(torch.randn(number, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64))


def stepped(kind: type, model: nn.Module, batches: list, *words: object) -> tuple[nn.Module, list[dict]]:
    """A copy of `model` after one step of SGD with momentum for each batch, and the losses of each step."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    trainer = kind(model, *(([],) if kind is SimpleTrainer else ()), optimizer, *words)
    trainer.data_loader, losses = batches, []
    with EventStorage() as trainer.storage:
        for _ in batches:
            trainer.run_step()
            losses.append({name: value for name, (value, _) in trainer.storage.latest().items() if "loss" in name})
    return model, losses


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_parts__in_order() -> None:
    assert parts([1, 2, 3, 4], 2) == [[1, 2], [3, 4]] and parts([1, 2], 5) == [[1, 2]]


def test_step__of_the_whole_batch_is_detectron2s_own() -> None:
    torch.manual_seed(0)
    model, batches = PerImage(), [images(8), images(8)[::-1]]
    expected, losses = stepped(SimpleTrainer, model, batches)
    found, same = stepped(AccumulatingTrainer, model, batches, 8)
    assert equal(found, expected) and losses == same and not equal(found, model)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_step__of_pieces_is_the_step_of_the_batch_when_losses_are_means_over_images(size: int) -> None:
    torch.manual_seed(0)
    model, batches = PerImage(), [images(8), images(8)[::-1]]
    expected, losses = stepped(SimpleTrainer, model, batches)
    found, same = stepped(AccumulatingTrainer, model, batches, size)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, rtol=1e-13, atol=1e-13)
    for one, other in zip(losses, same, strict=True):
        assert one == pytest.approx(other, rel=1e-13)


def detector() -> tuple[nn.Module, list[dict]]:
    """A small Mask R-CNN in training mode, and four images of one size with one to four objects."""
    cfg = resolve(Dataset("coco", SPLIT, SPLIT, ("disc", "star"), ("boxes", "masks")), "2fc", "full", CONFIG,
                  architecture="resnet18")
    torch.manual_seed(1)
    model = build_model(cfg).train()
    for norm in model.modules():  # frozen statistics of a random network let the maps grow
        if type(norm).__name__ == "FrozenBatchNorm2d":
            norm.running_var.fill_(4.0)
    rows = []
    for number in range(1, 5):
        boxes = torch.tensor([[5.0 + 11 * k, 4.0 + 9 * number, 30.0 + 11 * k, 28.0 + 9 * number]
                              for k in range(number)])
        masks = torch.zeros(number, 96, 96, dtype=torch.bool)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
            mask[top:bottom, left:right] = True
        target = Instances((96, 96), gt_boxes=Boxes(boxes), gt_classes=torch.arange(number) % 2,
                           gt_masks=BitMasks(masks))
        rows.append({"image": 255 * torch.rand(3, 96, 96), "instances": target, "height": 96, "width": 96})
    return model, rows


def losses_and_counts(model: nn.Module, batch: list[dict]) -> tuple[dict[str, float], float, float]:
    """Losses of a batch, its sampled regions, and the foreground ones among them."""
    torch.manual_seed(7)
    with EventStorage() as storage:
        losses = {name: float(value.detach()) for name, value in model(batch).items()}
        latest = {name: value for name, (value, _) in storage.latest().items()}
    foreground = len(batch) * latest["roi_head/num_fg_samples"]
    return losses, foreground + len(batch) * latest["roi_head/num_bg_samples"], foreground


def test_losses__which_are_exact_and_what_weighs_the_others() -> None:
    model, batch = detector()
    whole, regions, foreground = losses_and_counts(model, batch)
    pieces = [losses_and_counts(model, piece) for piece in parts(batch, 1)]
    assert len({counts[1] for counts in pieces}) > 1 and len({counts[2] for counts in pieces}) > 1

    def mean(name: str, weights: list[float]) -> float:
        return sum(weight * losses[name] for weight, (losses, *_) in zip(weights, pieces, strict=True))

    alike = [1 / len(pieces)] * len(pieces)
    for name in ("loss_rpn_cls", "loss_rpn_loc"):  # per image: what accumulation does is exact
        assert mean(name, alike) == pytest.approx(whole[name], rel=1e-5)
    for name in ("loss_cls", "loss_box_reg"):  # per sampled region: exact where images yield equally many
        assert mean(name, [count / regions for _, count, _ in pieces]) == pytest.approx(whole[name], rel=1e-5)
    by_foreground = [count / foreground for *_, count in pieces]
    assert mean("loss_mask", by_foreground) == pytest.approx(whole["loss_mask"], rel=1e-5)
    assert abs(mean("loss_mask", alike) / whole["loss_mask"] - 1) > 1e-5  # not exact


def test_step__of_a_detector_averages_the_gradients_of_its_pieces() -> None:
    model, batch = detector()
    by_hand = copy.deepcopy(model)
    torch.manual_seed(5)
    with EventStorage():
        for piece in parts(batch, 2):
            (sum(by_hand(piece).values()) / 2).backward()
    before = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    trainer = AccumulatingTrainer(model, optimizer, 2)
    trainer.data_loader = [batch]
    torch.manual_seed(5)
    with EventStorage() as trainer.storage:
        trainer.run_step()
    gradients = dict(by_hand.named_parameters())
    assert any(parameter.grad.abs().max() > 0 for parameter in by_hand.parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, gradients[name].grad), name
        torch.testing.assert_close(parameter, before.get_parameter(name) - 1e-3 * parameter.grad)


@pytest.mark.slow
def test_step__in_bfloat16_has_nearly_the_gradients_of_float32_and_keeps_weights_in_float32() -> None:
    model, batch = detector()
    seen = []
    gradients = {}
    for precision in (torch.float32, torch.bfloat16):
        own = copy.deepcopy(model)
        own.backbone.bottom_up.res2[0].conv1.register_forward_hook(lambda *found: seen.append(found[2].dtype))
        trainer = AccumulatingTrainer(own, torch.optim.SGD(own.parameters(), lr=1e-3), len(batch), precision)
        trainer.data_loader = [batch]
        torch.manual_seed(5)
        with EventStorage() as trainer.storage:
            trainer.run_step()
        assert all(parameter.dtype == torch.float32 for parameter in own.parameters())
        gradients[precision] = own.proposal_generator.rpn_head.objectness_logits.weight.grad
    assert seen == [torch.float32, torch.bfloat16]
    exact, rounded = gradients[torch.float32], gradients[torch.bfloat16]
    assert not torch.equal(exact, rounded)
    assert (exact - rounded).norm() < 0.1 * exact.norm()


def _of_one_process(path: Path) -> None:
    torch.manual_seed(0)
    model = DistributedDataParallel(PerImage())
    trainer = AccumulatingTrainer(model, torch.optim.SGD(model.parameters(), lr=0.1), 2)
    trainer.data_loader = [images(8)[comm.get_rank()::2]]
    with EventStorage() as trainer.storage:
        trainer.run_step()
    torch.save({name: parameter.grad for name, parameter in model.module.named_parameters()},
               path / f"{comm.get_rank()}.pth")


@pytest.mark.slow
def test_step__of_two_processes_has_the_gradient_of_the_batch(tmp_path: Path) -> None:
    start(_of_one_process, 2, tmp_path, device="cpu")
    torch.manual_seed(0)
    model = PerImage()
    sum(model(images(8)).values()).backward()
    for rank in range(2):
        for name, gradient in torch.load(tmp_path / f"{rank}.pth").items():
            torch.testing.assert_close(gradient, model.get_parameter(name).grad, rtol=1e-13, atol=1e-13)
