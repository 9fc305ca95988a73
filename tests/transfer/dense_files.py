"""What a checkpoint of each method for dense prediction holds: its container, its names, its shapes.

Written from what the methods' own code writes (repositories in transfer/reading/families.py).
"""

import argparse
from collections import OrderedDict
from typing import Any

import torch

from tests.transfer.image_files import moco
from tests.transfer.other_names import detectron2_arrays
from tests.transfer.state_parts import (
    OPTIMIZER,
    State,
    batch_norm,
    flat,
    layer,
    linear_mlp,
    mlp,
    prefixed,
    two,
    with_counters,
)


def clove(student: State, teacher: State, epoch: int = 200) -> dict[str, Any]:
    """sthalles/CLoVE: two affine-free last batch norms, attention; works for every ResNet."""
    width = student["layer4.0.bn2.weight"].numel() * (4 if "layer4.0.conv3.weight" in student else 1)
    model = two(student, teacher, "module.encoder.", "module.encoder_k.")
    for projector in ("module.projector", "module.projector_k"):
        model |= layer(f"{projector}.linear1", 4096, width, 1, 1, bias=False) | batch_norm(f"{projector}.bn1", 4096)
        model |= layer(f"{projector}.linear2", 256, 4096, 1, 1, bias=False)
        model |= batch_norm(f"{projector}.bn2", 256, affine=False)
    model |= {"module.self_attn.in_proj_weight": flat(768, 256), "module.self_attn.in_proj_bias": flat(768)}
    model |= layer("module.self_attn.out_proj", 256, 256)
    return {"opt": argparse.Namespace(arch="resnet50", lr=8.0, pos_ratio=0.7, crop=0.2, amp=True), "model": model,
            "optimizer": OPTIMIZER, "scaler": {"scale": 65536.0, "growth_factor": 2.0}, "epoch": epoch}


def pixpro(student: State, teacher: State) -> dict[str, Any]:
    model = two(student, teacher, "module.encoder.", "module.encoder_k.")
    for projector in ("module.projector", "module.projector_k"):
        model |= layer(f"{projector}.linear1", 4096, 2048, 1, 1) | batch_norm(f"{projector}.bn1", 4096)
        model |= layer(f"{projector}.linear2", 256, 4096, 1, 1)
    model |= layer("module.value_transform", 256, 256, 1, 1)
    return {"opt": argparse.Namespace(arch="resnet50", pixpro_p=2.0), "model": model, "optimizer": OPTIMIZER,
            "scheduler": {"last_epoch": 7}, "epoch": 100, "amp": {"loss_scaler0": {"loss_scale": 65536.0}}}


def pixpro_published(student: State, teacher: State) -> dict[str, Any]:
    return {"model": pixpro(student, teacher)["model"]}


def pixpro_without_transform(student: State, teacher: State) -> dict[str, Any]:
    """--pixpro-transform-layer 0, the default of its code: value_transform is an nn.Identity."""
    content = pixpro(student, teacher)
    content["model"] = {name: value for name, value in content["model"].items() if "value_transform" not in name}
    return content


def soco(student: State, teacher: State) -> dict[str, Any]:
    """hologerry/SoCo, contrast/models/SoCo_FPN.py: an FPN with batch norm and a box head on each side."""
    model = two(student, teacher, "module.encoder.", "module.encoder_k.")
    for side in ("", "_k"):
        for i, width in enumerate((256, 512, 1024, 2048)):
            for kind, shape in (("lateral_convs", (256, width, 1, 1)), ("fpn_convs", (256, 256, 3, 3))):
                name = f"module.neck{side}.{kind}.{i}"
                model |= layer(f"{name}.conv", *shape, bias=False) | batch_norm(f"{name}.bn", 256)
        model |= layer(f"module.head{side}.conv1", 256, 256, 3, 3, bias=False)
        model |= batch_norm(f"module.head{side}.bn1", 256)
        model |= linear_mlp(f"module.projector{side}", 1024)
    model |= linear_mlp("module.predictor", 256)
    return {"opt": argparse.Namespace(arch="resnet50"), "model": model, "optimizer": OPTIMIZER,
            "scheduler": {"last_epoch": 7}, "epoch": 100}


