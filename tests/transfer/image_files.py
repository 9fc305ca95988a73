"""What a checkpoint of each method for whole images, and of each library, holds: its container, its names, its shapes.

Written from what their own code writes (repositories in transfer/reading/families.py).
"""

import argparse
from collections import OrderedDict
from typing import Any

import torch

from tests.transfer.other_names import indexed
from tests.transfer.state_parts import OPTIMIZER, State, batch_norm, flat, layer, mlp, prefixed, two, with_counters


def mmselfsup_byol(student: State, teacher: State) -> dict[str, Any]:
    state = prefixed("backbone.", with_counters(student)) | mlp("neck.mlp", 2048, 4096, 256)
    state |= prefixed("target_net.module.0.", with_counters(teacher)) | mlp("target_net.module.1.mlp", 2048, 4096, 256)
    state |= {"target_net.steps": torch.tensor(4)} | mlp("head.predictor.mlp", 256, 4096, 256)
    return {"meta": {"epoch": 300}, "state_dict": OrderedDict(state)}


def _moco_heads(mlp_head: bool) -> State:
    state: State = {}
    for side in "qk":
        name = f"module.encoder_{side}.fc"
        state |= (layer(f"{name}.0", 2048, 2048) | layer(f"{name}.2", 128, 2048) if mlp_head else
                  layer(name, 128, 2048))
    return state | {"module.queue": flat(128, 65536), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}


def moco(student: State, teacher: State, v2: bool = True) -> dict[str, Any]:
    return {"epoch": 200, "arch": "resnet50", "optimizer": OPTIMIZER,
            "state_dict": two(student, teacher, "module.encoder_q.", "module.encoder_k.") | _moco_heads(v2)}


def redundancy(student: State, *heads: State, epoch: int) -> dict[str, Any]:
    """The container of VICRegL, VICReg and Barlow Twins."""
    model = prefixed("module.backbone.", with_counters(student))
    for head in heads:
        model |= prefixed("module.", head)
    return {"epoch": epoch, "model": model, "optimizer": OPTIMIZER}


def simsiam(student: State, _teacher: State) -> dict[str, Any]:
    state = prefixed("module.encoder.", with_counters(student)) | mlp("module.encoder.fc", 2048, 2048, 2048, 2048)
    state |= batch_norm("module.encoder.fc.7", 2048, affine=False) | mlp("module.predictor", 2048, 512, 2048)
    return {"epoch": 100, "arch": "resnet50", "state_dict": state, "optimizer": OPTIMIZER}


def swav(student: State, _teacher: State) -> dict[str, Any]:
    return (prefixed("module.", with_counters(student)) | mlp("module.projection_head", 2048, 2048, 128)
            | layer("module.prototypes", 3000, 128, bias=False))


def dino(student: State, teacher: State) -> dict[str, Any]:
    def branch(state: State) -> State:
        head = mlp("module.head.mlp", 2048, 2048, 256) | {"module.head.last_layer.weight_v": flat(60000, 256)}
        return prefixed("module.backbone.", with_counters(state)) | head
    return {"student": branch(student), "teacher": branch(teacher), "optimizer": OPTIMIZER, "epoch": 800,
            "args": argparse.Namespace(arch="resnet50"), "dino_loss": {"center": flat(1, 60000)}}


def byol(student: State, teacher: State) -> dict[str, Any]:
    model: State = {}
    for side, state in (("online", student), ("target", teacher)):
        model |= prefixed(f"module.{side}_network.encoder.", indexed(with_counters(state)))
        model |= layer(f"module.{side}_network.projetion.l1", 4096, 2048)
    return {"epoch": 300, "steps": 9, "model": model, "optimizer": OPTIMIZER}


def scrl(student: State, teacher: State) -> dict[str, Any]:
    """kakaobrain/scrl, trainer/base.py; sthalles/PyTorch-BYOL has the same without tag and scores."""
    return {"tag": "last", "epoch": 200, "max_eval_score": 0.0, "max_eval_epoch": 1,
            "online_network_state_dict": prefixed("encoder.", indexed(with_counters(student)))
            | mlp("projector.net", 2048, 4096, 256),
            "target_network_state_dict": prefixed("encoder.", indexed(with_counters(teacher))),
            "predictor_state_dict": mlp("net", 256, 4096, 256), "optimizer_state_dict": OPTIMIZER}


def spark(student: State, _teacher: State) -> dict[str, Any]:
    """keyu-tian/SparK, pretrain/utils/misc.py: the whole model with its decoder, and its config beside the tensors."""
    module = prefixed("sparse_encoder.sp_cnn.", with_counters(student)) | layer("dense_decoder.proj", 3, 32, 1, 1)
    for i, width in enumerate((2048, 1024, 512, 256)):
        module |= {f"mask_tokens.{i}": flat(1, width, 1, 1)} | batch_norm(f"densify_norms.{i}", width)
        module |= layer(f"densify_projs.{i}", 512 >> i, width, 3, 3)
    module |= {"imn_m": flat(1, 3, 1, 1), "norm_black": flat(1, 3, 224, 224)}
    module["config"] = {"mask_ratio": 0.6, "sbn": True}
    return {"args": "Args(...)", "input_size": 224, "arch": "resnet50", "epoch": 1599, "performance_desc": "",
            "module": OrderedDict(module), "optimizer": OPTIMIZER, "is_pretrain": True}


