"""What a checkpoint of every published layout holds: its container, its names, its shapes.

Written from what the methods' own code writes (repositories in transfer/families.py). Tensors are one number stretched
to their shape, so that files stay small, and every tensor has a number of its own, so that none can take another's
place unseen. Where files must hold dense arrays (numpy), they are as large as the real ones.
"""

import argparse
from collections import OrderedDict
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from transfer.architecture import expected_shapes

State = dict[str, torch.Tensor]


def flat(*shape: int, value: float = 0.0) -> torch.Tensor:
    """A tensor of one stored number."""
    return torch.tensor([value]).expand(shape) if shape else torch.tensor(value)


@lru_cache
def resnet(architecture: str = "resnet50", start: int = 1) -> State:
    """A ResNet whose every tensor is a number of its own, from `start` / 1024 on; torchvision's names."""
    return {name: flat(*shape, value=(start + i) / 1024)
            for i, (name, shape) in enumerate(expected_shapes(architecture).items())}


def prefixed(prefix: str, state: Mapping[str, Any]) -> dict[str, Any]:
    return {prefix + name: value for name, value in state.items()}


def with_counters(state: State) -> State:
    """Batch norm's counters after each variance, as in a state dict."""
    whole = {}
    for name, value in state.items():
        whole[name] = value
        if name.endswith("running_var"):
            whole[name.replace("running_var", "num_batches_tracked")] = torch.tensor(1000)
    return whole


def batch_norm(name: str, size: int, affine: bool = True) -> State:
    kinds = ("weight", "bias", "running_mean", "running_var") if affine else ("running_mean", "running_var")
    return {f"{name}.{kind}": flat(size, value=1) for kind in kinds} | {f"{name}.num_batches_tracked": torch.tensor(9)}


def layer(name: str, *shape: int, bias: bool = True) -> State:
    return {f"{name}.weight": flat(*shape)} | ({f"{name}.bias": flat(shape[0])} if bias else {})


def mlp(name: str, *sizes: int, last_bias: bool = True) -> State:
    """Linear, batch norm, ReLU, ... as nn.Sequential."""
    state: State = {}
    for i, (before, after) in enumerate(pairwise(sizes)):
        last = i == len(sizes) - 2
        state |= layer(f"{name}.{3 * i}", after, before, bias=last_bias or not last)
        state |= {} if last else batch_norm(f"{name}.{3 * i + 1}", after)
    return state


def indexed(state: State) -> State:
    """Names that nn.Sequential(*resnet.children()) gives."""
    index = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
    return {f"{index[name.split('.')[0]]}.{name.split('.', 1)[1]}": value for name, value in state.items()}


OPTIMIZER = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}


def _two(state_a: State, state_b: State, first: str, second: str) -> State:
    return prefixed(first, with_counters(state_a)) | prefixed(second, with_counters(state_b))


def clove(student: State, teacher: State, epoch: int = 200) -> dict[str, Any]:
    """sthalles/CLoVE: two affine-free last batch norms, attention; works for every ResNet."""
    width = student["layer4.0.bn2.weight"].numel() * (4 if "layer4.0.conv3.weight" in student else 1)
    model = _two(student, teacher, "module.encoder.", "module.encoder_k.")
    for projector in ("module.projector", "module.projector_k"):
        model |= layer(f"{projector}.linear1", 4096, width, 1, 1, bias=False) | batch_norm(f"{projector}.bn1", 4096)
        model |= layer(f"{projector}.linear2", 256, 4096, 1, 1, bias=False)
        model |= batch_norm(f"{projector}.bn2", 256, affine=False)
    model |= {"module.self_attn.in_proj_weight": flat(768, 256), "module.self_attn.in_proj_bias": flat(768)}
    model |= layer("module.self_attn.out_proj", 256, 256)
    return {"opt": argparse.Namespace(arch="resnet50", lr=8.0, pos_ratio=0.7, crop=0.2, amp=True), "model": model,
            "optimizer": OPTIMIZER, "scaler": {"scale": 65536.0, "growth_factor": 2.0}, "epoch": epoch}


