"""One frozen configuration in two halves: what changes the numbers, and what does not.

Values are set in this order, each over the one before: the defaults below (the 200-epoch ImageNet run), the preset of
the variant, the recipe file, the command line. An unknown key or a value of the wrong type is a `UserError` that names
the nearest valid key. The help texts of the fields are the help texts of the command line.

`paper` follows the poster; `released` follows the authors' released code (sthalles/CLoVE d706573), so that its curves
can be compared. Every difference between them is one value, listed in `VARIANTS`.
"""

import argparse
import dataclasses
import difflib
import hashlib
import json
import math
import types
import typing
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from pretrain import yaml_text
from pretrain.errors import UserError

RECIPES = Path(__file__).parent / "recipes"
LARGEST = 2 ** 31  # of whole numbers: more is a slip of the keyboard, and would overflow a size somewhere


def _value(default: Any, help_text: str) -> Any:
    return field(default=default, metadata={"help": help_text})


@dataclass(frozen=True)
class Numbers:
    """What changes the numbers: this half is hashed into a run's identity."""

    variant: Literal["paper", "released"] = _value("paper", "preset: the poster's algorithm or the released code's")
    seed: int = _value(0, "initialisation, order of images and every random draw of a view")
    epochs: int = _value(200, "passes over the images")
    batch_size: int = _value(2048, "images in one optimizer step, over all devices and accumulation")
    precision: Literal["fp32", "bf16", "fp16"] = _value("fp16", "automatic mixed precision; the loss is fp32 always")

    architecture: Literal["resnet18", "resnet34", "resnet50"] = _value("resnet50", "encoder")
    last_stage_stride: Literal[1, 2] = _value(2, "stride of the last ResNet stage; 1 doubles the grid of small views")
    projector_hidden: int = _value(4096, "channels of the projector's hidden layer")
    projector_dim: int = _value(256, "channels of a local embedding")
    heads: int = _value(8, "attention heads")
    attention: Literal["plain", "normalized", "none"] = _value(
        "plain", "plain: released attention; normalized: L2-normalised queries and keys; none: ablation")
    attention_temperature: float = _value(0.2, "temperature of the normalized attention (plain uses 1/sqrt(d))")

    global_views: int = _value(2, "views that student and teacher see")
    local_views: int = _value(6, "views that only the student sees")
    global_size: int = _value(224, "pixels a side of a global view")
    local_size: int = _value(96, "pixels a side of a local view")
    global_scale: tuple[float, float] = _value((0.2, 1.0), "area of a global view as a share of the image")
    local_scale: tuple[float, float] = _value((0.08, 0.3), "area of a local view as a share of the image")
    colour_on: Literal["loader", "device"] = _value(
        "loader", "where colour, blur and solarize are computed: in the loader processes, or on the training device "
                  "(same draws, pixels off by a level or so; needs half the loader processes)")
    box_frame: Literal["edges", "pixel_centres"] = _value(
        "edges", "a view's box: crop edges / image side, or the released (pixel index) / (side - 1)")

    t_pos: float = _value(0.7, "cells closer than this are a positive pair (eq. 1)")
    t_pos_unit: Literal["cell_diagonal", "cell_diagonal_fraction", "pixel"] = _value(
        "cell_diagonal", "of t_pos: larger cell diagonal with lengths in source pixels (a reading of the poster); the "
                         "same with each axis as a fraction of its image side (released); source pixels (literal)")
    lambda_pos: float = _value(2.0, "lambda of eq. 2, weight of the positive cosine")
    mu: float = _value(50.0, "margin mu of eq. 2 (released: margin 100 times 1/2)")
    k: int = _value(10, "top-k teacher vectors the negative is made of; the first is dropped")
    negatives_exclude: Literal["top1", "positives_and_top1"] = _value(
        "top1", "what may not be a negative: the most similar cell (poster), or all positives too (released)")
    negative_similarity: Literal["mean_vector", "mean_cosine"] = _value(
        "mean_vector", "cosine with the mean of the k-1 vectors (poster) or mean of their cosines (released)")
    hinge: Literal["pair", "image"] = _value("pair", "hinge per positive pair (poster) or per image (released)")
    negative_queries: Literal["matched", "all"] = _value(
        "matched", "cells whose negatives count: those with a positive, or all of the view (released); read with hinge "
                   "image alone, a pair has its cell")
    too_few_negatives: Literal["use_left", "zero"] = _value(
        "use_left", "fewer than k candidates: average what is left, or the image's term is 0 (released)")
    reduction: Literal["mean", "sum"] = _value(
        "mean", "over the pairs of one image and view pair: mean, or the poster's literal sum")
    loss_scale: float = _value(1.0, "constant factor (released: 2)")

    base_lr: float = _value(1.0, "LARS rate per 256 images of batch_size")
    weight_decay: float = _value(2e-5, "on tensors of more than one dimension")
    sgd_momentum: float = _value(0.9, "momentum inside LARS")
    trust: float = _value(1e-3, "trust coefficient of LARS")
    warmup_epochs: float = _value(5.0, "linear warm-up from lr/100")
    final_lr: float = _value(0.01, "last rate as a share of the peak (cosine)")
    teacher_momentum: float = _value(0.99, "EMA momentum at the start; cosine to 1")
    ema_timing: Literal["after_step", "before_step"] = _value(
        "after_step", "teacher update after the optimizer step, or one step behind (released)")
    max_corrupt_share: float = _value(0.02, "stop when more than this share of the images cannot be read")


