"""People-like figures with the 17 COCO keypoints: a puppet, drawn from its joints.

The figures face the viewer, so a figure's left is on the right of the picture. A keypoint is
visible (2) when the pixel at its place shows the figure's own part that carries it, hidden (1)
when something else is in front, and 0 outside.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from benchmarks.demo import masking, painting
from benchmarks.demo.painting import Canvas, Colour, Outline, Texture

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
HAIRS = [(40, 28, 22), (95, 60, 30), (205, 165, 80), (125, 125, 130)]
TORSO, HEAD, LEFT_ARM, RIGHT_ARM, LEFT_LEG, RIGHT_LEG = range(1, 7)
PARTS = 8  # owner numbers per figure

Parts = list[tuple[int, Outline, Texture]]


def _carriers(name: str) -> set[int]:
    """The parts on which a keypoint may be seen."""
    left = name.startswith("left")
    arm, leg = (LEFT_ARM, LEFT_LEG) if left else (RIGHT_ARM, RIGHT_LEG)
    for endings, parts in (
        (("elbow", "wrist"), {arm}), (("shoulder",), {arm, TORSO}),
        (("hip",), {leg, TORSO}), (("knee", "ankle"), {leg}),
    ):
        if name.endswith(endings):
            return parts
    return {HEAD}


def group(rng: np.random.Generator, index: int) -> tuple[Image.Image, list[dict]]:
    """A picture of one to three figures and its COCO person annotations without ids."""
    width, height = SIZES[index % len(SIZES)]
    ground = [painting.hue(rng, rng.uniform(60, 260), 0, 0.25, value) for value in (0.5, 0.7, 0.9)]
    canvas = Canvas(width, height, painting.clouded(rng, width, height, ground))
    floor = rng.uniform(0.6, 0.75) * height
    dark, light = painting.hue(rng, 35, 15, 0.3, 0.4), painting.hue(rng, 35, 15, 0.3, 0.6)
    canvas.paint(painting.rectangle(0, floor, width, height), painting.faded(dark, light, floor, height))
    figures, masks = [], []
    wanted = int(rng.integers(1, 3 if width < height else 4))
    for attempt in range(60):
        if len(figures) == wanted:
            break
        # One figure in three is close enough to be cut by the frame.
        close = index % 3 == 2 and attempt == 0
        tall = rng.uniform(1.1, 1.25) * height if close else rng.uniform(0.68, 0.86) * height
        x = rng.uniform(0.2, 0.8) * width
        top = rng.uniform(0.03, 0.08) * height if close else rng.uniform(0.04, 0.96 - tall / height) * height
        joints, hidden, parts = _figure(rng, x, top, tall)
        mask = painting.covered([outline for _, outline, _ in parts], width, height)
        if _leaves_in_sight(mask, masks):
            masks.append(mask)
            figures.append((joints, hidden, parts))
    for number, (_, _, parts) in enumerate(figures):
        for part, outline, texture in parts:
            canvas.paint(outline, texture, owner=PARTS * (number + 1) + part)
    owners = canvas.owner_map()
    annotations = []
    for number, (joints, hidden, _) in enumerate(figures, 1):
        annotations.append({"category_id": CATEGORY["id"], **masking.annotation(owners // PARTS == number),
                            **_keypoints(joints, hidden, owners, number)})
    return canvas.picture(rng), annotations


def _leaves_in_sight(mask: np.ndarray, behind: list[np.ndarray]) -> bool:
    """Whether enough of each figure `behind`, from back to front, is seen with `mask` (H, W)
    before them."""
    front = mask
    for own in reversed(behind):
        if (own & ~front).sum() <= 0.6 * own.sum():
            return False
        front = front | own
    return True


def _keypoints(joints: dict[str, np.ndarray], hidden: set[str], owners: np.ndarray, figure: int) -> dict:
    """COCO's flat [x, y, v, ...] (x and y: pixel indices) and the count of labelled keypoints."""
    height, width = owners.shape
    flat: list[int] = []
    for name in KEYPOINTS:
        x, y = np.floor(joints[name]).astype(int).tolist()
        if not (0 <= x < width and 0 <= y < height):
            flat += [0, 0, 0]
            continue
        on_top, part = divmod(int(owners[y, x]), PARTS)
        seen = on_top == figure and part in _carriers(name) and name not in hidden
        flat += [x, y, 2 if seen else 1]
    return {"keypoints": flat, "num_keypoints": len(KEYPOINTS) - flat[2::3].count(0)}


