"""The published checkpoint layouts, one row each.

A row says where each network lies, as "PLACE:PREFIX" (see `layout.py`), which names give the layout away, and what the
method is called. Rows exclude one another; a file that fits none, or more than one, is not guessed at.
Each row names the repository and file whose code writes the layout. Rows of the tables' methods and of torchvision were
checked against that code; those of DINO, timm, solo-learn, lightly, BYOL and mmselfsup's other algorithms follow its
documentation and other people's readers. No published file was opened: a file that differs is told, not guessed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from transfer.layout import Places


@dataclass(frozen=True)
class Family:
    """One published checkpoint layout.

    `branches`: where each network may lie, the one that the method's authors transfer first. `marks` and `without`:
    beginnings of addresses of which every one, and none, must be there. `keys`: what the file itself must hold.
    `accepts` has the last word. `method`: the row's name in the tables; None when the layout does not tell, and then
    `candidates` are methods known to write it. `epochs`: whether the stored epoch counts finished epochs.
    """

    name: str
    branches: Mapping[str, tuple[str, ...]]
    marks: tuple[str, ...]
    without: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    accepts: Callable[[Mapping[Any, Any], Places], bool] = lambda _content, _found: True
    method: str | None = None
    candidates: tuple[str, ...] = ()
    epochs: bool = True
    note: str = ""
    aliases: tuple[str, ...] = ()  # prefixes, in the default branch's place, that repeat its tensors
    pixels: Mapping[str, Any] = field(default_factory=dict)  # fields of BackboneInfo, where they are not the usual ones

    def fits(self, content: Mapping[Any, Any], found: Places) -> bool:
        """Whether the file is of this layout."""
        return (all(key in content for key in self.keys) and all(begins(found, mark) for mark in self.marks)
                and not any(begins(found, mark) for mark in self.without) and self.accepts(content, found))


def begins(found: Places, address: str) -> bool:
    """Whether any name in the address's place begins with the rest of it."""
    place, prefix = address.split(":", 1)
    return any(name.startswith(prefix) for name in found.get(place, ()))


def _labelled(place: str) -> Callable[[Mapping[Any, Any], Places], bool]:
    """A classifier of ImageNet's 1000 classes on the network in this place."""
    def accepts(_content: Mapping[Any, Any], found: Places) -> bool:
        head = found.get(place, {}).get("fc.weight")
        return isinstance(head, torch.Tensor) and head.ndim == 2 and head.shape[0] == 1000
    return accepts


def _says(key: str, value: str) -> Callable[[Mapping[Any, Any], Places], bool]:
    return lambda content, _found: content.get(key) == value


def _has_fpn(_content: Mapping[Any, Any], found: Places) -> bool:
    return any("fpn_lateral" in name for name in found.get("model", ()))


_ALIASES = ("encoder_q.0.", "online_net.0.")  # OpenSelfSup registers the student twice
_PLAIN = (
    "VICRegL backbone", "SlotCon backbone-only", "Barlow Twins", "VICReg", "DINO ResNet-50", "an extracted backbone")
# MSRA's networks see 0..255 pixels in BGR order with only the mean taken off, and stride in the 1x1 convolution.
MSRA_PIXELS = {"channel_order": "BGR", "pixel_mean": (103.53 / 255, 116.28 / 255, 123.675 / 255),
               "pixel_std": (1 / 255, 1 / 255, 1 / 255), "stride_in_1x1": True}


# What the methods' converters for detectron2 write into "__author__".
AUTHORS = {"PixPro": "PixPro and CLoVE", "lalala": "SlotCon", "OpenSelfSup": "DenseCL", "MMSelfSup": "mmselfsup",
           "MOCO": "MoCo, ReSim and SetSim", "torchvision": "torchvision's networks", "Yue": "SoCo",
           "clove-suite": "this program"}


