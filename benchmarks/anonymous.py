"""Records without who made them, where and on what machine, and the search that follows.

A path keeps its last part only, and not even that where it may be a user's name. Different places and names get
different numbers (`<path>/x`, `<path 2>/x`), so that rows that differ do not become one.
"""

import getpass
import html
import json
import os
import pwd
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks import comparisons, imported, probe_table, results

ROOT = Path(__file__).resolve().parent.parent
TOKEN = r"<(?:path|name)(?: \d+)?>"
START, END = r"(?<![^\W_])", r"(?![^\W_])"  # of a name: no letter or digit beside it, an underscore may be
PART = r"""(?:\\[ ]|[^\s/\\:;,|<>()\[\]{}"'`=&?*])+"""
WINDOWS = rf"{START}(?:[A-Za-z]:|\\)[\\]+{PART}(?:[\\/]+{PART})*"
UNIX = rf"(?<![\w.])(?:/+{PART}){{2,}}/?"
TILDE = rf"(?<![\w.])~(?:(?:[A-Za-z_][\w.-]*)?(?:/{PART})+/?|[A-Za-z_][\w.-]*)"
HOME = rf"{START}(?:homes?|[Uu]sers)[\\/]+{PART}(?:[\\/]+{PART})*"
FILE_URL = r"""file:/[^\s"'<>`]+"""
URL = r"""[A-Za-z][A-Za-z0-9+.-]*://[^\s"'<>`]+"""
QUOTED = r"""(?<=')[/~][^'\n]+(?=')|(?<=")[/~][^"\n]+(?=")"""
LOGIN = r"(?<![\w.+-])[A-Za-z_][\w.+-]*@(?:[A-Za-z][\w-]*(?:\.[\w-]+)*|\d{1,3}(?:\.\d{1,3}){3})"
NODE = (rf"{START}(?i:(?:[a-z]+[-_.])*(?:(?:node|compute|nid|login)[-_]?(?:\d+|\[[\d,-]+\])|"
        r"(?:cn|gpu|worker|host)[-_]?(?:\d{2,}|\[[\d,-]+\]))(?:[a-z]\b)?(?:[.-][a-z][\w.-]*)?)" + END)
PLACE = "|".join([FILE_URL, URL, QUOTED, WINDOWS, UNIX, TILDE, HOME])
SEARCHED = re.compile("|".join([FILE_URL, WINDOWS, UNIX, TILDE, HOME, LOGIN, NODE]))
# A text that is a path as a whole, or a KEY=path, whatever letters the path has.
WHOLE = re.compile(r"((?:[A-Za-z_][\w.]*=)?)((?:/[^/\s]|~[/\w]|[A-Za-z]:\\|\\\\|file:/).*)", re.DOTALL)
USERS = {"home", "homes", "user", "users", "people", "staff", "students", "scratch", "work"}  # folders of users
NOT_TELLING = {"root", "localhost", "localdomain"}
ENVIRONMENT = ("USER", "LOGNAME", "USERNAME", "HOSTNAME", "SLURM_JOB_USER", "SLURM_JOB_ACCOUNT", "SLURM_CLUSTER_NAME",
               "SLURM_SUBMIT_HOST", "SLURMD_NODENAME")
# Keys of the schemas, and mappings whose keys are all the program's: never changed.
SCHEMA = {part for fields in (results.FIELDS, results.PRETRAINING_FIELDS, probe_table.FIELDS, imported.FIELDS,
                              comparisons.FIELDS) for name in fields for part in name.split(".")}
SCHEMA |= {"table", "details", "share"}  # of schema 1, and inside dataset.train_share
FIXED = {"config", "baselines", "outcome", "versions", "protocol", "pixel_format"}
METRICS = "metrics"  # GROUP/NAME and GROUP/NAME-CLASS: the class is somebody's word
# What the program itself fills in, out of its own words.
OWN_WORDS = {"kind", "table", "task", "objective", "fit", "scale", "heads", "solver", "schedule", "architecture",
             "evaluator", "init"}
MACHINES = {"host", "hostname", "node", "nodes", "nodename", "nodelist", "user", "username", "login", "cluster"}


