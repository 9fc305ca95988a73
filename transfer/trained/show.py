"""A figure of what a finished fine-tuning detects: on its validation data beside the ground
truth, or on any photographs.

`clove detections --model RUN_FOLDER --data DIR --output FILE.png`
"""

import argparse
import json
import sys
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_PERSON_KEYPOINT_NAMES, KEYPOINT_CONNECTION_RULES
from detectron2.modeling import build_model
from torch import nn
from tqdm import tqdm

from pretrain.common.errors import refuse
from pretrain.data.images import walk_images
from pretrain.data.pixels import SIXTEEN_BIT
from pretrain.distributed import present_device
from transfer import detectron2_compat
from transfer.finetuning import drawing
from transfer.finetuning.checkpoints import FINAL
from transfer.reading.architecture import first_names
from transfer.settings import datasets, norms
from transfer.settings.where import add_crowds_as_objects
from transfer.tasks import Where
from transfer.trained import model_file

SHOWN = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="DIR", help="folder of a finished `finetune`")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--data", metavar="DIR",
                       help="annotated images: their validation set, ground truth left, "
                            "predictions right")
    where.add_argument("--photos", metavar="DIR", help="any folder of images: predictions alone")
    add_crowds_as_objects(parser)
    parser.add_argument("--output", required=True, metavar="FILE.png")
    parser.add_argument("--images", type=int, default=SHOWN, metavar="N",
                        help="number: the first with objects, or the first photographs (default: "
                             "%(default)s)")
    parser.add_argument("--only", metavar="A,B",
                        help="these images instead: file names, or ids of the annotation file")
    parser.add_argument("--score", type=float, metavar="T",
                        help="draw predictions with this score or more, 0 to 1 (default: "
                             f"{drawing.SCORE}, and the best {drawing.FALLBACK} where none reaches "
                             "it)")
    parser.add_argument("--sixteen-bit", choices=SIXTEEN_BIT,
                        help="how 16-bit images are read (default: as the run's config says)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")


def run(args: argparse.Namespace) -> int:
    output = Path(args.output)
    refuse(
        (output.is_dir(),
         f"--output {output}: expected a file name that ends in .png, found a folder"),
        (output.suffix.lower() != ".png",
         f"--output {output}: expected a file name that ends in .png"),
        (args.images < 1, f"--images {args.images}: expected at least 1"),
        (args.score is not None and not 0 <= args.score <= 1,
         f"--score {args.score or 0:g}: expected 0 to 1, the model's confidence in its prediction"))
    detectron2_compat.apply()
    run_folder = Path(args.model)
    cfg, request = read_run(run_folder)
    if args.data:
        where = Where(Path(args.data), same_images=True, crowds_as_objects=args.crowds_as_objects)
        dataset = datasets.find(where, request["task"])
        model_file.check_classes(request["dataset"]["classes"], dataset)
        _, name = datasets.register(dataset)
        records, meta = list(DatasetCatalog.get(name)), MetadataCatalog.get(name)
    else:
        names, records, meta = list(walk_images(args.photos)), [], _names(cfg, request)
        refuse((not names,
                f"no images in {args.photos}: expected a folder of photographs, nested or flat"))
        for name in names:
            records.append({"file_name": str(Path(args.photos, name)), "image_id": name})
    records = choose(records, args.images, args.only)
    if args.sixteen_bit:
        cfg.INPUT.SIXTEEN_BIT = args.sixteen_bit
    model = load_model(run_folder, cfg, args.device)
    shown = tqdm(records, desc="show", unit="image", disable=not sys.stderr.isatty())
    drawing.write(drawing.draw_predicted(drawing.predicted(model, cfg, shown), cfg, meta, args.score), output)
    print(f"wrote {output}: {', '.join(Path(record['file_name']).name for record in records)}")
    return 0


def read_run(folder: Path) -> tuple[CfgNode, dict]:
    """Resolved config and request of a finished run; `UserError` for another folder."""
    missing = [name for name in ("config.yaml", "request.json", FINAL) if not (folder / name).is_file()]
    so_far = "it has no checkpoint"
    for path in sorted(folder.glob("model_*.pth")):
        so_far = f"its newest checkpoint is {path.name}"
    refuse(
        (not folder.is_dir(),
         f"{folder} is not a folder: expected one that `clove finetune` wrote"),
        (missing == [FINAL],
         f"{folder} holds a run that is not finished ({FINAL} is missing, {so_far}): run the same "
         "fine-tuning again to finish it"),
        (missing, f"{folder} has no {', '.join(missing)}: expected a folder that `clove "
                  "finetune` wrote"))
    return (model_file.read_config(folder / "config.yaml"),
            json.loads((folder / "request.json").read_text(encoding="utf-8")))


def load_model(folder: Path, cfg: CfgNode, device: str | None = None) -> nn.Module:
    """The finished model of a run, on `device` (default: cuda where there is one), in evaluation
    mode."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = present_device(device), ""
    norms.fit_to_evaluation(cfg)
    model = build_model(cfg)
    model_file.load(model, folder / FINAL, trust=False)
    return model.eval()


def choose(records: list[dict], number: int, only: str | None) -> list[dict]:
    """The records to draw: those named in `only` (file names, with or without folder, or ids),
    else the first `number` with objects, else the first."""
    if only is None:
        with_objects = [record for record in records if record.get("annotations", True)]
        return (with_objects or records)[:number]
    chosen = []
    named: dict[str, dict] = {}
    some = first_names([Path(record["file_name"]).name for record in records])
    for record in records:
        path = Path(record["file_name"])
        for name in (path.name, str(path), path.stem, str(record.get("image_id"))):
            named.setdefault(name, record)
    for name in [part.strip() for part in only.split(",") if part.strip()] or [only]:
        refuse((name not in named, f"--only {name}: none of the {len(records)} images has this "
                                   f"name or id; there are {some}"))
        chosen.append(named[name])
    return chosen


def _names(cfg: CfgNode, request: dict) -> Metadata:
    """Names of classes and keypoints for photographs, from the run's own records."""
    meta = Metadata(name="photographs", thing_classes=request["dataset"]["classes"])
    points = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS if cfg.MODEL.KEYPOINT_ON else 0
    if points == len(COCO_PERSON_KEYPOINT_NAMES):
        meta.set(keypoint_names=list(COCO_PERSON_KEYPOINT_NAMES),
                 keypoint_connection_rules=list(KEYPOINT_CONNECTION_RULES))
    return meta
