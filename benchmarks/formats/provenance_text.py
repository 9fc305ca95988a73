"""What one evaluation is made of, in words: for --why and the report."""


def trial_facts(result: dict) -> dict[str, str]:
    """{name: text} of all that one evaluation is made of."""
    weights = result["weights"]
    sha256 = weights.get("pkl_sha256") or weights.get("path_sha256")
    facts = {
        "weights": f"{weights['method']}, {weights['architecture']}, {weights.get('branch') or 'no branch'}, "
                   f"{hash_text(sha256)}",
        **pretraining_line(weights),
        "certificate": _certificate_text(weights.get("conversion") or {}),
        "data": data_text(result["dataset"]),
        "protocol": f"{result['heads']} heads, scale {result['scale']}, {result['iterations']} iterations, config "
                    f"{result['config_sha256'][:12]}"}
    # Hashes of what was trained and of what it was evaluated on.
    for name in ("training", "evaluation"):
        identity = result.get(name) or {}
        if identity.get("sha256"):
            facts[name] = f"identity {identity['sha256'][:12]}"
    return facts | {
        "set by hand": ", ".join(result.get("overrides", [])) or "nothing",
        "code": code_text(result["code"]),
        "versions": items_text(result["versions"]),
        "hardware": hardware_text(result["hardware"]),
        "when": f"{result['started']} to {result['ended']}, {result['wall_seconds'] / 3600:.2f} h, peak memory "
                f"{result['peak_memory_mb']} MB"}


def facts_text(lines: list[str], facts: dict[str, str]) -> str:
    """These lines, and below them one for each fact with its name."""
    return "\n".join([*lines, *(f"    {name:<12} {text}" for name, text in facts.items())])


def value_text(value: float | None) -> str:
    """A metric with more digits than a table has."""
    return "undefined" if value is None else f"{value:.3f}"


def hash_text(sha256: str | None) -> str:
    """The beginning of the hash of weights, which random ones do not have."""
    return f"sha256 {sha256[:12]}" if sha256 else "random"


def pretraining_line(weights: dict) -> dict[str, str]:
    """{"pretraining": objective, seed and hashes} of a record's weights that were pretrained here,
    else nothing."""
    pretraining = weights.get("pretraining")
    if not pretraining:
        return {}
    return {"pretraining": f"{pretraining['objective']}, seed {pretraining['seed']}, recipe "
                           f"{pretraining['recipe_sha256'][:12]}, images {pretraining['images_sha256'][:12]}"}


def _certificate_text(conversion: dict) -> str:
    if not conversion.get("consumed"):
        return "none"
    return (f"{conversion.get('source', 'unnamed')}, {conversion['consumed']} tensors, source sha256 "
            f"{str(conversion.get('source_sha256'))[:12]}")


def data_text(data: dict) -> str:
    """The images and annotation files of a dataset."""
    train, val = data["train"], data["val"]
    return (f"{train['images']} training and {val['images']} evaluation images, annotations "
            f"{train['annotations_sha256'][:12]} and {val['annotations_sha256'][:12]}")


def code_text(code: dict) -> str:
    """The commit that made a record."""
    text = f"git {str(code.get('git_sha'))[:12]}"
    if code.get("dirty"):
        text += ", with uncommitted changes"
    return text


def items_text(found: dict) -> str:
    """A mapping in one line, sorted."""
    return ", ".join(f"{name} {value}" for name, value in sorted(found.items()))


def hardware_text(found: str | dict) -> str:
    """Hardware as a result records it, in one line."""
    if isinstance(found, str):
        return found
    return items_text({name: value for name, value in found.items() if value not in ([], None)})