@dataclass(frozen=True)
class Machine:
    """What does not change the numbers: where and how a run is done and what is written down."""

    device: Literal["auto", "cpu", "cuda"] = _value("auto", "auto: CUDA when there is a GPU")
    device_batch: int = _value(128, "images that a process takes through the network at once, at most; accumulation "
                                    "makes up the rest of batch_size, whatever devices there are")
    workers: int = _value(4, "loader processes for each device; 0 loads in the training process")
    log_every: int = _value(20, "steps between two lines of metrics.jsonl and TensorBoard")
    checkpoint_every: int = _value(600, "steps between two checkpoints")
    keep_checkpoints: int = _value(2, "newest checkpoints that stay on disk")
    archive_every: int = _value(0, "steps between two checkpoints that stay for good, a multiple of checkpoint_every "
                                   "(0: none)")
    probe_every: int = _value(600, "steps between two probes: retrieval, spread of the features, k-NN "
                                   "(0: at the start and at the end)")
    probe_images: int = _value(64, "images the retrieval probe looks at")
    knn_images: int = _value(0, "labelled images (CLASS/IMAGE) of the k-NN probe; 0: none. Each process holds them, "
                                "150 kB an image at 224 pixels")
    channels_last: bool = _value(True, "memory format of the encoder")
    compile: bool = _value(False, "torch.compile for student and teacher: minutes at the start, faster steps on a GPU")
    nonfinite_limit: int = _value(5, "NaN or inf losses in a row that end the run; each is skipped and counted")


VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "released": {
        "box_frame": "pixel_centres",
        "t_pos_unit": "cell_diagonal_fraction",
        "negatives_exclude": "positives_and_top1",
        "negative_similarity": "mean_cosine",
        "hinge": "image",
        "negative_queries": "all",
        "too_few_negatives": "zero",
        "loss_scale": 2.0,
        "ema_timing": "before_step",
    },
}