def pixpro(student: State, teacher: State) -> dict[str, Any]:
    model = _two(student, teacher, "module.encoder.", "module.encoder_k.")
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
    model = _two(student, teacher, "module.encoder.", "module.encoder_k.")
    for side in ("", "_k"):
        for i, width in enumerate((256, 512, 1024, 2048)):
            for kind, shape in (("lateral_convs", (256, width, 1, 1)), ("fpn_convs", (256, 256, 3, 3))):
                name = f"module.neck{side}.{kind}.{i}"
                model |= layer(f"{name}.conv", *shape, bias=False) | batch_norm(f"{name}.bn", 256)
        model |= layer(f"module.head{side}.conv1", 256, 256, 3, 3, bias=False)
        model |= batch_norm(f"module.head{side}.bn1", 256)
        model |= _linear_mlp(f"module.projector{side}", 1024)
    model |= _linear_mlp("module.predictor", 256)
    return {"opt": argparse.Namespace(arch="resnet50"), "model": model, "optimizer": OPTIMIZER,
            "scheduler": {"last_epoch": 7}, "epoch": 100}


def soco_c4(student: State, teacher: State) -> dict[str, Any]:
    """contrast/models/SoCo_C4.py: no FPN, and a queue that is never used."""
    model = _two(student, teacher, "module.encoder.", "module.encoder_k.")
    for name, width in (("projector", 2048), ("projector_k", 2048), ("predictor", 256)):
        model |= _linear_mlp(f"module.{name}", width)
    model |= {"module.queue": flat(128, 65536), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    return {"opt": argparse.Namespace(arch="resnet50"), "model": model, "optimizer": OPTIMIZER, "epoch": 400}


def _linear_mlp(name: str, width: int) -> State:
    return layer(f"{name}.linear1", 4096, width) | batch_norm(f"{name}.bn1", 4096) | layer(f"{name}.linear2", 256, 4096)


def slotcon(student: State, teacher: State) -> dict[str, Any]:
    model = _two(student, teacher, "module.encoder_q.", "module.encoder_k.")
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
    state = _two(student, teacher, "encoder_q.0.", "encoder_k.0.") | prefixed("backbone.", with_counters(student))
    for side in "qk":
        for head, kernel in (("mlp", ()), ("mlp2", (1, 1))):
            state |= layer(f"encoder_{side}.1.{head}.0", 2048, 2048, *kernel)
            state |= layer(f"encoder_{side}.1.{head}.2", 128, 2048, *kernel)
    for queue in ("queue", "queue2"):
        state |= {queue: flat(128, 65536), f"{queue}_ptr": torch.zeros(1, dtype=torch.long)}
    return {"meta": {"epoch": 200, "iter": 1000, "mmcv_version": "0.3.1", "config": "model = dict(...)"},
            "state_dict": OrderedDict(state), "optimizer": OPTIMIZER}


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
            "state_dict": _two(student, teacher, "module.encoder_q.", "module.encoder_k.") | _moco_heads(v2)}


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


def detectron2_name(name: str) -> str:
    """detectron2's name of one of torchvision's; by replacing words in the order of the methods' own converters."""
    if not name.startswith("layer"):
        name = f"stem.{name}"
    for number in (1, 2, 3, 4):
        name = name.replace(f"layer{number}", f"res{number + 1}")
    for number in (1, 2, 3):
        name = name.replace(f"bn{number}", f"conv{number}.norm")
    return name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


def detectron2_arrays(state: State) -> dict[str, np.ndarray]:
    """What the methods' converters make: detectron2's names, fc and counters renamed along."""
    arrays = {detectron2_name(name): value.numpy() for name, value in state.items()}
    counters = {name.replace("running_var", "num_batches_tracked"): np.array(9)
                for name in arrays if "running_var" in name}
    return arrays | counters | {"stem.fc.0.weight": np.zeros((8, 8), np.float32)}


def resim_converted(student: State, _teacher: State) -> dict[str, Any]:
    model = detectron2_arrays(student) | {f"backbone.{name}": value.numpy() for name, value in fpn().items()}
    return {"model": model, "__author__": "MOCO", "matching_heuristics": True}


def detectron2_pickle(student: State, author: str) -> dict[str, Any]:
    return {"model": detectron2_arrays(student), "__author__": author, "matching_heuristics": True}


def msra(student: State, _teacher: State) -> dict[str, Any]:
    """detectron2's MSRA/R-50.pkl: Caffe2's names, arrays, no container; the stem's convolution has a zero bias."""
    parts = {"conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c", "bn1": "branch2a_bn", "bn2": "branch2b_bn",
             "bn3": "branch2c_bn", "downsample.0": "branch1", "downsample.1": "branch1_bn"}
    kinds = {"weight": "gamma", "bias": "beta", "running_mean": "running_mean", "running_var": "running_var"}
    content: dict[str, Any] = {}
    for name, value in student.items():
        *place, kind = name.split(".")
        if place[0].startswith("layer"):
            stem = f"res{int(place[0][5]) + 1}_{place[1]}_{parts['.'.join(place[2:])]}"
        else:
            stem = {"conv1": "conv1", "bn1": "res_conv1_bn"}[place[0]]
        content[f"{stem}_{kinds[kind] if stem.endswith('_bn') else 'w'}"] = value.numpy()
    return content | {"conv1_b": np.zeros(64, np.float32), "fc1000_w": np.zeros((1000, 2048), np.float32),
                      "fc1000_b": np.zeros(1000, np.float32)}


