"""A picture of what a finished fine-tuning detects: on its validation data beside the truth, or on any photographs.

`python -m transfer show --model RUN_FOLDER --data DIR --output FILE.png`
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

from pretrain.common.errors import UserError
from pretrain.data.images import walk_images
from pretrain.data.pixels import SIXTEEN_BIT, UnreadableImage, read_pixels
from pretrain.distributed import present_device
from transfer import detectron2_compat
from transfer.finetuning import drawing
from transfer.finetuning.checkpoints import FINAL
from transfer.finetuning.mapper import sixteen_bit
from transfer.settings import datasets, norms
from transfer.trained import model_file

SHOWN = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m transfer show`."""
    parser.add_argument("--model", required=True, metavar="DIR", help="folder of a finished `finetune`")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--data", metavar="DIR",
                       help="annotated images: the validation half, truth left, predictions right")
    where.add_argument("--photos", metavar="DIR", help="any folder of images: predictions alone")
    parser.add_argument("--output", required=True, metavar="FILE.png")
    parser.add_argument("--images", type=int, default=SHOWN, metavar="N",
                        help="how many: the first with objects, or the first photographs (default: %(default)s)")
    parser.add_argument("--only", metavar="A,B", help="these instead: file names, or ids of the annotation file")
    parser.add_argument("--score", type=float, metavar="T",
                        help=f"draw predictions with this score or more, 0 to 1 (default: {drawing.SCORE}, and the "
                             f"best {drawing.FALLBACK} where none reaches it)")
    parser.add_argument("--sixteen-bit", choices=SIXTEEN_BIT,
                        help="how 16-bit images are read (default: as the run's config says)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")


def run(args: argparse.Namespace) -> int:
    """Do what the options say; returns the exit code."""
    output = Path(args.output)
    if output.is_dir() or output.suffix.lower() != ".png":
        raise UserError(f"--output {output}: expected a file name that ends in .png"
                        f"{', found a folder' if output.is_dir() else ''}")
    if args.images < 1:
        raise UserError(f"--images {args.images}: expected at least 1")
    if args.score is not None and not 0 <= args.score <= 1:
        raise UserError(f"--score {args.score:g}: expected 0 to 1, the share that the model gives its own prediction")
    detectron2_compat.apply()
    run_folder = Path(args.model)
    cfg, request = read_run(run_folder)
    if args.data:
        records, meta = _annotated(args.data, request, run_folder)
    else:
        records, meta = _photographs(args.photos), _names(cfg, request)
    records = choose(records, args.images, args.only)
    if args.sixteen_bit:
        cfg.INPUT.SIXTEEN_BIT = args.sixteen_bit
    _check_readable(records, sixteen_bit(cfg))
    model = load_model(run_folder, cfg, args.device)
    choice = drawing.Choice() if args.score is None else drawing.Choice(args.score, fallback=False)
    with tqdm(total=len(records), desc="show", unit="image", disable=not sys.stderr.isatty()) as bar:
        drawing.draw_records(model, cfg, records, meta, output, choice, bar.update)
    print(f"wrote {output}: {', '.join(Path(record['file_name']).name for record in records)}")
    return 0


def read_run(folder: Path) -> tuple[CfgNode, dict]:
    """Resolved config and request of a finished run; raises `UserError` for a folder that is none."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: expected one that `python -m transfer finetune` wrote")
    missing = [name for name in ("config.yaml", "request.json", FINAL) if not (folder / name).is_file()]
    if missing == [FINAL]:
        done = sorted(folder.glob("model_*.pth"))
        so_far = f"its newest checkpoint is {done[-1].name}" if done else "it has no checkpoint"
        raise UserError(f"{folder} holds a run that is not finished ({FINAL} is missing, {so_far}): start the same "
                        "fine-tuning again to finish it")
    if missing:
        raise UserError(f"{folder} has no {', '.join(missing)}: expected a folder that `python -m transfer finetune` "
                        "wrote")
    try:
        request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
        request["task"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / 'request.json'} is damaged ({type(error).__name__}: {error}): expected what "
                        "`python -m transfer finetune` wrote") from None
    return model_file.read_config(folder / "config.yaml"), request


def load_model(folder: Path, cfg: CfgNode, device: str | None = None) -> nn.Module:
    """The finished model of a run, on `device` (default: cuda where there is one), in evaluation mode."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = present_device(device)
    cfg.MODEL.WEIGHTS = ""
    norms.fit_to_evaluation(cfg)
    model = build_model(cfg)
    model_file.load(model, folder / FINAL, trust=False)
    return model.eval()


def choose(records: list[dict], number: int, only: str | None) -> list[dict]:
    """The records to draw: those named in `only` (file names, with or without folder, or ids), else the first `number`
    with objects, else the first."""
    if only is None:
        with_objects = [record for record in records if record.get("annotations", True)]
        return (with_objects or records)[:number]
    chosen = []
    for word in filter(None, (part.strip() for part in only.split(","))):
        found = [record for record in records if word in (Path(record["file_name"]).name, record["file_name"],
                                                          Path(record["file_name"]).stem, str(record.get("image_id")))]
        if not found:
            some = ", ".join(Path(record["file_name"]).name for record in records[:3])
            raise UserError(f"--only {word}: none of the {len(records)} images has this name or id; there are {some}"
                            f"{', ...' if len(records) > 3 else ''}")
        chosen += found[:1]
    if not chosen:
        raise UserError("--only is empty: expected file names or ids, separated by commas")
    return chosen


def _annotated(data: str, request: dict, folder: Path) -> tuple[list[dict], Metadata]:
    dataset = datasets.find(data, request["task"])
    own = request["dataset"]["classes"]
    if list(dataset.classes) != own:
        raise UserError(f"{folder} was trained on {len(own)} classes ({', '.join(own[:3])}, ...), {data} has "
                        f"{len(dataset.classes)} ({', '.join(dataset.classes[:3])}, ...): expected the same classes; "
                        "--photos shows predictions on any images")
    _, name = datasets.register(dataset)
    return DatasetCatalog.get(name), MetadataCatalog.get(name)


def _photographs(photos: str) -> list[dict]:
    names = list(walk_images(photos))
    if not names:
        raise UserError(f"no images in {photos}: expected a folder of photographs, nested or flat")
    return [{"file_name": str(Path(photos, name)), "image_id": name} for name in names]


def _check_readable(records: list[dict], mode: str) -> None:
    for record in records:
        try:
            read_pixels(record["file_name"], mode)
        except UnreadableImage as error:
            raise UserError(f"{record['file_name']}: {error}; take it out, or name others with --only") from None


def _names(cfg: CfgNode, request: dict) -> Metadata:
    """Names of classes and keypoints for photographs, from what the run says of itself."""
    meta = Metadata(name="photographs", thing_classes=request["dataset"]["classes"])
    points = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS if cfg.MODEL.KEYPOINT_ON else 0
    if points == len(COCO_PERSON_KEYPOINT_NAMES):
        meta.set(keypoint_names=list(COCO_PERSON_KEYPOINT_NAMES),
                 keypoint_connection_rules=list(KEYPOINT_CONNECTION_RULES))
    return meta