def _plain(place: str) -> list[Family]:
    """Torchvision's own names, in the file itself or under "state_dict" or "model"."""
    labelled = _labelled(place)
    single, marks = {"single": (f"{place}:",)}, (f"{place}:conv1.", f"{place}:layer1.")
    timm = ("arch", "version", "optimizer") if place == "state_dict" else ()

    def is_timm(content: Mapping[Any, Any], _found: Places) -> bool:
        return bool(timm) and all(key in content for key in timm)

    return [
        Family("torchvision", single, marks, method="Supervised", candidates=("torchvision", "timm"),
               note="The file names no method: Supervised, for it has a classifier of 1000 classes; --method names "
                    "another where that was learnt on top of a self-supervised network.",
               accepts=lambda content, found: labelled(content, found) and not is_timm(content, found)),
        Family("plain torchvision names", single, marks, candidates=_PLAIN, accepts=lambda content, found: not (
            labelled(content, found) or is_timm(content, found) or content.get("author") == "DenseCL")),
    ]


def _swav(place: str) -> list[Family]:
    """facebookresearch/swav, src/resnet50.py and main_swav.py; the published files are the bare state dict."""
    marks, single = (f"{place}:module.layer1.", f"{place}:module.projection_head."), {"single": (f"{place}:module.",)}
    return [
        Family("SwAV", single, (*marks, f"{place}:module.prototypes.weight"), method="SwAV"),
        Family("SwAV's code", single, (*marks, f"{place}:module.prototypes.prototypes0."),
               candidates=("DeepCluster v2", "SeLa v2", "SwAV with several prototype heads")),
        # pytorch/examples, imagenet/main.py: also what the linear evaluations of MoCo and SimSiam write.
        Family("torchvision names under module.", single, (f"{place}:module.layer1.", f"{place}:module.fc."),
               candidates=("Supervised", "a self-supervised network with a linear classifier trained on it")),
    ]


def _lightly(place: str) -> list[Family]:
    """lightly-ai/lightly, benchmarks/imagenet/resnet50 (byol.py, dino.py) and examples; Lightning's container or the
    state dict alone. In its DINO `backbone` is the teacher. Networks of children have index names."""
    head, name = f"{place}:projection_head.", "lightly"
    teachers = (f"{place}:teacher_backbone.", f"{place}:backbone_momentum.", f"{place}:momentum_backbone.")
    return [
        Family(name, {"student": (f"{place}:backbone.",), "teacher": teachers}, (head, f"{place}:backbone."),
               without=(f"{place}:student_backbone.",), epochs=False),
        Family(name, {"teacher": (f"{place}:backbone.",), "student": (f"{place}:student_backbone.",)},
               (f"{place}:student_backbone.", f"{place}:backbone."), epochs=False),
        Family(name, {"student": (f"{place}:student_backbone.",), "teacher": teachers},
               (f"{place}:student_backbone.", f"{place}:teacher_backbone."), without=(f"{place}:backbone.",),
               epochs=False),
    ]


