"""The published checkpoint layouts, one row each.

A row says where each network lies, which names give the layout away, and what the method is called.
The first row that fits chooses the network; every row that fits names its method, so that a method
is named only where no other one writes the same names. Rows that prove no method, because many
programs write them, come last.

Each row names the repository and file whose code writes the layout. Rows of the tables' methods and
of torchvision were checked against that code, as were SCRL, R2O, SoCo, LEWEL, SparK, VICReg,
lightly's MoCo and DenseCL; those of DINO, timm, solo-learn, BYOL, MoCo v3 and mmselfsup's other
algorithms follow their documentation and other people's readers. No published file was opened: a
file that differs is refused or has its candidates listed, not guessed.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from transfer.reading.networks import Address, Place, Places

OWN_CHECKPOINT = "our pretraining checkpoint"
# Where a network is looked for although the file holds others elsewhere.
CLEAR_OF_OTHERS = ("", "state_dict", "model")


@dataclass(frozen=True)
class Family:
    """One published checkpoint layout. Names are without wrapper words: `encoder.` for
    `module.encoder.`.

    `branches`: where each network may lie, the one that the method's authors transfer first;
    "PREFIX" in the dictionary that holds everything, or "KEY:PREFIX" below it.
    `marks`: beginnings of names that must all be there, alternatives joined by "|".
    `only`: a pattern of all other names; a file with more in it is not of this layout.
    `shapes`: tensors that must be there in these sizes, where anybody's could have their names.
    `keys`: what the file itself must hold. `accepts` has the last word.
    `method`: the row's name in the tables; None when the layout does not prove it, and then
    `candidates` are those that may have written it.
    `epochs`: whether the stored epoch counts finished epochs.
    `known_network`: False where programs with other ResNets of the same tensors write it too.
    `aliases`: prefixes, in the default branch's place, that repeat its tensors.
    `pixels`: fields of `BackboneInfo`, where they are not the usual ones.
    """

    name: str
    branches: Mapping[str, tuple[str, ...]]
    marks: tuple[str, ...]
    only: str = ""
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    keys: tuple[str, ...] = ()
    accepts: Callable[[Mapping[Any, Any], Place], bool] = lambda _content, _place: True
    method: str | None = None
    candidates: tuple[str, ...] = ()
    epochs: bool = True
    known_network: bool = True
    note: str = ""
    aliases: tuple[str, ...] = ()
    pixels: Mapping[str, Any] = field(default_factory=dict)

    def fits(self, content: Mapping[Any, Any], found: Places, base: str) -> bool:
        """Whether the part of a file below the place `base` is of this layout."""
        if base not in found or not set(self.keys) <= content.keys():
            return False
        for mark in self.marks:
            if not _begins(found, base, mark):
                return False
        tensors = found[base].tensors()
        for name, shape in self.shapes.items():
            if name not in tensors or tuple(tensors[name].shape) != shape:
                return False
        return self._only_known_names(tensors) and self.accepts(content, found[base])

    def networks(self, found: Places, base: str) -> dict[str, Address]:
        """The address of each branch that is there: some published files leave one out."""
        there: dict[str, Address] = {}
        for branch, rows in self.branches.items():
            for row in rows:
                if branch not in there and _begins(found, base, row):
                    there[branch] = _below(base, row)
        return there

    def _only_known_names(self, names: Iterable[str]) -> bool:
        """Whether every tensor is of the ResNets or has a name that `only` allows."""
        if not self.only:
            return True
        rows = [re.escape(row) for rows in self.branches.values() for row in rows if ":" not in row]
        of_resnets = rf"(?:{'|'.join(rows)})(?:conv1|bn1|layer[1-4]|[014567])[.]"
        known = re.compile(f"{of_resnets}|{self.only}")
        return all(known.match(name) for name in names)


def _below(base: str, row: str) -> Address:
    """`PREFIX` or `KEY:PREFIX` of a row as an address in the file."""
    key, _, prefix = row.rpartition(":")
    return Address(f"{base}/{key}".strip("/"), prefix)


def _begins(found: Places, base: str, mark: str) -> bool:
    """Whether any name begins so, with one of the alternatives."""
    for row in mark.split("|"):
        where, prefix = _below(base, row)
        if where in found and any(name.startswith(prefix) for name in found[where].values):
            return True
    return False


def _labelled(_content: Mapping[Any, Any], place: Place) -> bool:
    """A classifier of ImageNet's 1000 classes stands on the network."""
    tensors = place.tensors()
    head = tensors.get("fc.weight", tensors.get("stem.fc.weight"))
    return head is not None and head.ndim == 2 and len(head) == 1000