@dataclass(frozen=True)
class Config:
    """A resolved configuration: `numbers` and `machine`."""

    numbers: Numbers = Numbers()
    machine: Machine = Machine()

    def hash(self) -> str:
        """SHA-256 over the half that changes the numbers."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self.numbers), sort_keys=True).encode()).hexdigest()


HALVES: dict[str, type] = {"numbers": Numbers, "machine": Machine}
KEYS: dict[str, str] = {f.name: half for half, cls in HALVES.items() for f in fields(cls)}


def add_options(group: argparse._ActionsContainer, cls: type) -> None:
    """One command-line option for each value of a half."""
    for one in fields(cls):
        default = one.default
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        group.add_argument(f"--{one.name.replace('_', '-')}", dest=one.name, default=None, metavar="X",
                           nargs=2 if isinstance(default, tuple) else None,
                           help=f"{one.metadata['help'].replace('%', '%%')} (default {shown})")


def given_options(args: argparse.Namespace, *halves: type) -> dict[str, Any]:
    """The values of `add_options` that were given."""
    return {one.name: getattr(args, one.name) for cls in halves for one in fields(cls)
            if getattr(args, one.name) is not None}


def load_config(recipe: str | Path | None = None, overrides: dict[str, Any] | None = None) -> Config:
    """Resolve a recipe (a name in pretrain/recipes or a YAML file) and flat `overrides` {key: value or text}."""
    from_recipe = _flatten(read_recipe(recipe), recipe) if recipe is not None else {}
    given = from_recipe | _typed(overrides or {}, "on the command line")
    preset = VARIANTS[given.get("variant", "paper")]
    return _checked(_build(preset | given))


def read_recipe(recipe: str | Path) -> dict[str, Any]:
    """The raw mapping of a recipe file."""
    path = Path(recipe)
    if path.suffix not in (".yaml", ".yml"):
        path = RECIPES / f"{recipe}.yaml"
    if not path.is_file():
        known = ", ".join(recipe_names())
        raise UserError(f"no recipe {recipe!r}: expected a YAML file or one of {known}")
    try:
        raw = yaml_text.load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:  # no UTF-8, a date that no calendar has
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected a mapping with the sections numbers and machine, found {type(raw).__name__}")
    return raw


def recipe_names() -> list[str]:
    """Names of the recipes that come with the project."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def _flatten(raw: dict[str, Any], source: str | Path) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for section, values in raw.items():
        if section not in HALVES:
            raise UserError(f"recipe {source}: unknown section {section!r}, expected numbers or machine")
        if not isinstance(values, dict):
            raise UserError(f"recipe {source}: section {section} must be a mapping, found {type(values).__name__}")
        for key in values:
            if key in KEYS and KEYS[key] != section:
                raise UserError(f"recipe {source}: {key} belongs into section {KEYS[key]}, found in {section}")
        flat |= values
    return _typed(flat, f"in recipe {source}")


def _typed(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Each value as its field's type; text from a command line is read as the type wants it."""
    result = {}
    for key, value in values.items():
        if key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, n=1, cutoff=0.0)[0]
            raise UserError(f"unknown key {key!r} {where}; the nearest valid key is {near!r}")
        wanted = typing.get_type_hints(HALVES[KEYS[key]])[key]
        try:
            result[key] = _convert(value, wanted)
        except (TypeError, ValueError, OverflowError):
            found = f"{value!r:.60}"  # four hundred digits say no more
            raise UserError(f"{key} {where}: expected {_describe(wanted)}, found {found}") from None
    return result


def _convert(value: Any, wanted: Any) -> Any:
    origin = typing.get_origin(wanted)
    if origin is Literal:
        for choice in typing.get_args(wanted):
            if (value == choice and type(value) is type(choice)) or (isinstance(value, str) and value == str(choice)):
                return choice
        raise ValueError
    if origin is tuple:
        parts = value.replace(",", " ").split() if isinstance(value, str) else list(value)
        if len(parts) != len(typing.get_args(wanted)):
            raise ValueError
        return tuple(_convert(part, one) for part, one in zip(parts, typing.get_args(wanted), strict=True))
    if wanted is bool:
        if isinstance(value, bool):
            return value
        return {"true": True, "false": False}[value.lower()] if str(value).lower() in ("true", "false") else int("x")
    if isinstance(value, bool):
        raise ValueError
    if wanted is float:
        if not math.isfinite(float(value)):
            raise ValueError
        return float(value)
    if wanted is int:
        if (isinstance(value, float) and not value.is_integer()) or abs(int(value)) >= LARGEST:
            raise ValueError
        return int(value)
    raise TypeError