@dataclass
class _Body:
    """A standing figure. yaw: -1 to 1; hips: x, y in pixels; sidewards (the figure's left) and
    upwards: of length 1."""

    tall: float  # pixels
    yaw: float
    hips: np.ndarray
    sidewards: np.ndarray
    upwards: np.ndarray

    @property
    def turn(self) -> float:
        """How far the face is turned, as a share of the height."""
        return 0.045 * self.yaw

    def at(self, across: float, up: float) -> np.ndarray:
        """x and y of a place beside and above the hips, in shares of the height."""
        return self.hips + self.sidewards * across * self.tall + self.upwards * up * self.tall


def _joints(rng: np.random.Generator, body: _Body) -> dict[str, np.ndarray]:
    """Name of a keypoint -> x, y in pixels."""
    at, turn, tall = body.at, body.turn, body.tall
    narrow = 1 - 0.3 * abs(body.yaw)
    joints = {"nose": at(1.3 * turn, 0.415)}
    for side, sign in (("left", 1), ("right", -1)):
        joints[f"{side}_eye"] = at(turn + sign * 0.036, 0.44)
        joints[f"{side}_ear"] = at(-0.3 * turn + sign * 0.078, 0.425)
        joints[f"{side}_shoulder"] = at(sign * 0.115 * narrow, 0.30)
        joints[f"{side}_hip"] = at(sign * 0.062 * narrow, 0.0)
        raised, bend = rng.uniform(-0.1, 2.5), rng.uniform(-0.2, 1.6)
        joints[f"{side}_elbow"] = joints[f"{side}_shoulder"] + _reach(sign, raised, 0.16 * tall)
        bend *= rng.choice((-1, 1))
        joints[f"{side}_wrist"] = joints[f"{side}_elbow"] + _reach(sign, raised + bend, 0.15 * tall)
        spread, kick = rng.uniform(0.0, 0.45), rng.uniform(-0.35, 0.25)
        joints[f"{side}_knee"] = joints[f"{side}_hip"] + _reach(sign, spread, 0.22 * tall)
        joints[f"{side}_ankle"] = joints[f"{side}_knee"] + _reach(sign, spread + kick, 0.21 * tall)
    return joints


