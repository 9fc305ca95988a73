"""What is missing or wrong is told before anything runs, all at once."""

import re
import shutil

import pytest
import torch
import torchvision

from benchmarks.demo import demo_data
from benchmarks.options.inputs import Photos
from benchmarks.options.run_options import parse
from benchmarks.stages import estimate
from benchmarks.stages.checked_inputs import find_inputs, find_protocols
from pretrain.common.atomic import sha256_file
from pretrain.common.errors import UserError
from transfer.settings.request import SCALES
from transfer.tasks import TASKS

FULL = ["--methods", "rand", "--tasks", "coco,keypoints"]


def test_plan__missing_inputs_are_told_all_at_once(monkeypatch, tmp_path):
    for name in ("IMAGENET_DIR", "DETECTRON2_DATASETS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError) as error:
        find_inputs(parse(["--epochs", "200", "--coco", str(tmp_path / "none")]))
    text = str(error.value)
    assert text.startswith("4 inputs missing or wrong, nothing was run:")
    for words in ("IMAGENET_DIR/train/CLASS", "task coco", "task keypoints", "task cityscapes: give --cityscapes DIR",
                  "leftImg8bit", "annotations/instances_train*.json"):
        assert words in text



def test_plan__images_of_sub_folders_are_listed_once_for_each(monkeypatch, tmp_path):
    assert demo_data.main(["--output", str(tmp_path / "data"), "--photos", "4", "--train", "2", "--val", "2"]) is None
    photos = tmp_path / "data" / "photos"
    (photos / "labelled").mkdir()
    for number, path in enumerate(sorted(photos.glob("*.jpg"))[:2]):
        shutil.copy(path, photos / "labelled" / f"class {number}__{path.name}")
    words = ["--photos", str(photos), "--tasks", "coco", "--coco", str(tmp_path / "data" / "coco"), "--scale", "tiny",
             "--pretrain", "all=tiny", "--pretrain", "half=tiny,images=labelled,batch_size=2",
             "--pretrain", "supervised=tiny,images=labelled,objective=supervised,labels=prefix,batch_size=2"]
    listed = []
    monkeypatch.setattr("benchmarks.options.inputs.read_photos", lambda folder, labels: listed.append(
        (folder, labels)) or Photos(folder, 6 if folder == photos else 2, "0" * 64))
    assert find_inputs(parse(words)).photos["labelled"].images == 2
    assert listed == [(photos, []), (photos / "labelled", ["prefix"])]
    monkeypatch.undo()
    assert {part: one.images for part, one in find_inputs(parse(words)).photos.items()} == {"": 6, "labelled": 2}
    shutil.rmtree(photos / "labelled")
    with pytest.raises(UserError) as error:
        find_inputs(parse(words))
    assert (f"  - pretraining images: images=labelled: {photos / 'labelled'} is not a folder; expected a sub-folder of "
            f"{photos}\n") in str(error.value)
    with pytest.raises(UserError, match="images in .*/few: expected at least one batch of 4, found 2; use "):
        (photos / "few").mkdir()
        for path in sorted(photos.glob("*.jpg"))[:2]:
            shutil.copy(path, photos / "few")
        find_inputs(parse([*words[:8], "--pretrain", "few=tiny,images=few"]))
    with pytest.raises(UserError, match="^images=few: the demo's generated images lie in one folder; leave it out"):
        find_inputs(parse(["--tiny", "--pretrain", "few=tiny,images=few"]))


def test_plan__head_families_are_for_fpn_tasks():
    with pytest.raises(UserError, match="task voc: --heads 2fc: task voc has a C4 backbone, whose head is res5 itself"):
        find_inputs(parse(["--demo", "--tasks", "coco,voc", "--heads", "2fc"]))



@pytest.mark.parametrize("task", TASKS)
def test_protocols__are_what_transfer_resolves(task):
    from transfer.settings import resolved_config

    full = parse(["--methods", "rand", "--tasks", task])
    heads = TASKS[task].default_heads
    resolved = resolved_config.layers(task, heads, "full").SOLVER
    assert find_protocols(full)[task].iterations == resolved.MAX_ITER
    assert find_protocols(full)[task].batch == resolved.IMS_PER_BATCH
    shorter = parse(["--methods", "rand", "--tasks", task, "--set", f"{task}.SOLVER.MAX_ITER=100000"])
    assert find_protocols(shorter)[task].iterations == 100_000
    assert SCALES == resolved_config.SCALES
    for scale in SCALES:
        scaled = parse(["--methods", "rand", "--tasks", task, "--scale", scale])
        small = resolved_config.layers(task, heads, scale).SOLVER
        found = find_protocols(scaled)[task]
        assert (found.iterations, found.batch) == (small.MAX_ITER, small.IMS_PER_BATCH)
    cost = estimate.finetuning(task, find_protocols(full)[task], "resnet50", 0).words
    assert re.fullmatch(r"about \d+ V100-hours \(model zoo's speed\)", cost)



def test_plan__environment_variables_name_the_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("IMAGENET_DIR", str(tmp_path / "in1k"))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "d2"))
    with pytest.raises(UserError) as error:
        find_inputs(parse(["--epochs", "200"]))
    for place in ("in1k/train", "d2/coco", "d2/cityscapes"):
        assert str(tmp_path / place) in str(error.value)



