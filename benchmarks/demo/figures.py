"""People-like figures with the 17 COCO keypoints: a puppet, drawn from its joints.

The figures face the viewer, so a figure's left is on the right of the image. A keypoint is visible
(2) when its pixel shows the figure, hidden (1) when another figure is in front, and 0 outside.
"""

import numpy as np
from PIL import Image

from benchmarks.demo import masking, painting
from benchmarks.demo.painting import Canvas, Outline, Texture

KEYPOINTS = [
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
]
SKELETON = [
    [16, 14], [14, 12], [17, 15], [15, 13], [12, 13], [6, 12], [7, 13], [6, 7], [6, 8], [7, 9], [8, 10], [9, 11],
    [2, 3], [1, 2], [1, 3], [2, 4], [3, 5], [4, 6], [5, 7],
]
CATEGORY = {"supercategory": "person", "id": 1, "name": "person", "keypoints": KEYPOINTS, "skeleton": SKELETON}
SIZES = [(160, 120), (120, 160), (144, 128)]  # width, height
SKINS = [(246, 206, 174), (214, 160, 120), (165, 110, 75), (110, 72, 50)]
# Outwards and upwards of the middle of the hips, in shares of the height; a limb's end: of its beginning, and how far
# it is moved at random.
POSE = {"eye": (0.036, 0.44), "ear": (0.078, 0.425), "shoulder": (0.115, 0.3), "hip": (0.062, 0.0)}
LIMBS = (("hip", "knee", (0.05, -0.21), 0.05), ("knee", "ankle", (0.02, -0.21), 0.05),
         ("shoulder", "elbow", (0.12, -0.05), 0.1), ("elbow", "wrist", (0.07, 0.0), 0.13))
VISIBLE = 0.6  # what stays visible of each figure, at least

Parts = list[tuple[Outline, Texture]]
Joints = dict[str, np.ndarray]  # name of a keypoint -> x, y in pixels


def group(rng: np.random.Generator, index: int) -> tuple[Image.Image, list[dict]]:
    """An image of one to three figures and its COCO person annotations without ids."""
    width, height = SIZES[index % len(SIZES)]
    ground = [painting.hue(rng, rng.uniform(60, 260), 0, 0.25, value) for value in (0.5, 0.7, 0.9)]
    canvas = Canvas(width, height, painting.clouded(rng, width, height, ground))
    figures: list[Joints] = []
    masks: list[np.ndarray] = []
    wanted = int(rng.integers(1, 3 if width < height else 4))
    for attempt in range(60):
        if len(figures) == wanted:
            break
        tall, top = rng.uniform(0.68, 0.86) * height, rng.uniform(0.04, 0.12) * height
        if index % 3 == 2 and attempt == 0:  # close enough to be cut by the frame
            tall = 1.2 * height
        joints, parts = _figure(rng, rng.uniform(0.2, 0.8) * width, top, tall)
        mask = painting.covered([outline for outline, _ in parts], width, height)
        if painting.in_sight(mask, masks, VISIBLE):
            masks.append(mask)
            figures.append(joints)
            for outline, texture in parts:
                canvas.paint(outline, texture, owner=len(figures))
    owners = canvas.owner_map()
    annotations = []
    for number, joints in enumerate(figures, 1):
        annotations.append({"category_id": CATEGORY["id"], **masking.annotation(owners == number),
                            **_keypoints(joints, owners, number)})
    return canvas.picture(rng), annotations


def _keypoints(joints: Joints, owners: np.ndarray, figure: int) -> dict:
    """COCO's flat [x, y, v, ...] (x and y: pixel indices) and the count of labelled keypoints."""
    height, width = owners.shape
    flat: list[int] = []
    for name in KEYPOINTS:
        x, y = np.floor(joints[name]).astype(int).tolist()
        if not (0 <= x < width and 0 <= y < height):
            flat += [0, 0, 0]
        else:
            flat += [x, y, 1 + int(owners[y, x] == figure)]
    return {"keypoints": flat, "num_keypoints": len(KEYPOINTS) - flat[2::3].count(0)}


def _figure(rng: np.random.Generator, x: float, top: float, tall: float) -> tuple[Joints, Parts]:
    """Joints, and the parts from back to front.

    `x` is the middle of the hips, `top` the top of the head, `tall` the standing height, in pixels.
    """
    hips = np.array([x, top + 0.53 * tall])
    skin = painting.plain(SKINS[int(rng.integers(4))])
    cloth, dark = painting.hue(rng, rng.uniform(0, 360), 0, 0.75, 0.8), painting.plain((40, 30, 30))
    sleeve = painting.plain(painting.dimmed(cloth, 0.8))
    trousers = painting.plain(painting.hue(rng, 225, 40, 0.45, 0.35))
    textures = dict(zip(LIMBS, (trousers, trousers, sleeve, skin), strict=True))
    joints: Joints = {"nose": hips + np.array([0.0, -0.415]) * tall}
    parts: Parts = []
    for side, sign in (("left", 1), ("right", -1)):
        for name, (outwards, upwards) in POSE.items():
            joints[f"{side}_{name}"] = hips + np.array([sign * outwards, -upwards]) * tall
        for limb in LIMBS:
            start, end, (outwards, upwards), spread = limb
            far, up = outwards + rng.uniform(-spread, spread), upwards + rng.uniform(-spread, spread)
            joints[f"{side}_{end}"] = joints[f"{side}_{start}"] + np.array([sign * far, -up]) * tall
            bar = painting.limb(joints[f"{side}_{start}"], joints[f"{side}_{end}"], 0.045 * tall, 0.03 * tall)
            parts.append((bar, textures[limb]))
    torso = np.array([joints[name] for name in ("right_shoulder", "left_shoulder", "left_hip", "right_hip")])
    middle = hips - np.array([0.0, 0.425]) * tall
    parts += [(torso, painting.striped(cloth, painting.dimmed(cloth, 0.7), 9, rng.uniform(0, 3.1))),
              (painting.limb(middle, hips - np.array([0.0, 0.3]) * tall, 0.04 * tall, 0.04 * tall), skin),
              (painting.disc(*middle, 0.085 * tall), skin)]
    for name, size in (("left_eye", 0.015), ("right_eye", 0.015), ("nose", 0.012)):
        parts.append((painting.disc(*joints[name], size * tall), dark))
    return joints, parts
