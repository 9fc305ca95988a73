"""A ResNet under other programs' names: detectron2's, Caffe2's, Hugging Face's, torchvision's children by index.

Where files must hold dense arrays (numpy), they are as large as the real ones.
"""

from typing import Any

import numpy as np

from tests.transfer.state_parts import State, layer, with_counters


def indexed(state: State) -> State:
    """Names that nn.Sequential(*resnet.children()) gives."""
    index = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
    return {f"{index[name.split('.')[0]]}.{name.split('.', 1)[1]}": value for name, value in state.items()}


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
