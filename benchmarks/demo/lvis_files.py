"""The COCO-shaped scenes once more as LVIS v1 writes them: another file for the same pictures.

Classes are numbered from 1 and have a frequency; each image says which classes are not in it, and of which not every
object is marked: that of a crowd, which LVIS has not.
"""

# The made-up long tail: the shapes in the order of their COCO ids.
FREQUENCIES = ("f", "f", "c", "r")


def from_coco(content: dict) -> dict:
    """The LVIS v1 file of a COCO file whose images lie in images/."""
    numbers = {category["id"]: number for number, category in enumerate(content["categories"], 1)}
    images, annotations = [], []
    for image in content["images"]:
        rows = [row for row in content["annotations"] if row["image_id"] == image["id"]]
        present = {numbers[row["category_id"]] for row in rows}
        crowded = {numbers[row["category_id"]] for row in rows if row["iscrowd"]}
        images.append({
            "id": image["id"], "width": image["width"], "height": image["height"], "license": image["license"],
            "coco_url": f"http://example.org/images/{image['file_name']}",
            "neg_category_ids": sorted(set(numbers.values()) - present),
            "not_exhaustive_category_ids": sorted(crowded)})
        annotations += [{**{key: row[key] for key in ("id", "image_id", "bbox", "area", "segmentation")},
                         "category_id": numbers[row["category_id"]]} for row in rows if not row["iscrowd"]]
    categories = []
    for category, frequency in zip(content["categories"], FREQUENCIES, strict=True):
        number, name = numbers[category["id"]], category["name"]
        having = {row["image_id"] for row in annotations if row["category_id"] == number}
        categories.append({"id": number, "name": name, "synonyms": [name], "synset": f"{name}.n.01", "def": name,
                           "frequency": frequency, "image_count": len(having),
                           "instance_count": sum(row["category_id"] == number for row in annotations)})
    return {"info": content["info"], "licenses": content["licenses"], "images": images, "annotations": annotations,
            "categories": categories}
