"""The start of a run on very many images, without their files: how long to the first batch, how much memory, and
whether the next epoch waits. Not a test itself.

python tests/pretrain/simulated_images.py FOLDER NUMBER writes the list of NUMBER names into FOLDER, unless it is there,
and then reads it in a process of its own with two loader processes. `measure` gives the figures as a dictionary.
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

IMAGE_OF = "class{:05d}/image_{:010d}.jpg"
IN_A_CLASS = 1000
AT_ONCE = 100_000
WORKERS, BATCH = 2, 8


def names(number: int) -> Iterator[str]:
    """So many paths, sorted; ImageNet's are as long."""
    return (IMAGE_OF.format(at // IN_A_CLASS, at) for at in range(number))


def write_list(folder: Path, number: int) -> float:
    """Write the list of a run, as NameTable.write(folder, "images", names(number)) does but many names at once;
    returns the seconds that it took."""
    from pretrain.data.name_table import BLOCK, MAGIC

    started, width = time.perf_counter(), len(IMAGE_OF.format(0, 0)) + 1
    digest, part = hashlib.sha256(), folder / "part"
    with open(part, "wb") as file:
        for first in range(0, number, AT_ONCE):
            at = np.arange(first, min(first + AT_ONCE, number))
            text = np.tile(np.frombuffer((IMAGE_OF.format(0, 0) + "\0").encode(), np.uint8), (len(at), 1))
            for digits, (start, count) in ((at // IN_A_CLASS, (5, 5)), (at, (17, 10))):
                for place in range(count):
                    text[:, start + count - 1 - place] += (digits // 10**place % 10).astype(np.uint8)
            digest.update(text.data)
            file.write(text.data)
        size = number * width
        file.write(bytes(-size % 8))
        starts = np.minimum(np.arange(number // BLOCK + 2) * BLOCK * width, size)
        file.write(starts.data)
        footer = json.dumps({"names": number, "sha256": digest.hexdigest(), "note": "",
                             "starts": size + -size % 8}).encode()
        file.write(footer + len(footer).to_bytes(8, "little") + MAGIC)
    part.rename(folder / f"images-{digest.hexdigest()[:16]}.names")
    return time.perf_counter() - started


def memory(process: int) -> dict[str, float]:
    """MB of a process: resident, and of that private."""
    lines = dict(line.split(":") for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:])
    kilobytes = {key: int(value.split()[0]) for key, value in lines.items()}
    return {"rss": kilobytes["Rss"] / 1000,
            "private": (kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]) / 1000}


def read_list(folder: Path) -> dict:
    """What a training process sees: its own memory beyond the imports, that of its loader processes, and times in
    seconds: to the first batch, the longest wait for a later one of the epoch, and the wait for the next epoch's."""
    import io

    import torch
    from PIL import Image

    from pretrain.config import load_config
    from pretrain.data.batches import make_loader, open_list, steps_per_epoch
    from pretrain.data.name_table import NameTable
    from pretrain.distributed import Process

    file = io.BytesIO()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(file, "jpeg")
    config = load_config(None, {
        "variant": "paper", "global_size": 48, "local_size": 32, "local_views": 1, "batch_size": BATCH,
        "device_batch": BATCH, "workers": WORKERS})
    imports = memory(os.getpid())
    started = time.perf_counter()
    images = open_list(folder, NameTable.open(next(folder.glob("images-*.names"))))
    images.read = lambda number: images[number] and file.getvalue()  # the name is looked up, the file is one
    per_epoch = steps_per_epoch(len(images), config.train)
    alone = Process(0, 1, torch.device("cpu"))
    before = min(20, per_epoch)  # steps of the first epoch, its last ones
    loader = make_loader(images, config, range(per_epoch - before, per_epoch + 20), alone)
    waits = []
    for _ in range(before + 20):
        since = time.perf_counter()
        next(loader)
        waits.append(time.perf_counter() - since)
        if len(waits) == 1:
            first = time.perf_counter() - started
    children = [memory(int(child)) for child in
                Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()]
    own = memory(os.getpid())
    return {"images": len(images), "first batch": first, "longest wait": max(waits[1:before]),
            "next epoch": max(waits[before:before + WORKERS + 1]),
            "imports": imports, "main": {key: own[key] - imports[key] for key in own},
            "loaders": children}


def measure(folder: Path, number: int) -> dict:
    """The figures of `read_list` in a fresh process, and the seconds that writing the list took."""
    written = 0.0 if list(folder.glob("images-*.names")) else write_list(folder, number)
    done = subprocess.run([sys.executable, "-P", __file__, str(folder)], capture_output=True, text=True, check=True)
    return {"written": written, **json.loads(done.stdout.splitlines()[-1])}


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2])), indent=1))
    else:
        print(json.dumps(read_list(Path(sys.argv[1]))))