def setsim(student: State, teacher: State) -> dict[str, Any]:
    state = _two(student, teacher, "module.encoder_q.0.", "module.encoder_k.0.")
    for side in "qk":
        name = f"module.encoder_{side}"
        state |= layer(f"{name}.0.fc.0", 2048, 2048) | layer(f"{name}.0.fc.2", 128, 2048)
        state |= layer(f"{name}.1.0", 2048, 2048, 1, 1) | layer(f"{name}.1.2", 128, 2048, 1, 1)
    return {"epoch": 200, "arch": "resnet50", "state_dict": state, "optimizer": OPTIMIZER}


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
    state = _two(student, teacher, "module.base_encoder.", "module.momentum_encoder.")
    for name in ("base_encoder.fc", "momentum_encoder.fc", "predictor"):
        state |= mlp(f"module.{name}", 2048, 4096, 256, last_bias=False)
    return {"epoch": 300, "arch": "resnet50", "state_dict": state, "optimizer": OPTIMIZER, "scaler": {}}


def hugging_face_name(name: str) -> str:
    """transformers' name of one of torchvision's, by its modules (models/resnet/modeling_resnet.py)."""
    *place, kind = name.split(".")
    part = "convolution" if place[-1].startswith("conv") or place[-2:] == ["downsample", "0"] else "normalization"
    if len(place) == 1:
        return f"embedder.embedder.{part}.{kind}"
    inside = "shortcut" if "downsample" in place else f"layer.{int(place[2][-1]) - 1}"
    return f"encoder.stages.{int(place[0][5]) - 1}.layers.{place[1]}.{inside}.{part}.{kind}"


def hugging_face(student: State, _teacher: State) -> State:
    """ResNetForImageClassification, as of microsoft/resnet-50."""
    return ({f"resnet.{hugging_face_name(name)}": value for name, value in with_counters(student).items()}
            | layer("classifier.1", 1000, 2048))


def byol_published(student: State, teacher: State) -> dict[str, Any]:
    return {"online_backbone": prefixed("module.", with_counters(student)),
            "target_backbone": prefixed("module.", with_counters(teacher)),
            "online_projection": prefixed("module.", mlp("net", 2048, 4096, 256)), "epoch": 300}


def _lightning(state: State) -> dict[str, Any]:
    return {"epoch": 99, "global_step": 5, "pytorch-lightning_version": "1.6.4", "state_dict": OrderedDict(state),
            "callbacks": {}, "optimizer_states": [OPTIMIZER], "lr_schedulers": [], "hyper_parameters": {"lr": 0.1}}


def lightly_byol(student: State, teacher: State) -> dict[str, Any]:
    return _lightning(_two(student, teacher, "backbone.", "teacher_backbone.")
                      | mlp("projection_head.layers", 2048, 4096, 256)
                      | layer("online_classifier.classification_head", 1000, 2048))


def lightly_dino(student: State, teacher: State) -> dict[str, Any]:
    return _lightning(_two(student, teacher, "student_backbone.", "backbone.")
                      | mlp("projection_head.layers", 2048, 2048, 256))


def lightly_moco(student: State, teacher: State, teachers_name: str = "key_backbone") -> dict[str, Any]:
    """The momentum copy was renamed: key_backbone, then query_backbone."""
    return _lightning(_two(student, teacher, "backbone.", f"{teachers_name}.")
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
    return _lightning(_two(student, teacher, f"{network}.", f"momentum_{network}.") | layer("classifier", 1000, 2048)
                      | mlp("projector", 2048, 4096, 256) | mlp("momentum_projector", 2048, 4096, 256))


def own_checkpoint(student: State, teacher: State, follower: str = "follower") -> dict[str, Any]:
    """pretrain/trainer.py; `follower` was called teacher in earlier versions."""
    projector = layer("projector.0", 4096, 2048, 1, 1, bias=False)
    return {"student": prefixed("encoder.", with_counters(student)) | projector
            | {"attention.in_proj_weight": flat(768, 256)},
            follower: prefixed("encoder.", with_counters(teacher)) | projector,
            "optimizer": OPTIMIZER, "scaler": {}, "rng": torch.get_rng_state()}