# What the methods' converters for detectron2 write into "__author__".
AUTHORS = {"PixPro": "PixPro and CLoVE", "lalala": "SlotCon", "OpenSelfSup": "DenseCL",
           "MMSelfSup": "mmselfsup", "MOCO": "MoCo, ReSim and SetSim", "Yue": "SoCo",
           "torchvision": "detectron2 itself", "clove-suite": "this program"}
# MSRA's networks see 0..255 pixels in BGR order with only the mean taken off, and stride in the 1x1
# convolution.
MSRA_PIXELS = {"channel_order": "BGR", "pixel_mean": (103.53 / 255, 116.28 / 255, 123.675 / 255),
               "pixel_std": (1 / 255, 1 / 255, 1 / 255), "stride_in_1x1": True}

_IN_PIXPRO = r"(?:projector|projector_instance)(?:_k)?\.|predictor\."
_ENCODERS = {"student": ("encoder.",), "teacher": ("encoder_k.",)}
_QUERY_AND_KEY = {"student": ("encoder_q.",), "teacher": ("encoder_k.",)}
_BASE_AND_MOMENTUM = {"student": ("base_encoder.",), "teacher": ("momentum_encoder.",)}
_ALIASES = ("encoder_q.0.", "online_net.0.")  # OpenSelfSup registers the student twice
_LIGHTLY_TEACHERS = ("teacher_backbone.", "backbone_momentum.", "momentum_backbone.",
                     "key_backbone.", "query_backbone.")
_OF_LIGHTLY = ("any of lightly's methods: the folder of its run says which",)
_OWN_TEACHERS = ("follower:encoder.", "teacher:encoder.")  # the second in runs of earlier versions
_OWN_KEYS = ("optimizer", "scaler", "rng")
_SUPERVISED = ("Supervised", "a self-supervised network with a classifier trained on it")
_OTHER = "another method that uses these names"
_HEADS = r"(?:projector|projection|predictor|prototypes|queue|center)"

