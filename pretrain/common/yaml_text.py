"""YAML in which every key stands once, as its standard asks: PyYAML silently takes the last of two."""

from pathlib import Path
from typing import Any

import yaml

from pretrain.common.errors import UserError


def read_mapping(path: Path, expected: str, loader: type = yaml.SafeLoader) -> dict[Any, Any]:
    """The mapping that a file holds, empty for an empty file. Raises `UserError`; `expected` says
    what should be there."""
    try:
        content = load(path.read_text(encoding="utf-8"), loader) or {}
    except (yaml.YAMLError, ValueError) as error:  # not UTF-8, a date that no calendar has
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected {expected}, found {type(content).__name__}")
    return content


def load(text: str, loader: type = yaml.SafeLoader) -> Any:
    """What `text` holds; raises yaml.YAMLError, also for a key that stands twice in one mapping."""
    waiting, looked_at = [yaml.compose(text, loader)], set()
    while waiting:
        node = waiting.pop()
        if id(node) in looked_at:  # an alias
            continue
        looked_at.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            keys = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in keys:
                        line = key.start_mark.line + 1
                        raise yaml.YAMLError(f"line {line}: {key.value!r} is there a second time")
                    keys.add(key.value)
                waiting.append(value)
    return yaml.load(text, loader)
