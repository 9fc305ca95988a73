"""Every published layout as a file, and what a reader should say of it."""

import argparse
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pretrain.common.backbone_file import BackboneInfo, save_backbone
from tests.transfer.dense_files import (
    clove,
    densecl_raw,
    lewel,
    own_checkpoint,
    pixpro,
    pixpro_published,
    pixpro_without_transform,
    resim,
    resim_converted,
    setsim,
    slotcon,
    soco,
    soco_c4,
)
from tests.transfer.image_files import (
    byol,
    byol_published,
    dino,
    lightly_byol,
    lightly_densecl,
    lightly_dino,
    lightly_example,
    lightly_moco,
    mmselfsup_byol,
    moco,
    moco_v3,
    pycontrast,
    redundancy,
    scrl,
    simclr,
    simsiam,
    solo_learn,
    somebodys,
    spark,
    swav,
)
from tests.transfer.other_names import detectron2_pickle, hugging_face, msra
from tests.transfer.state_parts import OPTIMIZER, State, batch_norm, layer, mlp, resnet, with_counters


def _torch(content: Any, path: Path) -> None:
    torch.save(content, path)


def _old_torch(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def _pickle(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


@dataclass(frozen=True)
class FamilyFile:
    """A file, and what a reader should say of it. `branches`: the default one first; each is the state of that name,
    and "single" is the student's. `method` None: the file's name, and `candidates` are among those that are listed."""

    name: str
    build: Callable[[State, State], Any]
    family: str
    method: str | None
    branches: tuple[str, ...] = ("student", "teacher")
    epochs: int | None = None
    save: Callable[[Any, Path], None] = _torch
    fpn: int = 0
    candidates: tuple[str, ...] = ()


def _safetensors(content: Any, path: Path) -> None:
    save_file({name: value.contiguous() for name, value in content.items()}, path)


def _plain(student: State, _teacher: State) -> State:
    return with_counters(student)


_HEAD = layer("fc", 1000, 2048)
_SINGLE = ("single",)
FILES = (
    FamilyFile("ckpt_epoch_200.pth", clove, "CLoVE", "CLoVE", epochs=200),
    FamilyFile("clove_old.pth", clove, "CLoVE", "CLoVE", epochs=200, save=_old_torch),
    FamilyFile("ckpt_epoch_100.pth", pixpro, "PixPro", "PixPro", epochs=100),
    FamilyFile("pixpro_base_r50_400ep_md5_919c6612.pth", pixpro_published, "PixPro", "PixPro"),
    FamilyFile("slotcon_full.pth", slotcon, "SlotCon", "SlotCon", ("teacher", "student"), 200),
    FamilyFile("slotcon_imagenet_200ep.pth", lambda s, t: {"state_dict": _plain(s, t)}, "plain torchvision names", None,
               _SINGLE),
    FamilyFile("densecl_r50_imagenet_200ep.pth", lambda s, t: {"state_dict": _plain(s, t), "author": "DenseCL"},
               "DenseCL published", "DenseCL", ("student",)),
    FamilyFile("epoch_200.pth", densecl_raw, "DenseCL raw", "DenseCL", epochs=200),
    FamilyFile("byol_resnet50_8xb32-accum16-coslr-300e_in1k.pth", mmselfsup_byol, "mmselfsup", None, epochs=300),
    FamilyFile("resim_fpn_200ep.pth.tar", resim, "ReSim", "ReSim", epochs=200, fpn=10),
    FamilyFile("resim_fpn_bn.pth.tar", lambda s, t: resim(s, t, norm=True), "ReSim", "ReSim", epochs=200, fpn=5),
    FamilyFile("resim_fpn_backbone_200ep.pth.tar", resim_converted, "ReSim converted", "ReSim", ("student",), fpn=10),
    FamilyFile("setsim.pth.tar", setsim, "SetSim", "SetSim", epochs=200),
    FamilyFile("resnet50_alpha0.9.pth", _plain, "plain torchvision names", None, _SINGLE),
    FamilyFile("resnet50_alpha0.9_fullckpt.pth", lambda s, _t: redundancy(
        s, mlp("maps_projector", 2048, 512, 512, 512, last_bias=False),
        mlp("projector", 2048, 8192, 8192, 8192, last_bias=False), layer("classifier", 1000, 2048), epoch=300),
        "VICRegL", "VICRegL", _SINGLE, 300),
    FamilyFile("moco_v1_200ep_pretrain.pth.tar", lambda s, t: moco(s, t, v2=False), "MoCo v1", None, epochs=200,
               candidates=("MoCo v1", "PCL v1")),
    FamilyFile("moco_v2_200ep_pretrain.pth.tar", moco, "MoCo v2", None, epochs=200,
               candidates=("MoCo v2", "ReSim-C4", "PCL v2")),
    FamilyFile("InfoMin_200.pth", pycontrast, "PyContrast", None, epochs=200, candidates=("InfoMin",)),
    FamilyFile("checkpoint_0100.pth.tar", simclr, "backbone and heads", None, _SINGLE, 100, candidates=("SimCLR",)),
    FamilyFile("r-50-300ep.pth.tar", moco_v3, "MoCo v3", "MoCo v3", epochs=300),
    FamilyFile("resnet50-0676ba61.pth", lambda s, t: _plain(s, t) | _HEAD, "torchvision", None, _SINGLE,
               candidates=("Supervised",)),
    FamilyFile("R-50.pkl", msra, "MSRA", "Supervised", _SINGLE, save=_pickle),
    FamilyFile("R-50_t.pkl", lambda s, _t: detectron2_pickle(s, "torchvision"), "detectron2 names", None,
               _SINGLE, save=_pickle),
    FamilyFile("pixpro_100.pkl", lambda s, _t: detectron2_pickle(s, "PixPro"), "detectron2 names", None, _SINGLE,
               save=_pickle),
    FamilyFile("dino_resnet50_pretrain_full_checkpoint.pth", dino, "DINO", None, ("teacher", "student"), 800,
               candidates=("DINO", "EsViT")),
    FamilyFile("byol_300.pth.tar", byol, "online and target", None, epochs=300, candidates=("BYOL", "R2O", "DetCon")),
    FamilyFile("scrl.pth", scrl, "online and target", None, epochs=200, candidates=("BYOL", "SCRL")),
    FamilyFile("lewel_b_400.pth.tar", lewel, "LEWEL", "LEWEL", epochs=400),
    FamilyFile("eman_byol.pth.tar", lambda s, t: lewel(s, t, objects=False), "EMAN", None, epochs=400,
               candidates=("BYOL", "LEWEL")),
    FamilyFile("still_pretraining.pth", spark, "SparK", "SparK", _SINGLE),
    FamilyFile("ckpt_epoch_100_soco.pth", soco, "SoCo", "SoCo", epochs=100),
    FamilyFile("soco_c4.pth", soco_c4, "SoCo C4", None, epochs=400, candidates=("SoCo C4",)),
    FamilyFile("pixpro_0.pth", pixpro_without_transform, "PixPro without transform", None, epochs=100,
               candidates=("PixPro",)),
    FamilyFile("byol_resnet50.pth.tar", byol_published, "BYOL", None, epochs=300,
               candidates=("BYOL", "another method that uses these names")),
    FamilyFile("checkpoint_0099.pth.tar", simsiam, "SimSiam", "SimSiam", _SINGLE, 100),
    FamilyFile("barlow_checkpoint.pth", lambda s, _t: redundancy(
        s, mlp("projector", 2048, 8192, 8192, 8192, last_bias=False), batch_norm("bn", 8192, affine=False),
        epoch=1000), "Barlow Twins", "Barlow Twins", _SINGLE, 1000),
    FamilyFile("vicreg_fullckpt.pth", lambda s, _t: redundancy(
        s, mlp("projector", 2048, 8192, 8192, 8192, last_bias=False), epoch=1000), "VICReg", "VICReg", _SINGLE, 1000),
    FamilyFile("swav_800ep_pretrain.pth.tar", swav, "SwAV", "SwAV", _SINGLE),
    FamilyFile("swav_checkpoint.pth.tar", lambda s, t: {"epoch": 800, "state_dict": swav(s, t),
                                                        "optimizer": OPTIMIZER}, "SwAV", "SwAV", _SINGLE, 800),
    FamilyFile("lightly_byol.ckpt", lightly_byol, "lightly", None),
    FamilyFile("lightly_dino.ckpt", lightly_dino, "lightly", None, ("teacher", "student")),
    FamilyFile("lightly_example.pth", lightly_example, "lightly", None),
    FamilyFile("lightly_moco.ckpt", lightly_moco, "lightly", None),
    FamilyFile("lightly_moco_new.ckpt", lambda s, t: lightly_moco(s, t, "query_backbone"), "lightly", None),
    FamilyFile("lightly_densecl.pth", lightly_densecl, "lightly", None, candidates=("DenseCL",)),
    FamilyFile("solo_byol.ckpt", solo_learn, "solo-learn", None),
    FamilyFile("solo_old.ckpt", lambda s, t: solo_learn(s, t, old=True), "solo-learn", None),
    FamilyFile("timm_resnet50.safetensors", lambda s, t: _plain(s, t) | _HEAD, "torchvision", None, _SINGLE,
               save=_safetensors, candidates=("Supervised",)),
    FamilyFile("model.safetensors", hugging_face, "Hugging Face ResNet", None, _SINGLE, save=_safetensors,
               candidates=("Supervised",)),
    FamilyFile("timm_last.pth.tar", lambda s, t: {
        "epoch": 299, "arch": "resnet50", "state_dict": _plain(s, t) | _HEAD, "optimizer": OPTIMIZER, "version": 2,
        "args": argparse.Namespace(model="resnet50"), "metric": 77.0}, "timm checkpoint", None, _SINGLE),
    FamilyFile("own_backbone_projector.pth", lambda s, _t: somebodys(
        ("module.backbone.", s), ("module.projector.", layer("0", 4, 4))), "backbone and heads", None, _SINGLE, 10,
        candidates=("VICReg", "another method that uses these names")),
    FamilyFile("own_encoder_predictor.pth", lambda s, _t: somebodys(
        ("module.encoder.", s), ("module.predictor.", layer("0", 4, 4)), place="state_dict"), "encoder and heads", None,
        _SINGLE, 10, candidates=("SimSiam", "another method that uses these names")),
    FamilyFile("own_student_teacher.pth", lambda s, t: {
        **somebodys(("module.backbone.", s), ("module.head.", layer("0", 4, 4)), place="student"),
        **somebodys(("module.backbone.", t), place="teacher")}, "student and teacher", None, ("teacher", "student"), 10,
        candidates=("DINO", "another method that uses these names")),
    FamilyFile("own_backbone.ckpt", lambda s, _t: {
        "pytorch-lightning_version": "2.0", **somebodys(("backbone.", s), place="state_dict")}, "backbone and heads",
        None, _SINGLE),
    FamilyFile("own_base_and_momentum.pth", lambda s, t: somebodys(
        ("base_encoder.", s), ("momentum_encoder.", t), ("predictor.", layer("0", 4, 4))), "MoCo v3", None, epochs=10,
        candidates=("MoCo v3", "another method in MoCo v3's code")),
    FamilyFile("own_prototypes.pth", lambda s, _t: somebodys(
        ("", s), ("projection_head.", layer("0", 4, 4)), ("prototypes.", layer("0", 4, 4, bias=False))), "SwAV's code",
        None, _SINGLE, 10, candidates=("SwAV", "another method that uses these names")),
    FamilyFile("step_00000100.pt", own_checkpoint, "our pretraining checkpoint", "CLoVE"),
    FamilyFile("step_00000100_old.pt", lambda s, t: own_checkpoint(s, t, "teacher"), "our pretraining checkpoint",
               "CLoVE"),
    FamilyFile("backbone.safetensors", lambda s, _t: s, "backbone.safetensors", "CLoVE", ("student",), 200,
               save=lambda content, path: save_backbone(
                   path, content, BackboneInfo("CLoVE", "resnet50", 200, "student"))),
)


def write(file: FamilyFile, folder: Path, architecture: str = "resnet50") -> tuple[Path, dict[str, State]]:
    """Write the file into a folder; returns its path and the state of each branch."""
    student, teacher = resnet(architecture), resnet(architecture, 2000)
    path = folder / file.name
    file.save(file.build(student, teacher), path)
    return path, {branch: teacher if branch == "teacher" else student for branch in file.branches}
