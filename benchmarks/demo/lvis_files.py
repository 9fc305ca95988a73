"""The COCO-shaped scenes once more as LVIS v1 writes them: another file for the same pictures.

Classes are numbered from 1 and have a frequency; each image says which classes are not in it, and
of which not every object is marked: that of a crowd, which LVIS has not.
"""

from collections import Counter

# The made-up long tail: the shapes in the order of their COCO ids.
FREQUENCIES = ("f", "f", "c", "r")


def from_coco(content: dict) -> dict:
    """The LVIS v1 file of a COCO file whose images lie in images/."""
    numbers = {category["id"]: number for number, category in enumerate(content["categories"], 1)}
    images, annotations = [], []
    instances, images_with = Counter(), Counter()
    for image in content["images"]:
        marked, crowded = set(), set()
        for row in content["annotations"]:
            number = numbers[row["category_id"]]
            if row["image_id"] == image["id"] and row["iscrowd"]:
                crowded.add(number)
            elif row["image_id"] == image["id"]:
                marked.add(number)
                instances[number] += 1
                kept = {key: row[key] for key in ("id", "image_id", "bbox", "area", "segmentation")}
                annotations.append({**kept, "category_id": number})
        images_with.update(marked)
        images.append({
            "id": image["id"], "width": image["width"], "height": image["height"], "license": image["license"],
            "coco_url": f"http://example.org/images/{image['file_name']}",
            "neg_category_ids": sorted(set(numbers.values()) - marked - crowded),
            "not_exhaustive_category_ids": sorted(crowded)})
    categories = []
    for category, frequency in zip(content["categories"], FREQUENCIES, strict=True):
        number, name = numbers[category["id"]], category["name"]
        categories.append({"id": number, "name": name, "synonyms": [name], "synset": f"{name}.n.01", "def": name,
                           "frequency": frequency, "image_count": images_with[number],
                           "instance_count": instances[number]})
    return {"info": content["info"], "licenses": content["licenses"], "images": images, "annotations": annotations,
            "categories": categories}