FAMILIES = (
    # sthalles/CLoVE and zdaxie/PixPro: main_pretrain.py, contrast/models/*.py. PixPro's published copy lacks "opt".
    Family("CLoVE", {"student": ("model:module.encoder.",), "teacher": ("model:module.encoder_k.",)},
           ("model:module.self_attn.", "model:module.encoder."), method="CLoVE"),
    Family("PixPro", {"student": ("model:module.encoder.",), "teacher": ("model:module.encoder_k.",)},
           ("model:module.value_transform.", "model:module.encoder."), without=("model:module.self_attn.",),
           method="PixPro"),
    # CVMI-Lab/SlotCon, models/slotcon.py; transfer/detection/convert_pretrain_to_d2.py takes encoder_k, the teacher.
    Family("SlotCon", {"teacher": ("model:module.encoder_k.",), "student": ("model:module.encoder_q.",)},
           ("model:module.grouping_k.", "model:module.encoder_k."), method="SlotCon",
           note="Its authors transfer the teacher, alone of the dense methods."),
    # WXinlong/DenseCL, tools/extract_backbone_weights.py, and openselfsup/models/densecl.py.
    Family("DenseCL published", {"student": ("state_dict:",)}, ("state_dict:conv1.", "state_dict:layer1."),
           accepts=_says("author", "DenseCL"), method="DenseCL"),
    Family("DenseCL raw", {"student": ("state_dict:backbone.",),
                           "teacher": ("state_dict:encoder_k.0.", "state_dict:encoder_k.module.0.")},
           ("state_dict:backbone.", "state_dict:queue2"), method="DenseCL", aliases=_ALIASES),
    # open-mmlab/mmselfsup, mmselfsup/models/algorithms (moco.py, byol.py, simsiam.py, ...), of 0.x and 1.x.
    Family("mmselfsup", {"student": ("state_dict:backbone.",),
                         "teacher": ("state_dict:encoder_k.0.", "state_dict:encoder_k.module.0.",
                                     "state_dict:target_net.0.", "state_dict:target_net.module.0.")},
           ("state_dict:backbone.",),  # the others: DenseCL, lightly, detectors and classifiers of OpenMMLab
           without=("state_dict:queue2", "state_dict:projection_head.", "state_dict:rpn_head.", "state_dict:roi_head.",
                    "state_dict:bbox_head.", "state_dict:decode_head.", "state_dict:head.fc.",
                    "state_dict:ema_backbone."),
           accepts=lambda content, _found: "pytorch-lightning_version" not in content,
           candidates=("MoCo v2", "BYOL", "SimSiam", "Barlow Twins", "SwAV", "SimCLR"), aliases=_ALIASES),
    # Tete-Xiao/ReSim, moco/models.py, moco/builder.py and detection/convert-pretrain-to-detectron2.py.
    Family("ReSim", {"student": ("state_dict:module.encoder_q.",), "teacher": ("state_dict:module.encoder_k.",)},
           ("state_dict:module.encoder_q.layer1.", "state_dict:module.encoder_q.fpn_lateral"), method="ReSim"),
    Family("ReSim converted", {"student": ("model:",)}, ("model:stem.conv1.",), keys=("__author__",), accepts=_has_fpn,
           method="ReSim"),
    # DerrickWang005/SetSim.pytorch, setstim/framework.py. Queues and masks are deleted before saving.
    Family("SetSim", {"student": ("state_dict:module.encoder_q.0.",), "teacher": ("state_dict:module.encoder_k.0.",)},
           ("state_dict:module.encoder_q.0.layer1.", "state_dict:module.encoder_q.1.0."), method="SetSim"),
    # facebookresearch/moco, moco/builder.py: an MLP head in v2, one layer in v1.
    Family("MoCo v2", {"student": ("state_dict:module.encoder_q.",), "teacher": ("state_dict:module.encoder_k.",)},
           ("state_dict:module.encoder_q.layer1.", "state_dict:module.encoder_q.fc.0."),
           without=("state_dict:module.encoder_q.fpn_",), method="MoCo v2",
           candidates=("MoCo v2", "ReSim-C4, PCL v2 and others in MoCo's code")),
    Family("MoCo v1", {"student": ("state_dict:module.encoder_q.",), "teacher": ("state_dict:module.encoder_k.",)},
           ("state_dict:module.encoder_q.layer1.", "state_dict:module.encoder_q.fc.weight"),
           without=("state_dict:module.encoder_q.fpn_",), method="MoCo v1",
           candidates=("MoCo v1", "PCL v1 and others in MoCo's code")),
    # facebookresearch/VICRegL, main_vicregl.py; facebookresearch/vicreg, main_vicreg.py; barlowtwins, main.py.
    Family("VICRegL", {"single": ("model:module.backbone.",)},
           ("model:module.backbone.", "model:module.maps_projector."), method="VICRegL",
           note="It was pretrained with a deviation of 0.228 for red, and is transferred with the usual 0.229."),
    Family("VICReg", {"single": ("model:module.backbone.",)}, ("model:module.backbone.", "model:module.projector."),
           without=("model:module.maps_projector.", "model:module.classifier.", "model:module.bn."), method="VICReg"),
    Family("Barlow Twins", {"single": ("model:module.backbone.",)},
           ("model:module.backbone.", "model:module.projector.", "model:module.bn."),
           without=("model:module.maps_projector.",), method="Barlow Twins"),
    # facebookresearch/simsiam, simsiam/builder.py.
    Family("SimSiam", {"single": ("state_dict:module.encoder.",)},
           ("state_dict:module.encoder.layer1.", "state_dict:module.predictor."), method="SimSiam"),
    # facebookresearch/dino, main_dino.py; its evaluations read the teacher. A ResNet's teacher is wrapped, a ViT's not.
    Family("DINO", {"teacher": ("teacher:module.backbone.", "teacher:backbone."),
                    "student": ("student:module.backbone.", "student:backbone.")},
           ("student:module.backbone.", "student:module.head."), method="DINO"),
    # BYOL has no PyTorch code of its authors. yaox12/BYOL-PyTorch: model/basic_modules.py, and its published file as
    # others read it ("online_backbone"); sthalles/PyTorch-BYOL's containers.
    Family("BYOL", {"student": ("model:module.online_network.encoder.",),
                    "teacher": ("model:module.target_network.encoder.",)},
           ("model:module.online_network.encoder.",), method="BYOL"),
    Family("BYOL", {"student": ("online_backbone:module.",), "teacher": ("target_backbone:module.",)},
           ("online_backbone:module.layer1.",), method="BYOL"),
    Family("BYOL", {"student": ("online_network_state_dict:encoder.",),
                    "teacher": ("target_network_state_dict:encoder.",)},
           ("online_network_state_dict:encoder.",), method="BYOL"),
    # vturrisi/solo-learn, solo/methods/base.py, in Lightning's container; older files say encoder.
    Family("solo-learn", {"student": ("state_dict:backbone.", "state_dict:encoder."),
                          "teacher": ("state_dict:momentum_backbone.", "state_dict:momentum_encoder.")},
           (), keys=("pytorch-lightning_version",), without=("state_dict:projection_head.",), epochs=False,
           accepts=lambda _content, found: any(begins(found, f"state_dict:{name}.") for name in ("backbone", "encoder")
                                               ),
           candidates=("any of solo-learn's methods: its args.json beside the file says which",)),
    # huggingface/pytorch-image-models, timm/utils/checkpoint_saver.py.
    Family("timm checkpoint", {"single": ("state_dict:",)}, ("state_dict:conv1.", "state_dict:layer1."),
           keys=("arch", "version", "optimizer"), epochs=False, candidates=("Supervised",)),
    # detectron2's pickles: its tools/convert-torchvision-to-d2.py and the methods' own copies of it.
    Family("detectron2 names", {"single": ("model:",)}, ("model:stem.conv1.",), keys=("__author__",),
           accepts=lambda content, found: content["__author__"] != "torchvision" and not _has_fpn(content, found)),
    Family("detectron2 names", {"single": ("model:",)}, ("model:stem.conv1.",), keys=("__author__",),
           accepts=_says("__author__", "torchvision"), method="Supervised", candidates=("torchvision",)),
    *(Family("MSRA", {"single": (f"{place}:",)}, (f"{place}:res2_0_branch2a_", f"{place}:fc1000_w"),
             method="Supervised", pixels=MSRA_PIXELS) for place in ("", "model", "blobs")),
    *(Family("Caffe2 names", {"single": (f"{place}:",)}, (f"{place}:res2_0_branch2a_",), (f"{place}:fc1000_w",),
             candidates=("a detector of Detectron's model zoo",), pixels=MSRA_PIXELS)
      for place in ("", "model", "blobs")),
    # Our own: pretrain/trainer.py.
    Family("our pretraining checkpoint", {"student": ("student:encoder.",), "teacher": ("teacher:encoder.",)},
           ("student:encoder.layer1.", "student:projector.", "teacher:encoder.layer1."), method="CLoVE"),
    *(row for place in ("", "state_dict") for row in (*_swav(place), *_lightly(place))),
    *(row for place in ("", "state_dict", "model") for row in _plain(place)),
)