@pytest.mark.parametrize(("word", "text"), [
    ("coco.SOLVER.MAXITER=3", "task coco: --set SOLVER.MAXITER=3: detectron2's config has no key SOLVER.MAXITER; "
                              "the nearest is SOLVER.MAX_ITER"),
    ("transfer.SOLVER.MAX_ITER=soon", "task coco: --set SOLVER.MAX_ITER=soon: SOLVER.MAX_ITER is 40 by default"),
])
def test_plan__a_wrong_value_of_a_task_is_told_before_anything_runs(tmp_path, word, text):
    with pytest.raises(UserError, match=text):
        find_inputs(parse(["--demo", "--output", str(tmp_path), "--set", word]))



def test_plan__a_fit_that_does_not_divide_is_told_before_anything_runs(tmp_path):
    with pytest.raises(UserError, match="task coco: accumulate=3 does not fit a batch of 2: expected a number that"):
        find_inputs(parse(["--demo", "--output", str(tmp_path), "--fit", "accumulate=3"]))



@pytest.mark.parametrize(("words", "text"), [
    (["--schedule", "3x"], "task coco: unknown --schedule '3x' for task coco: expected one of 1x, 2x"),
    (["--solver", "vicreg"], "task keypoints: unknown --solver 'vicreg' for task keypoints: expected one of common"),
    (["--schedule", "1x_1gpu", "--fit", "linear=4"], "--schedule 1x_1gpu and --fit linear=4 both say"),
    (["--schedule", "1x", "--scale", "mini"], "--schedule 1x: scale mini has a length and a solver of its own"),
])
def test_schedule_and_solver__what_a_task_has_not_is_told_before_anything_runs(words, text):
    with pytest.raises(UserError) as error:
        find_protocols(parse([*FULL, *words]))
    assert text in str(error.value)



def test_plan__every_checkpoint_is_read_before_anything_runs(tmp_path):
    assert demo_data.main(["--output", str(tmp_path / "data"), "--photos", "1", "--train", "2", "--val", "2"]) is None
    good, bad = tmp_path / "good.pth", tmp_path / "bad.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), good)
    bad.write_bytes(b"<html>")
    where = ["--tasks", "coco", "--scale", "tiny", "--coco", str(tmp_path / "data" / "coco")]
    with pytest.raises(UserError) as caught:
        find_inputs(parse(["--checkpoint", f"good={good}", "--checkpoint", f"bad={bad}", "--checkpoint",
                                 f"worse={bad}", *where]))
    lines = str(caught.value).splitlines()
    assert lines[0] == "2 inputs missing or wrong, nothing was run:"
    assert [line.split(": ")[0] for line in lines[1:3]] == ["  - checkpoint bad", "  - checkpoint worse"]
    found = find_inputs(parse(["--checkpoint", f"good={good}", *where]))
    assert found.checkpoints == {"good": sha256_file(good)}
    with pytest.raises(UserError, match="checkpoint good: expected one of the branches of .*, found 'teacher'"):
        find_inputs(parse(["--checkpoint", f"good={good}", "--branch", "teacher", *where]))



def test_plan__annotations_that_lie_otherwise(tmp_path):
    demo_data.main(["--output", str(tmp_path / "data"), "--photos", "1", "--train", "2", "--val", "2"])
    coco = tmp_path / "data" / "coco"
    train, val = (coco / "annotations" / f"instances_{half}.json" for half in ("train", "val"))
    words = f"{train.rename(tmp_path / 't.json')},{val.rename(tmp_path / 'v.json')},{coco / 'images'}"
    shutil.rmtree(coco / "annotations")
    scale = ["--methods", "rand", "--scale", "tiny"]
    options = parse([*scale, "--tasks", "coco", "--coco", f"own={words}"])
    [data] = find_inputs(options).data["coco"]
    assert data.arguments() == ["--data", coco / "images", "--train-annotations", tmp_path / "t.json",
                                "--val-annotations", tmp_path / "v.json"]
    assert (data.label, data.train_images, data.val_images) == ("own", 2, 2)
    with pytest.raises(UserError, match=r"task cityscapes: .*: the annotations of task cityscapes are not one file "
                                        r"for each half; give --data DIR, laid out as "):
        find_inputs(parse([*scale, "--tasks", "cityscapes", "--cityscapes", words]))
    with pytest.raises(UserError, match="task coco: --val-annotations .*none.json is not a file: expected an anno"):
        find_inputs(parse([*scale, "--tasks", "coco", "--coco", words.replace("v.json", "none.json")]))


def test_plan__images_without_a_class_are_told_before_anything_runs(tmp_path):
    demo_data.main(["--output", str(tmp_path / "data"), "--photos", "8", "--train", "2", "--val", "2"])
    photos, coco = tmp_path / "data" / "photos", tmp_path / "data" / "coco"
    with pytest.raises(UserError) as caught:
        find_inputs(parse(["--pretrain", "a=tiny,objective=supervised,labels=prefix", "--photos", str(photos),
                                 "--tasks", "coco", "--scale", "tiny", "--coco", str(coco)]))
    first, line, *_ = str(caught.value).splitlines()
    assert first == "1 input missing or wrong, nothing was run:"
    assert line.startswith(f"  - pretraining images in {photos}: labels prefix: expected CLASS__IMAGE for every image")
    with pytest.raises(UserError, match="^labels folder: the demo's generated images have no classes; leave it out"):
        find_inputs(parse(["--demo", "--pretrain", "a=demo,objective=supervised,labels=folder"]))
