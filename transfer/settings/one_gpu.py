"""A fine-tuning at full size on GPUs: what one GPU does with the batch of eight by itself, and what a run will cost."""

from dataclasses import replace

from detectron2.config import CfgNode

from transfer import tasks
from transfer.settings import resolved_config
from transfer.settings.batch_scaling import PRESET_PARTS, chosen, images_at_once
from transfer.settings.request import Request
from transfer.tasks.task import V100_GPUS

BATCH = "SOLVER.IMS_PER_BATCH"


def fitted(request: Request, device: str) -> Request:
    """`request`; where it says nothing of how the batch fits and is of one GPU at full scale, it
    accumulates as with the schedule NAME_1gpu: COCO's whole batch wants 44 GB."""
    alone = device == "cuda" and request.num_gpus == 1 and request.scale == "full"
    schedule, said = chosen(request.schedule, request.fit)
    by_hand = any(override.partition("=")[0] == BATCH for override in request.overrides)
    if not alone or said is not None or by_hand:
        return request
    heads = request.heads or tasks.get(request.task).default_heads
    published = resolved_config.layers(request.task, heads, request.scale, schedule, request.solver)
    return replace(request, fit=f"accumulate={published.SOLVER.IMS_PER_BATCH // PRESET_PARTS}")


def cost(cfg: CfgNode, request: Request) -> list[str]:
    """What to say before a training of this config on GPUs begins; nothing at the small scales and
    on CPUs."""
    if cfg.MODEL.DEVICE != "cuda" or request.scale != "full":
        return []
    own, solver, at_once = tasks.get(request.task), cfg.SOLVER, images_at_once(cfg)
    share = at_once / own.table.batch / request.num_gpus  # of the published batch, on each GPU
    hours = own.v100_hours(solver.MAX_ITER * solver.IMS_PER_BATCH / own.table.batch) / request.num_gpus
    wanted = f" and {own.memory_gb * V100_GPUS * share:.0f} GB" if own.memory_gb else ""
    lines = [f"{solver.MAX_ITER:,} steps of {solver.IMS_PER_BATCH} images: about {hours:.0f} "
             f"hours{wanted} on each of {request.num_gpus} V100 (by detectron2's model zoo, not "
             "measured here)"]
    if at_once != solver.IMS_PER_BATCH:
        lines.append(f"{at_once} images at once, their gradients accumulated: batch, rate and "
                     f"schedule stay, batch norm sees {at_once} images; --fit "
                     f"accumulate={solver.IMS_PER_BATCH} takes the whole batch")
    return lines