def _figure(
    rng: np.random.Generator, x: float, top: float, tall: float
) -> tuple[dict[str, np.ndarray], set[str], Parts]:
    """Joints, the keypoints turned away from the viewer, and the parts from back to front.

    `x` is the middle of the hips, `top` the top of the head, `tall` the standing height.
    """
    yaw, lean = rng.uniform(-1, 1), rng.uniform(-0.22, 0.22)
    sidewards, upwards = np.array([np.cos(lean), np.sin(lean)]), np.array([np.sin(lean), -np.cos(lean)])
    body = _Body(tall, yaw, np.array([x, top + 0.53 * tall]), sidewards, upwards)
    joints = _joints(rng, body)
    skin, hair = SKINS[int(rng.integers(4))], HAIRS[int(rng.integers(4))]
    cloth = painting.hue(rng, rng.uniform(0, 360), 0, 0.75, 0.8)
    second = painting.hue(rng, rng.uniform(0, 360), 0, 0.3, 0.9)
    shirt = painting.plain(cloth) if rng.random() < 0.5 else painting.striped(cloth, second, 9, rng.uniform(0, 3.1))
    sleeve = painting.plain(painting.dimmed(cloth, 0.85))
    trousers = painting.plain(painting.hue(rng, 225, 40, 0.45, 0.35))
    shoe = painting.plain(painting.hue(rng, 20, 20, 0.4, 0.25))
    arms, legs = {}, {}
    for side, sign, arm, leg in (("left", 1, LEFT_ARM, LEFT_LEG), ("right", -1, RIGHT_ARM, RIGHT_LEG)):
        shoulder, elbow, wrist = joints[f"{side}_shoulder"], joints[f"{side}_elbow"], joints[f"{side}_wrist"]
        hip, knee, ankle = joints[f"{side}_hip"], joints[f"{side}_knee"], joints[f"{side}_ankle"]
        arms[side] = [
            (arm, painting.limb(elbow, wrist, 0.028 * tall, 0.026 * tall), painting.plain(skin)),
            (arm, painting.limb(shoulder, elbow, 0.04 * tall, 0.034 * tall), sleeve),
        ]
        toe = painting.shifted(ankle, sign * 0.035 * tall, 0.02 * tall)
        legs[side] = [
            (leg, painting.limb(ankle, toe, 0.03 * tall, 0.026 * tall), shoe),
            (leg, painting.limb(knee, ankle, 0.04 * tall, 0.032 * tall), trousers),
            (leg, painting.limb(hip, knee, 0.056 * tall, 0.042 * tall), trousers),
        ]
    behind, before = [], []
    for side in ("left", "right"):
        if rng.random() < 0.6:
            before += arms[side]
        else:
            behind += arms[side]
    trunk = [*legs["left"], *legs["right"], (TORSO, _torso(joints, tall), shirt)]
    hidden = set()
    if abs(yaw) > 0.55:
        hidden = {"left_ear" if yaw > 0 else "right_ear"}
    return joints, hidden, behind + trunk + _head(joints, body, skin, hair) + before


def _reach(sign: int, angle: float, length: float) -> np.ndarray:
    """A vector of `length`, `angle` away from straight down towards the outside of the side
    `sign`."""
    return np.array([sign * np.sin(angle), np.cos(angle)]) * length


def _torso(joints: dict[str, np.ndarray], tall: float) -> Outline:
    outward = (joints["left_shoulder"] - joints["right_shoulder"]) / 2
    outward = outward / np.hypot(*outward) * 0.03 * tall
    upward = np.array([outward[1], -outward[0]])
    left, right = joints["left_shoulder"], joints["right_shoulder"]
    return np.array([
        right + upward * 0.6 - outward * 0.9, left + upward * 0.6 + outward * 0.9,
        joints["left_hip"] + outward - upward * 1.2, joints["right_hip"] - outward - upward * 1.2,
    ])


def _head(joints: dict[str, np.ndarray], body: _Body, skin: Colour, hair: Colour) -> Parts:
    """Neck, ears, face, hair, eyes, nose and mouth."""
    at, turn, tall = body.at, body.turn, body.tall
    face, dark = painting.plain(skin), painting.plain(painting.dimmed(skin, 0.72))
    white, black, red = painting.plain((250, 250, 250)), painting.plain((25, 25, 30)), painting.plain((150, 60, 60))
    middle, radius = at(0, 0.425), 0.092 * tall
    painted = [(painting.limb(at(0, 0.31), middle, 0.036 * tall, 0.036 * tall), dark)]
    for ear in ("left_ear", "right_ear"):
        painted.append((painting.ellipse(*joints[ear], 0.024 * tall), dark))
    painted.append((painting.ellipse(middle[0], middle[1] - 0.02 * radius, 0.9 * radius, radius), face))
    arc = np.linspace(0.35, np.pi - 0.35, 14)
    painted.append((np.array([at(0.092 * np.cos(a), 0.437 + 0.093 * np.sin(a)) for a in arc]), painting.plain(hair)))
    for eye in ("left_eye", "right_eye"):
        x, y = joints[eye]
        painted.append((painting.ellipse(x, y, 0.02 * tall), white))
        painted.append((painting.ellipse(x + 0.2 * turn * tall, y, 0.013 * tall), black))
    painted.append((painting.ellipse(*joints["nose"], 0.012 * tall, 0.017 * tall), dark))
    painted.append((painting.limb(at(turn - 0.02, 0.385), at(turn + 0.02, 0.385), 0.007 * tall, 0.007 * tall), red))
    return [(HEAD, outline, texture) for outline, texture in painted]
