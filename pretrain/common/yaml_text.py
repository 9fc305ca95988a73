"""YAML in which every key stands once, as its standard asks: PyYAML takes the last of two without a word."""

from typing import Any

import yaml


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
                        raise yaml.YAMLError(f"line {line}: {key.value!r} stands there a second time")
                    keys.add(key.value)
                waiting.append(value)
    return yaml.load(text, loader)
