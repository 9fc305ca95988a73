"""The scenes of shapes as Pascal VOC writes them: XML with whole-number boxes that count from 1.

The class names of Pascal VOC are fixed, so the shapes borrow four of them. A crowd is an object
marked as difficult: found or not, it does not count.
"""

import math
from xml.sax.saxutils import escape

NAMES = {2: "bottle", 5: "train", 17: "sheep", 44: "bird"}  # by COCO category: disc, plank, triangle, star
# How the pictures of a split are dealt to VOC's lists.
LISTS = {"train": (("VOC2007", "trainval"), ("VOC2012", "trainval")), "val": (("VOC2007", "test"),)}


def annotation(file_name: str, folder: str, size: tuple[int, int], objects: list[dict]) -> str:
    """The XML of one image of `size` (width, height) with COCO annotations `objects`."""
    lines = ["<annotation>", f"<folder>{escape(folder)}</folder>", f"<filename>{escape(file_name)}</filename>",
             f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>",
             "<segmented>0</segmented>"]
    for found in objects:
        x, y, width, height = found["bbox"]
        sides = {"xmin": math.floor(x) + 1, "ymin": math.floor(y) + 1, "xmax": math.ceil(x + width),
                 "ymax": math.ceil(y + height)}
        box = "".join(f"<{name}>{value}</{name}>" for name, value in sides.items())
        lines.append(f"<object><name>{NAMES[found['category_id']]}</name><pose>Unspecified</pose><truncated>0</truncated>"
                     f"<difficult>{found['iscrowd']}</difficult><bndbox>{box}</bndbox></object>")
    return "\n".join([*lines, "</annotation>"]) + "\n"