FAMILIES = (
    # sthalles/CLoVE and zdaxie/PixPro: main_pretrain.py, contrast/models/*.py. PixPro's published
    # copy lacks "opt". Its --pixpro-transform-layer 0, the default, has no value_transform: then
    # only a usual projector is left.
    Family("CLoVE", _ENCODERS, ("self_attn.in_proj_weight", "projector.linear1.", "encoder."),
           only=_IN_PIXPRO + r"|self_attn\.|encoder(?:_k)?\.", shapes={"self_attn.in_proj_weight": (768, 256)},
           method="CLoVE"),
    Family("PixPro", _ENCODERS, ("value_transform.", "projector.linear1.", "encoder."),
           only=_IN_PIXPRO + r"|value_transform\.", method="PixPro"),
    Family("PixPro without transform", _ENCODERS,
           ("projector.linear1.bias", "encoder.layer1.", "encoder_k.layer1."),
           only=_IN_PIXPRO,
           candidates=("PixPro", "another method in PixPro's code")),
    # hologerry/SoCo, contrast/models/SoCo_FPN.py, SoCo_FPN_Star.py and SoCo_C4.py.
    Family("SoCo", _ENCODERS, ("neck.lateral_convs.", "head.", "encoder.layer1."), method="SoCo",
           note="Its FPN and box head are in the file and are not read: the ResNet is transferred "
                "alone."),
    Family("SoCo C4", _ENCODERS,
           ("queue", "predictor.linear1.", "projector.linear1.", "encoder.layer1."),
           candidates=("SoCo C4", "another method in PixPro's code")),
    # CVMI-Lab/SlotCon, models/slotcon.py; transfer/detection/convert_pretrain_to_d2.py takes
    # encoder_k, the teacher.
    Family("SlotCon", {"teacher": ("encoder_k.",), "student": ("encoder_q.",)},
           ("grouping_k.", "encoder_k."), method="SlotCon",
           note="Its authors transfer the teacher, alone of the dense methods."),
    # WXinlong/DenseCL, tools/extract_backbone_weights.py, and openselfsup/models/densecl.py.
    Family("DenseCL published", {"student": ("",)}, ("conv1.", "layer1."), method="DenseCL",
           accepts=lambda content, _place: content.get("author") == "DenseCL"),
    Family("DenseCL raw", {"student": ("backbone.",), "teacher": ("encoder_k.0.",)},
           ("backbone.", "encoder_k.0.", "encoder_k.1.mlp2.", "queue2"), method="DenseCL",
           aliases=_ALIASES),
    # Tete-Xiao/ReSim, moco/models.py, moco/builder.py and
    # detection/convert-pretrain-to-detectron2.py.
    Family("ReSim", _QUERY_AND_KEY, ("encoder_q.layer1.", "encoder_q.fpn_lateral"), method="ReSim"),
    Family("ReSim converted", {"student": ("",)},
           ("stem.conv1.", "fpn_lateral|backbone.fpn_lateral"), keys=("__author__",),
           method="ReSim"),
    # DerrickWang005/SetSim.pytorch, setstim/framework.py. Queues and masks are deleted before
    # saving.
    Family("SetSim", {"student": ("encoder_q.0.",), "teacher": ("encoder_k.0.",)},
           ("encoder_q.0.layer1.", "encoder_q.0.fc.0."), method="SetSim",
           shapes={"encoder_q.1.0.weight": (2048, 2048, 1, 1)}),
    # facebookresearch/moco, moco/builder.py: an MLP head in v2, one layer in v1. Many methods were
    # built in this code.
    Family("MoCo v2", _QUERY_AND_KEY, ("encoder_q.layer1.", "encoder_q.fc.0."),
           only=r"encoder_[qk]\.fc\.[02]\.|queue",
           candidates=("MoCo v2", "ReSim-C4", "PCL v2", "another method in MoCo's code")),
    Family("MoCo v1", _QUERY_AND_KEY, ("encoder_q.layer1.", "encoder_q.fc.weight"),
           only=r"encoder_[qk]\.fc\.\w+$|queue",
           candidates=("MoCo v1", "PCL v1", "another method in MoCo's code")),
    # facebookresearch/moco-v3, moco/builder.py.
    Family("MoCo v3", _BASE_AND_MOMENTUM, ("base_encoder.layer1.", "base_encoder.fc."),
           only=r"(?:base|momentum)_encoder\.fc\.|predictor\.",
           shapes={"predictor.0.weight": (4096, 256)}, method="MoCo v3"),
    Family("MoCo v3", _BASE_AND_MOMENTUM, ("base_encoder.layer1.", "momentum_encoder.layer1."),
           only=r"(?:base|momentum)_encoder\.fc\.|predictor\.",
           candidates=("MoCo v3", "another method in MoCo v3's code")),
    # facebookresearch/VICRegL, main_vicregl.py; facebookresearch/vicreg, main_vicreg.py: three
    # layers, the last without bias; facebookresearch/barlowtwins, main.py: a last batch norm
    # without weights.
    Family("VICRegL", {"single": ("backbone.",)}, ("backbone.", "maps_projector.", "classifier."),
           only=r"(?:maps_projector|projector|classifier)\.", method="VICRegL",
           note="It was pretrained with a deviation of 0.228 for red, and is transferred with the "
                "usual 0.229."),
    Family("VICReg", {"single": ("backbone.",)},
           ("backbone.", "projector.0.bias", "projector.6.weight"),
           only=r"projector\.(?:[0134]\.|6\.weight)", method="VICReg",
           shapes={"projector.6.weight": (8192, 8192)}),
    Family("Barlow Twins", {"single": ("backbone.",)},
           ("backbone.", "projector.6.weight", "bn.running_var"),
           only=r"projector\.[01346]\.|bn\.(?:running|num)", method="Barlow Twins",
           shapes={"projector.6.weight": (8192, 8192)}),
    # facebookresearch/simsiam, simsiam/builder.py.
    Family("SimSiam", {"single": ("encoder.",)},
           ("encoder.layer1.", "encoder.fc.6.", "encoder.fc.7.running_var", "predictor.3."),
           only=r"encoder\.fc\.|predictor\.[013]\.", method="SimSiam",
           shapes={"predictor.3.weight": (2048, 512)}),
    # facebookresearch/dino, main_dino.py; its evaluations read the teacher. A ResNet's teacher is
    # wrapped, a ViT's not. microsoft/esvit, main_esvit.py, and others made from it write the same.
    Family("DINO", {"teacher": ("teacher:backbone.",), "student": ("student:backbone.",)},
           ("student:backbone.", "student:head.last_layer."), keys=("dino_loss",),
           candidates=("DINO", "EsViT", "another method in DINO's code")),
    # BYOL has no PyTorch code of its authors. yaox12/BYOL-PyTorch, model/basic_modules.py, and
    # KKallidromitis' r2o, model/r2o_model.py, and detcon-pytorch, both made from it; yaox12's
    # published file as others read it.
    Family("online and target",
           {"student": ("online_network.encoder.",), "teacher": ("target_network.encoder.",)},
           ("online_network.encoder.",), candidates=("BYOL", "R2O", "DetCon", _OTHER)),
    Family("BYOL", {"student": ("online_backbone:",), "teacher": ("target_backbone:",)},
           ("online_backbone:layer1.",), candidates=("BYOL", _OTHER)),
    # sthalles/PyTorch-BYOL, trainer.py, and kakaobrain/scrl, trainer/base.py, whose trainer does
    # both.
    Family("online and target",
           {"student": ("online_network_state_dict:encoder.",),
            "teacher": ("target_network_state_dict:encoder.",)},
           ("online_network_state_dict:encoder.",), candidates=("BYOL", "SCRL", _OTHER)),
    # LayneH/LEWEL, models/lewel.py, made from
    # amazon-research/exponential-moving-average-normalization, which has neither predictor_obj nor
    # proj_obj.
    Family("LEWEL", {"student": ("online_net.backbone.",), "teacher": ("target_net.backbone.",)},
           ("online_net.backbone.", "predictor_obj.|online_net.neck.proj_obj."), method="LEWEL"),
    Family("EMAN", {"student": ("online_net.backbone.",), "teacher": ("target_net.backbone.",)},
           ("online_net.backbone.", "target_net.backbone."),
           candidates=("BYOL", "BYOL with EMAN", "LEWEL")),
    # keyu-tian/SparK, pretrain/spark.py and pretrain/utils/misc.py.
    Family("SparK", {"single": ("sparse_encoder.sp_cnn.",)},
           ("sparse_encoder.sp_cnn.", "mask_tokens.|dense_decoder."), method="SparK", epochs=False),
    # facebookresearch/swav, src/resnet50.py and main_swav.py; the published files are the bare
    # state dict.
    Family("SwAV", {"single": ("",)}, ("layer1.", "projection_head."),
           only=r"projection_head\.[013]\.|prototypes\.weight",
           shapes={"prototypes.weight": (3000, 128)}, method="SwAV"),
    Family("SwAV's code", {"single": ("",)}, ("layer1.", "projection_head.", "prototypes."),
           candidates=("SwAV", "DeepCluster v2", "SeLa v2", _OTHER)),
    # lightly-ai/lightly, benchmarks/imagenet/resnet50 (byol.py, dino.py, mocov2.py) and
    # examples/pytorch (densecl.py); Lightning's container or the state dict alone. In its DINO
    # `backbone` is the teacher; the momentum copy of its MoCo is called key_backbone or
    # query_backbone by version. Networks of children have index names.
    Family("lightly", {"teacher": ("backbone.",), "student": ("student_backbone.",)},
           ("student_backbone.", "backbone."), epochs=False, candidates=_OF_LIGHTLY),
    Family("lightly", {"student": ("student_backbone.",), "teacher": _LIGHTLY_TEACHERS},
           ("student_backbone.", "teacher_backbone."), epochs=False, candidates=_OF_LIGHTLY),
    Family("lightly", {"student": ("backbone.",), "teacher": _LIGHTLY_TEACHERS},
           ("backbone.", "projection_head_global.", "projection_head_local."), epochs=False,
           candidates=("DenseCL",)),
    Family("lightly", {"student": ("backbone.",), "teacher": _LIGHTLY_TEACHERS},
           ("backbone.", "projection_head."), epochs=False, candidates=(*_OF_LIGHTLY, _OTHER),
           known_network=False),
    # vturrisi/solo-learn, solo/methods/base.py, in Lightning's container; older files say encoder.
    # Every method of it has a classifier.
    Family("solo-learn",
           {"student": ("backbone.", "encoder."), "teacher": ("momentum_backbone.",
               "momentum_encoder.")}, ("backbone.|encoder.", "classifier."),
           keys=("pytorch-lightning_version",), epochs=False, known_network=False,
           candidates=("any of solo-learn's methods: its args.json beside the file says which", _OTHER)),
    # open-mmlab/mmselfsup, mmselfsup/models/algorithms (moco.py, byol.py, simsiam.py, ...), of 0.x
    # and 1.x. Its classifiers, detectors and segmenters have heads of other names.
    Family("mmselfsup", {"student": ("backbone.",), "teacher": ("encoder_k.0.", "target_net.0.")},
           ("backbone.",), keys=("meta",),
           only=r"neck\.|head\.(?!fc\.)|encoder_[qk]\.|(?:online|target)_net\.|queue|memory_bank|data_prep",
           candidates=("MoCo v2", "BYOL", "SimSiam", "Barlow Twins", "SwAV", "SimCLR"),
           aliases=_ALIASES),
    # HobbitLong/PyContrast, pycontrast/learning/contrast_trainer.py and networks/build_backbone.py.
    Family("PyContrast", {"student": ("model:encoder.",), "teacher": ("model_ema:encoder.",)},
           ("model:encoder.layer1.", "model:head.", "model_ema:encoder."),
           candidates=("InfoMin", "another method in PyContrast's code")),
    # Our own: pretrain/trainer.py. Of the objectives only CLoVE has attention.
    Family(OWN_CHECKPOINT, {"student": ("student:encoder.",), "teacher": _OWN_TEACHERS},
           ("student:encoder.layer1.", "student:attention.",
               "follower:encoder.layer1.|teacher:encoder.layer1."),
           keys=_OWN_KEYS, method="CLoVE"),
    Family(OWN_CHECKPOINT, {"student": ("student:encoder.",), "teacher": _OWN_TEACHERS},
           ("student:encoder.layer1.",), keys=_OWN_KEYS,
           candidates=("an objective of this program: the config beside the file says which",)),
    # huggingface/transformers, models/resnet/modeling_resnet.py: with its classifier, or the bare
    # model.
    Family("Hugging Face ResNet", {"single": ("resnet.", "")},
           ("resnet.embedder.embedder.|embedder.embedder.",), candidates=_SUPERVISED,
           known_network=False),
    # huggingface/pytorch-image-models, timm/utils/checkpoint_saver.py.
    Family("timm checkpoint", {"single": ("",)}, ("conv1.", "layer1."),
           keys=("arch", "version", "optimizer"), epochs=False, candidates=_SUPERVISED,
           known_network=False),
    # detectron2's pickles: its tools/convert-torchvision-to-d2.py, which others use for their
    # networks too (detcon- pytorch, r2o), and the methods' own copies of it.
    Family("detectron2 names", {"single": ("",)}, ("stem.conv1.",), keys=("__author__",),
           accepts=lambda content, place: content["__author__"] == "torchvision" and _labelled(content, place),
           candidates=_SUPERVISED),
    Family("detectron2 names", {"single": ("",)}, ("stem.conv1.",), keys=("__author__",)),
    Family("MSRA", {"single": ("",)}, ("res2_0_branch2a_", "fc1000_w"), method="Supervised",
           pixels=MSRA_PIXELS),
    Family("Caffe2 names", {"single": ("",)}, ("res2_0_branch2a_",), pixels=MSRA_PIXELS,
           candidates=("a detector of Detectron's model zoo",)),
    # Names that many programs use: they choose the network, and prove no method.
    Family("student and teacher",
           {"teacher": ("teacher:backbone.",), "student": ("student:backbone.",)},
           ("teacher:backbone.", "student:backbone."), candidates=("DINO", _OTHER),
           note="Which of the two networks this method's authors transfer is not known: the "
                "teacher is read, as in DINO; --branch student takes the other."),
    Family("backbone and heads", {"single": ("backbone.",)},
           ("backbone.",), only=_HEADS + r"|bn\.|backbone\.fc\.",
           candidates=("VICReg", "Barlow Twins", "SimCLR", _OTHER), known_network=False),
    Family("encoder and heads", {"single": ("encoder.",)}, ("encoder.", "proj|pred"),
           only=_HEADS + r"|encoder\.fc\.", candidates=("SimSiam", "SimCLR", _OTHER),
           known_network=False),
    # Torchvision's own names. pytorch/examples, imagenet/main.py, and the linear evaluations of
    # MoCo and SimSiam write such a classifier too, in a container with their epochs.
    Family("torchvision", {"single": ("",)}, ("conv1.", "layer1."), accepts=_labelled,
           candidates=_SUPERVISED, known_network=False),
    Family("plain torchvision names", {"single": ("",)}, ("conv1.", "layer1."), known_network=False,
           candidates=( "VICRegL backbone", "SlotCon backbone-only", "Barlow Twins", "VICReg",
               "DINO ResNet-50", "an extracted backbone")),
)