class Scrubber:
    """Takes names and places out of records; the same text always becomes the same."""

    def __init__(self, records: Iterable[dict]) -> None:
        own, words = own_names(), program_words()
        texts = {text for record in records for _, text in _texts(record)}
        found = {name for text in texts for name in _names_in(text) if name.lower() not in words}
        self.names = sorted(name for name in own | found if len(name) > 1 and not name.isdigit()
                            and name.lower() not in NOT_TELLING)
        telling = [name for name in self.names if name.lower() not in words]
        ordinary = [name for name in self.names if name.lower() in words]
        self.telling = _pattern(telling, [*_siblings(), *_domains()])
        everywhere = "|".join(filter(None, [self.telling, rf"(?<!\w)(?:{'|'.join(map(re.escape, ordinary))})(?!\w)"
                                            if ordinary else ""]))
        self._patterns = {strict: re.compile("|".join(filter(None, [
            f"(?P<token>{TOKEN})", f"(?P<place>{PLACE})", LOGIN, NODE, names])))
            for strict, names in ((False, everywhere), (True, self.telling))}
        self._searched = re.compile(self.telling) if self.telling else None
        self._labels: dict[tuple[str, str], dict[str, int]] = {}
        self._known: dict[tuple[str, bool], str] = {}

    def record(self, record: dict) -> dict:
        """A record without names and places, with a new digest."""
        clean = self._value(record, "", False) | {"anonymous": True}
        clean["digest"] = results.digest(clean)
        return clean

    def left(self, name: str, content: bytes) -> str:
        """What a finished member still tells; empty: nothing."""
        text = content.decode("utf-8")
        if name.endswith(".json"):
            texts = _texts(json.loads(text))
        else:  # as it is shown: without what keeps markdown from being markup
            texts = [(False, re.sub(r"\\([\\`*\[\]|~_])", r"\1", html.unescape(text)))]
        for own, one in texts:
            one = re.sub(TOKEN, "\0", one)
            found = SEARCHED.search(one) or (self._searched.search(one) if self._searched and not own else None)
            if found:
                return found[0]
        return ""

    def _value(self, value: Any, where: str, fixed: bool) -> Any:
        if isinstance(value, dict):
            return {self._key(key, where, fixed): self._value(inside, key, fixed or key in FIXED)
                    for key, inside in value.items()}
        if isinstance(value, list):
            return [self._value(inside, where, fixed) for inside in value]
        if not isinstance(value, str):
            return value
        if where.lower() in MACHINES and not fixed:
            return self._label("name", "", value)
        return self._text(value, where in OWN_WORDS)

    def _key(self, key: str, where: str, fixed: bool) -> str:
        if fixed or key in SCHEMA:
            return key
        if where == METRICS:
            metric, dash, name = key.partition("-")
            return metric + dash + self._text(name, False)
        return self._text(key, False)

    def _text(self, text: str, strict: bool) -> str:
        if (text, strict) not in self._known:
            whole = WHOLE.fullmatch(text)
            self._known[text, strict] = (whole[1] + self._place(whole[2], strict) if whole
                                         else self._inside(text, strict))
        return self._known[text, strict]

    def _inside(self, text: str, strict: bool) -> str:
        def instead(match: re.Match) -> str:
            if match["token"]:
                return match[0]
            return self._place(match[0], strict) if match["place"] else self._label("name", "", match[0].lower())

        return self._patterns[strict].sub(instead, text)

    def _place(self, place: str, strict: bool) -> str:
        scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]*:(?=/)", place)
        body = re.sub(r"^(?:file:|[A-Za-z]:(?=\\))", "", place) if not scheme else place[scheme.end():]
        parts = [part for part in re.split(r"[\\/]+", body) if part]
        own = place.startswith("~")
        if own or (scheme and body.startswith("//") and not body.startswith("///")):
            parts = parts[1:]  # the user, the host
        kept = parts[-1] if parts else ""
        if len(parts) < (1 if own else 3) or (len(parts) > 1 and parts[-2].lower() in USERS):
            kept = ""
        return self._label("path", kept, place.rstrip("/")) + (f"/{self._inside(kept, strict)}" if kept else "")

    def _label(self, kind: str, kept: str, text: str) -> str:
        known = self._labels.setdefault((kind, kept), {})
        number = known.setdefault(text, len(known) + 1)
        return f"<{kind}>" if number == 1 else f"<{kind} {number}>"


def own_names() -> set[str]:
    """Names that tell who and where: user, full name, host with and without its domain, cluster."""
    found = {os.environ.get(name, "") for name in ENVIRONMENT} | {socket.gethostname(), Path.home().name}
    with suppress(KeyError, OSError):  # no user of that number
        found |= {getpass.getuser(), pwd.getpwuid(os.getuid()).pw_gecos.partition(",")[0]}
    return found | {name.partition(".")[0] for name in found}


@cache
def program_words() -> frozenset[str]:
    """All words of the program's own texts and printed rows: a name among them tells nobody in a table."""
    files = [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "results" / "reported").glob("*.csv")]
    return frozenset(re.findall(r"[^\W_]+|\w+", " ".join(file.read_text(encoding="utf-8") for file in files).lower()))


def _siblings() -> list[str]:
    """Patterns of the other nodes of this cluster: this host's name with other numbers."""
    host = socket.gethostname().partition(".")[0]
    return [re.sub(r"\d+", r"\\d+", re.escape(host))] if re.match(r"[A-Za-z]{2,}.*\d", host) else []


def _domains() -> list[str]:
    domain = socket.gethostname().partition(".")[2]
    return [rf"(?:[\w-]+\.)*{re.escape(domain)}"] if domain and domain not in NOT_TELLING else []


def _pattern(names: list[str], patterns: list[str]) -> str:
    several = [*patterns, *map(re.escape, sorted(names, key=len, reverse=True))]
    return rf"{START}(?i:{'|'.join(several)}){END}" if several else ""


def _names_in(text: str) -> Iterator[str]:
    """Users and hosts that paths and logins in a text name."""
    whole = WHOLE.fullmatch(text)
    part = r"([^\\/]+)" if whole else f"({PART})"
    for match in re.finditer(rf"{START}(?:homes?|[Uu]sers)[\\/]+{part}", whole[2] if whole else text):
        if not re.search(TOKEN, match[1]):
            yield match[1].strip()
    for match in re.finditer(r"(?<![\w.])~([A-Za-z_][\w.-]*)", text):
        yield match[1]
    for match in re.finditer(LOGIN, text):
        yield from match[0].split("@")


def _texts(value: Any, where: str = "", fixed: bool = False) -> Iterator[tuple[bool, str]]:
    """(whether the program chose its words, text) of all texts and keys."""
    if isinstance(value, dict):
        for key, inside in value.items():
            if where == METRICS and not fixed:
                metric, _, name = key.partition("-")
                yield True, metric
                yield False, name
            else:
                yield fixed or key in SCHEMA, key
            yield from _texts(inside, key, fixed or key in FIXED)
    elif isinstance(value, list):
        for inside in value:
            yield from _texts(inside, where, fixed)
    elif isinstance(value, str):
        yield where in OWN_WORDS, value