def soco_c4(student: State, teacher: State) -> dict[str, Any]:
    """contrast/models/SoCo_C4.py: no FPN, and a queue that is never used."""
    model = two(student, teacher, "module.encoder.", "module.encoder_k.")
    for name, width in (("projector", 2048), ("projector_k", 2048), ("predictor", 256)):
        model |= linear_mlp(f"module.{name}", width)
    model |= {"module.queue": flat(128, 65536), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    return {"opt": argparse.Namespace(arch="resnet50"), "model": model, "optimizer": OPTIMIZER, "epoch": 400}


def slotcon(student: State, teacher: State) -> dict[str, Any]:
    model = two(student, teacher, "module.encoder_q.", "module.encoder_k.")
    for side in "qk":
        for i, shape in (("0", (4096, 2048, 1, 1)), ("3", (4096, 4096, 1, 1)), ("6", (256, 4096, 1, 1))):
            model |= layer(f"module.projector_{side}.mlp.{i}", *shape)
        model |= batch_norm(f"module.projector_{side}.mlp.1", 4096) | batch_norm(f"module.projector_{side}.mlp.4", 4096)
        model[f"module.grouping_{side}.slot_embed.weight"] = flat(2048, 256)
    model |= mlp("module.predictor_slot.mlp", 256, 4096, 4096, 256) | {"module.center": flat(1, 2048)}
    return {"args": argparse.Namespace(arch="resnet50"), "model": model, "optimizer": OPTIMIZER,
            "scheduler": {"last_epoch": 7}, "epoch": 200, "scaler": {"scale": 65536.0}}


def densecl_raw(student: State, teacher: State) -> dict[str, Any]:
    """OpenSelfSup registers the student twice: backbone is encoder_q[0]."""
    state = two(student, teacher, "encoder_q.0.", "encoder_k.0.") | prefixed("backbone.", with_counters(student))
    for side in "qk":
        for head, kernel in (("mlp", ()), ("mlp2", (1, 1))):
            state |= layer(f"encoder_{side}.1.{head}.0", 2048, 2048, *kernel)
            state |= layer(f"encoder_{side}.1.{head}.2", 128, 2048, *kernel)
    for queue in ("queue", "queue2"):
        state |= {queue: flat(128, 65536), f"{queue}_ptr": torch.zeros(1, dtype=torch.long)}
    return {"meta": {"epoch": 200, "iter": 1000, "mmcv_version": "0.3.1", "config": "model = dict(...)"},
            "state_dict": OrderedDict(state), "optimizer": OPTIMIZER}


def fpn(norm: bool = False, start: int = 5000) -> State:
    """ReSim's FPN by its own names: with --fpn-bn each layer is a convolution without bias and a batch norm."""
    state: State = {}
    shapes = {f"fpn_lateral{level}": (256, width, 1, 1) for level, width in ((5, 2048), (4, 1024), (3, 512))}
    shapes |= {f"fpn_output{level}": (256, 256, 3, 3) for level in (4, 3)}
    for i, (name, shape) in enumerate(shapes.items()):
        value = (start + 2 * i) / 1024
        if norm:
            state |= {f"{name}.0.weight": flat(*shape, value=value)} | batch_norm(f"{name}.1", 256)
        else:
            state |= {f"{name}.weight": flat(*shape, value=value), f"{name}.bias": flat(256, value=value + 1 / 1024)}
    return state


def resim(student: State, teacher: State, norm: bool = False) -> dict[str, Any]:
    content = moco(student, teacher)
    content["state_dict"] |= prefixed("module.encoder_q.", fpn(norm)) | prefixed("module.encoder_k.", fpn(norm, 6000))
    return content


def resim_converted(student: State, _teacher: State) -> dict[str, Any]:
    model = detectron2_arrays(student) | {f"backbone.{name}": value.numpy() for name, value in fpn().items()}
    return {"model": model, "__author__": "MOCO", "matching_heuristics": True}


def setsim(student: State, teacher: State) -> dict[str, Any]:
    state = two(student, teacher, "module.encoder_q.0.", "module.encoder_k.0.")
    for side in "qk":
        name = f"module.encoder_{side}"
        state |= layer(f"{name}.0.fc.0", 2048, 2048) | layer(f"{name}.0.fc.2", 128, 2048)
        state |= layer(f"{name}.1.0", 2048, 2048, 1, 1) | layer(f"{name}.1.2", 128, 2048, 1, 1)
    return {"epoch": 200, "arch": "resnet50", "state_dict": state, "optimizer": OPTIMIZER}


def lewel(student: State, teacher: State, objects: bool = True) -> dict[str, Any]:
    """LayneH/LEWEL, models/lewel.py; without its object branch it is the BYOL of EMAN, whose code it was made from."""
    state: State = {}
    for side, network in (("online", student), ("target", teacher)):
        state |= prefixed(f"module.{side}_net.backbone.", with_counters(network))
        for neck in ("proj", "proj_obj")[:1 + objects]:
            state |= layer(f"module.{side}_net.neck.{neck}.mlp.0", 4096, 2048, 1, bias=False)
    for head in ("predictor", "predictor_obj")[:1 + objects]:
        state |= layer(f"module.{head}.mlp.0", 4096, 256, 1, bias=False)
    return {"epoch": 400, "arch": "LEWELB", "state_dict": state, "best_acc1": 70.0, "optimizer": OPTIMIZER,
            "scaler": None}


def own_checkpoint(student: State, teacher: State, follower: str = "follower") -> dict[str, Any]:
    """pretrain/trainer.py; `follower` was called teacher in earlier versions."""
    projector = layer("projector.0", 4096, 2048, 1, 1, bias=False)
    return {"student": prefixed("encoder.", with_counters(student)) | projector
            | {"attention.in_proj_weight": flat(768, 256)},
            follower: prefixed("encoder.", with_counters(teacher)) | projector,
            "optimizer": OPTIMIZER, "scaler": {}, "rng": torch.get_rng_state()}
