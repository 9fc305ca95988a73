"""What one evaluation is made of, in words: for --why and the report."""

import json
from pathlib import Path

from benchmarks.tables.trial_groups import Place, Trial


def pretraining_line(weights: dict) -> dict[str, str]:
    """{"pretraining": objective, seed and hashes} of a record's weights that were pretrained here, else nothing."""
    pretraining = weights.get("pretraining")
    if not pretraining:
        return {}
    return {"pretraining": f"{pretraining['objective']}, seed {pretraining['seed']}, recipe "
                           f"{pretraining['recipe_sha256'][:12]}, images {pretraining['images_sha256'][:12]}"}


def trial_provenance(runs: Path, place: Place, trial: Trial, column: str | None = None) -> str:
    """All that one evaluation is made of, as text; its file lies in `runs`. `column`: the value to begin with."""
    result = json.loads((runs / trial.file).read_bytes())
    weights, data, code = result["weights"], result["dataset"], result["code"]
    sha = weights.get("pkl_sha256") or weights.get("path_sha256")
    conversion = weights.get("conversion") or {}
    versions = ", ".join(f"{name} {version}" for name, version in sorted(result["versions"].items()))
    told = {
        "file": f"{runs / trial.file}, digest {result['digest'][:12]}",
        "weights": f"{weights['method']}, {weights['architecture']}, {weights.get('branch') or 'no branch'}, "
                   f"{'sha256 ' + sha[:12] if sha else 'random'}",
        **pretraining_line(weights),
        "certificate": f"{conversion.get('source', 'unnamed')}, {conversion['consumed']} tensors, source sha256 "
                       f"{str(conversion.get('source_sha256'))[:12]}" if conversion.get("consumed") else "none",
        "data": f"{data['train']['images']} training and {data['val']['images']} evaluation images, annotations "
                f"{data['train']['annotations_sha256'][:12]} and {data['val']['annotations_sha256'][:12]}",
        "protocol": f"{result['heads']} heads, scale {result['scale']}, {result['iterations']} iterations, config "
                    f"{result['config_sha256'][:12]}",
        **_identities(result),
        "set by hand": ", ".join(result.get("overrides", [])) or "nothing",
        "code": f"git {str(code.get('git_sha'))[:12]}{', with uncommitted changes' if code.get('dirty') else ''}",
        "versions": versions,
        "hardware": hardware_text(result["hardware"]),
        "when": f"{result['started']} to {result['ended']}, {result['wall_seconds'] / 3600:.2f} h, peak memory "
                f"{result['peak_memory_mb']} MB",
    }
    first = f"  trial {place.trial}, seed {place.seed}"
    if place.pretraining is not None:
        first += f" of pretraining {place.pretraining}"
    if column is not None:
        value = trial.columns[column]
        first += ": undefined" if value is None else f": {value:.3f}"
    return "\n".join([first, *(f"    {name:<12} {text}" for name, text in told.items())])


def _identities(result: dict) -> dict[str, str]:
    """The hashes of what was trained and of what it was evaluated on, as far as they are recorded."""
    found = {}
    for name in ("training", "evaluation"):
        sha256 = (result.get(name) or {}).get("sha256")
        if sha256:
            found[name] = f"identity {sha256[:12]}"
    return found


def hardware_text(found: str | dict) -> str:
    """Hardware as a result records it, in one line."""
    return found if isinstance(found, str) else ", ".join(f"{name} {value}" for name, value in sorted(found.items()))