def pycontrast(student: State, teacher: State) -> dict[str, Any]:
    """HobbitLong/PyContrast with MoCo's memory: the momentum copy is a model of its own."""
    def model(state: State) -> State:
        return prefixed("module.", prefixed("encoder.", with_counters(state)) | layer("head.0", 2048, 2048)
                        | layer("head.2", 128, 2048))
    return {"opt": argparse.Namespace(arch="resnet50"), "model": model(student), "optimizer": OPTIMIZER, "epoch": 200,
            "contrast": {"memory": flat(65536, 128)}, "model_ema": model(teacher)}


def simclr(student: State, _teacher: State) -> dict[str, Any]:
    """sthalles/SimCLR, simclr.py: the projector stands where the classifier was."""
    return {"epoch": 100, "arch": "resnet50", "optimizer": OPTIMIZER,
            "state_dict": prefixed("backbone.", with_counters(student)) | layer("backbone.fc.0", 2048, 2048)
            | layer("backbone.fc.2", 128, 2048)}


def moco_v3(student: State, teacher: State) -> dict[str, Any]:
    """facebookresearch/moco-v3, moco/builder.py: the projector stands where the classifier was."""
    state = two(student, teacher, "module.base_encoder.", "module.momentum_encoder.")
    for name, width in (("base_encoder.fc", 2048), ("momentum_encoder.fc", 2048), ("predictor", 256)):
        state |= mlp(f"module.{name}", width, 4096, 256, last_bias=False)
    return {"epoch": 300, "arch": "resnet50", "state_dict": state, "optimizer": OPTIMIZER, "scaler": {}}


def byol_published(student: State, teacher: State) -> dict[str, Any]:
    return {"online_backbone": prefixed("module.", with_counters(student)),
            "target_backbone": prefixed("module.", with_counters(teacher)),
            "online_projection": prefixed("module.", mlp("net", 2048, 4096, 256)), "epoch": 300}


def _lightning(state: State) -> dict[str, Any]:
    return {"epoch": 99, "global_step": 5, "pytorch-lightning_version": "1.6.4", "state_dict": OrderedDict(state),
            "callbacks": {}, "optimizer_states": [OPTIMIZER], "lr_schedulers": [], "hyper_parameters": {"lr": 0.1}}


def lightly_byol(student: State, teacher: State) -> dict[str, Any]:
    return _lightning(two(student, teacher, "backbone.", "teacher_backbone.")
                      | mlp("projection_head.layers", 2048, 4096, 256)
                      | layer("online_classifier.classification_head", 1000, 2048))


def lightly_dino(student: State, teacher: State) -> dict[str, Any]:
    return _lightning(two(student, teacher, "student_backbone.", "backbone.")
                      | mlp("projection_head.layers", 2048, 2048, 256))


def lightly_moco(student: State, teacher: State, teachers_name: str = "key_backbone") -> dict[str, Any]:
    """The momentum copy was renamed: key_backbone, then query_backbone."""
    return _lightning(two(student, teacher, "backbone.", f"{teachers_name}.")
                      | mlp("projection_head.layers", 2048, 2048, 128)
                      | mlp(f"{teachers_name.removesuffix('backbone')}projection_head.layers", 2048, 2048, 128))


def lightly_densecl(student: State, teacher: State) -> dict[str, Any]:
    """examples/pytorch/densecl.py: the state dict alone, two heads on each side."""
    state = prefixed("backbone.", indexed(with_counters(student)))
    state |= prefixed("backbone_momentum.", indexed(with_counters(teacher)))
    for head in ("global", "local", "global_momentum", "local_momentum"):
        state |= mlp(f"projection_head_{head}.layers", 2048, 2048, 128)
    return state


def somebodys(*parts: tuple[str, State], place: str = "model") -> dict[str, Any]:
    """A method that is nobody's here: networks and heads under the commonest names."""
    state: State = {}
    for prefix, content in parts:
        state |= prefixed(prefix, content)
    return {"epoch": 10, place: state, "optimizer": OPTIMIZER}


def lightly_example(student: State, teacher: State) -> dict[str, Any]:
    """The examples keep torchvision's children in an nn.Sequential and save the state dict alone."""
    return (prefixed("backbone.", indexed(with_counters(student))) | mlp("projection_head.layers", 2048, 4096, 256)
            | prefixed("backbone_momentum.", indexed(with_counters(teacher))))


def solo_learn(student: State, teacher: State, old: bool = False) -> dict[str, Any]:
    network = "encoder" if old else "backbone"
    return _lightning(two(student, teacher, f"{network}.", f"momentum_{network}.") | layer("classifier", 1000, 2048)
                      | mlp("projector", 2048, 4096, 256) | mlp("momentum_projector", 2048, 4096, 256))
