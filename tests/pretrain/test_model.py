"""Student, teacher, and the moving average between them."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.config import Config
from pretrain.model import Student, Teacher, normalise


@pytest.fixture
def config(tiny: Callable[..., Config]) -> Config:
    return tiny()


@pytest.fixture
def networks(config: Config) -> tuple[Student, Teacher]:
    torch.manual_seed(0)
    student = Student(config.train, config.objective)
    return student, Teacher(student).train()


def views(count: int, side: int, images: int = 3) -> Tensor:
    return torch.randn(count, images, 3, side, side, generator=torch.Generator().manual_seed(side))


def test_student__shapes_and_unit_length(networks: tuple, config: Config) -> None:
    maps = networks[0]([views(2, 48), views(1, 32)])
    assert [tuple(group.shape) for group in maps] == [(2, 3, config.objective.projector_dim, 3, 3),
                                                      (1, 3, config.objective.projector_dim, 2, 2)]
    for group in maps:
        torch.testing.assert_close(group.norm(dim=2), torch.ones_like(group[:, :, 0]))


def test_student__is_encoder_projector_attention_in_view_major_order(networks: tuple) -> None:
    student, group = networks[0].eval(), views(2, 48)
    maps = student([group])[0]
    for view in range(2):
        for image in range(3):
            alone = student.attention(student.projector(student.encoder(group[view, image][None])))
            torch.testing.assert_close(maps[view, image], alone[0], rtol=1e-4, atol=1e-5)


def test_student__batch_norm_sees_all_views_of_one_size_together(networks: tuple) -> None:
    """In training the maps of a view depend on the other views of its size, not on those of another size."""
    student, group, other = networks[0].train(), views(2, 48), views(1, 32)
    both = student([group, other])
    torch.testing.assert_close(student([group])[0], both[0])
    torch.testing.assert_close(student([group, other + 1.0])[0], both[0])
    changed = group.clone()
    changed[1] += torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(5))
    assert (student([changed])[0][0] - both[0][0]).abs().max() > 1e-3


def test_teacher__starts_as_the_student_without_attention(networks: tuple) -> None:
    student, teacher = networks
    group = views(2, 48)
    expected = F.normalize(student.projector(student.encoder(group.flatten(0, 1))), dim=1).unflatten(0, (2, 3))
    maps = teacher(group)
    torch.testing.assert_close(maps, expected)
    assert not maps.requires_grad and not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not any(name.startswith("attention") for name in teacher.state_dict())


def test_teacher__shares_no_memory_with_the_student(networks: tuple) -> None:
    student, teacher = networks
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    kernels = [parameter for parameter in teacher.parameters() if parameter.dim() == 4]
    assert len(kernels) == 22 and all(parameter.abs().max() > 0 for parameter in kernels)


def test_follow__moves_every_parameter_by_its_share(networks: tuple) -> None:
    student, teacher = networks
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    before = {name: value.clone() for name, value in teacher.named_parameters()}
    teacher.follow(student, 0.9)
    of_student = dict(student.named_parameters())
    assert len(before) > 60
    for name, value in teacher.named_parameters():
        torch.testing.assert_close(value, 0.9 * before[name] + 0.1 * of_student[name], rtol=1e-5, atol=1e-6)


def test_follow__leaves_running_statistics_alone(networks: tuple) -> None:
    """The teacher's batch norm keeps its own statistics, from its own batches."""
    student, teacher = networks
    student([views(2, 48)])
    before = {name: value.clone() for name, value in teacher.named_buffers()}
    teacher.follow(student, 0.5)
    assert all(torch.equal(value, before[name]) for name, value in teacher.named_buffers())
    teacher(views(2, 48))
    assert not torch.equal(teacher.encoder.bn1.running_mean, before["encoder.bn1.running_mean"])


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_follow__momentum_zero_copies_and_one_stays(networks: tuple, momentum: float) -> None:
    student, teacher = networks
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    before = [value.clone() for value in teacher.parameters()]
    teacher.follow(student, momentum)
    followed = [*student.encoder.parameters(), *student.projector.parameters()]
    for value, old, new in zip(teacher.parameters(), before, followed, strict=True):
        torch.testing.assert_close(value, old if momentum else new)


@pytest.mark.parametrize("kind", ["plain", "normalized", "none"])
def test_student__attention_kind_is_the_configured_one(config: Config, kind: str) -> None:
    student = Student(config.train, replace(config.objective, attention=kind, attention_temperature=0.3))
    assert student.attention.kind == kind and student.attention.temperature == 0.3
    assert bool(list(student.attention.parameters())) == (kind != "none")


def test_normalise__imagenet_mean_and_deviation() -> None:
    pixels = torch.tensor([0, 128, 255], dtype=torch.uint8).view(3, 1, 1)
    expected = [(0 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    torch.testing.assert_close(normalise(pixels).flatten(), torch.tensor(expected))
    assert normalise(pixels.expand(2, 5, 3, 4, 4)).shape == (2, 5, 3, 4, 4)


def test_student__gradient_reaches_every_parameter(config: Config) -> None:
    """Zero-initialised residual branches block the way at the start; any other value lets it through."""
    torch.manual_seed(0)
    student = Student(config.train, config.objective)
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            nn.init.constant_(module.weight, 0.7)
    maps = student([views(2, 48), views(1, 32)])
    rng = torch.Generator().manual_seed(2)
    sum((group * torch.randn(group.shape, generator=rng)).sum() for group in maps).backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in student.parameters())