def _describe(wanted: Any) -> str:
    if typing.get_origin(wanted) is Literal:
        return "one of " + ", ".join(str(choice) for choice in typing.get_args(wanted))
    if typing.get_origin(wanted) is tuple:
        return f"{len(typing.get_args(wanted))} numbers"
    if isinstance(wanted, types.UnionType):
        return str(wanted)
    return {"int": f"a whole number below {LARGEST}", "float": "a number", "bool": "true or false"}[wanted.__name__]


def _build(flat: dict[str, Any]) -> Config:
    halves = {half: {k: v for k, v in flat.items() if KEYS[k] == half} for half in HALVES}
    return Config(replace(Numbers(), **halves["numbers"]), replace(Machine(), **halves["machine"]))


def _checked(config: Config) -> Config:
    n, m = config.numbers, config.machine
    positive = ("epochs", "batch_size", "projector_hidden", "projector_dim", "heads", "global_views",
                "global_size", "local_size", "t_pos", "attention_temperature", "base_lr", "trust", "loss_scale")
    for key in positive:
        if getattr(n, key) <= 0:
            raise UserError(f"{key} must be above 0, found {getattr(n, key)}")
    for key in ("device_batch", "log_every", "checkpoint_every", "keep_checkpoints", "probe_images", "nonfinite_limit"):
        if getattr(m, key) < 1:
            raise UserError(f"{key} must be at least 1, found {getattr(m, key)}")
    for key, low in (("seed", 0), ("local_views", 0), ("warmup_epochs", 0), ("weight_decay", 0)):
        if getattr(n, key) < low:
            raise UserError(f"{key} must be at least {low}, found {getattr(n, key)}")
    if m.knn_images < 0 or 0 < m.knn_images < 4:
        raise UserError(f"knn_images must be 0 or at least 4 (two of each of two classes), found {m.knn_images}")
    for key in ("workers", "probe_every", "archive_every"):
        if getattr(m, key) < 0:
            raise UserError(f"{key} must be at least 0, found {getattr(m, key)}")
    if n.global_views < 2:
        raise UserError(f"global_views must be at least 2, found {n.global_views}: a view is compared with another one")
    one_cell = n.local_size <= (32 if n.last_stage_stride == 2 else 16)
    if n.local_views == 1 and one_cell and 1 in (n.batch_size, m.device_batch):
        raise UserError(f"a single local view of {n.local_size} pixels, one image at once: batch norm would see one "
                        "value; use a larger --local-size, --device-batch or more --local-views")
    cells = math.ceil(n.global_size / (16 * n.last_stage_stride)) ** 2
    needed = n.k if n.too_few_negatives == "zero" else 2
    if cells < needed:
        raise UserError(f"global_size {n.global_size} gives {cells} teacher cell{'s' * (cells > 1)}, expected at least "
                        f"{needed} (k {n.k}, too_few_negatives {n.too_few_negatives}): without negatives the loss is 0")
    if n.k < 2:
        raise UserError(f"k must be at least 2, found {n.k}: the most similar one of the k is dropped")
    if m.archive_every % m.checkpoint_every:
        raise UserError(f"archive_every must be a multiple of checkpoint_every, found {m.archive_every} and "
                        f"{m.checkpoint_every}")
    if n.projector_dim % n.heads:
        raise UserError(f"projector_dim must be a multiple of heads, found {n.projector_dim} and {n.heads}")
    for key in ("global_scale", "local_scale"):
        low, high = getattr(n, key)
        if not 0 < low <= high <= 1:
            raise UserError(f"{key} must be two shares with 0 < low <= high <= 1, found {low} and {high}")
    for key in ("teacher_momentum", "sgd_momentum", "final_lr", "max_corrupt_share"):
        if not 0 <= getattr(n, key) <= 1:
            raise UserError(f"{key} must lie between 0 and 1, found {getattr(n, key)}")
    if n.warmup_epochs > n.epochs:
        raise UserError(f"warmup_epochs must not exceed epochs, found {n.warmup_epochs} and {n.epochs}")
    return config
