"""Downloads from a server on this machine: whole and checked, or nothing."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from pretrain.common.errors import UserError
from transfer.__main__ import build_parser as _parser
from transfer.reading import fetch as fetching
from transfer.reading.families import FAMILIES
from transfer.reading.fetch import Published, fetch, published, run

BODY = bytes(range(256)) * 9000  # more than one chunk
SHA256, MD5 = hashlib.sha256(BODY).hexdigest(), hashlib.md5(BODY, usedforsecurity=False).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """/file.pth is whole, /short.pth stops early, /page.pth is a web page, anything else is missing."""

    def do_GET(self):
        if self.path not in ("/file.pth", "/short.pth", "/page.pth"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if self.path == "/page.pth" else "application/octet-stream")
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY[:1000] if self.path == "/short.pth" else BODY)

    def log_message(self, *_words):
        pass


@pytest.fixture(scope="module")
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def method(address, **sums) -> Published:
    return Published("M", "CLoVE", 200, "student", address, None, "MIT", **sums)


def refusal(published_method, folder) -> str:
    with pytest.raises(UserError) as caught:
        fetch(published_method, folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("sums", [{}, {"sha256": SHA256}, {"sha256": SHA256[:8].upper()},
                                  {"sha256": SHA256, "md5": MD5[:8]}])
def test_fetch__whole_file_with_its_sum(tmp_path, server, sums):
    folder = tmp_path / "new" / "folder"
    assert fetch(method(f"{server}/file.pth", **sums), folder) == (folder / "file.pth", SHA256, True)
    assert (folder / "file.pth").read_bytes() == BODY
    assert files(folder) == ["file.pth"]


@pytest.mark.parametrize("sums, found", [({"sha256": "0" * 64}, SHA256), ({"sha256": SHA256, "md5": "12345678"}, MD5)])
def test_fetch__mismatch_names_both_sums_and_keeps_nothing(tmp_path, server, sums, found):
    message = refusal(method(f"{server}/file.pth", **sums), tmp_path)
    assert (sums.get("md5") or sums["sha256"]) in message
    assert f"found {found}: the file has changed or the download is damaged; nothing was kept" in message
    assert files(tmp_path) == []


def test_fetch__file_that_is_there_is_checked_and_kept(tmp_path, server):
    (tmp_path / "file.pth").write_bytes(b"mine")
    mine = hashlib.sha256(b"mine").hexdigest()
    assert fetch(method(f"{server}/file.pth"), tmp_path) == (tmp_path / "file.pth", mine, False)
    message = refusal(method(f"{server}/file.pth", sha256=SHA256), tmp_path)
    assert f"expected the SHA256 {SHA256} of {tmp_path / 'file.pth'}, which is there already, found {mine}" in message
    assert "remove it and fetch again" in message
    assert (tmp_path / "file.pth").read_bytes() == b"mine"


def test_fetch__broken_off(tmp_path, server):
    message = refusal(method(f"{server}/short.pth"), tmp_path)
    assert "broke off after 1000 bytes: run the same command again" in message
    assert files(tmp_path) == []


def test_fetch__missing_page_and_no_server(tmp_path, server):
    assert "answered 404 Not Found: the file may have moved" in refusal(method(f"{server}/gone.pth"), tmp_path)
    assert "found a web page: open the address in a browser" in refusal(method(f"{server}/page.pth"), tmp_path)
    message = refusal(method("http://127.0.0.1:9/file.pth"), tmp_path)
    assert message.startswith("cannot reach http://127.0.0.1:9/file.pth (") and "go online" in message
    assert files(tmp_path) == []


# The command

@pytest.fixture
def listed(tmp_path, monkeypatch, server):
    rows = {"one": {"name": "One", "family": "CLoVE", "epochs": 200, "branch": "student", "licence": "MIT",
                    "address": f"{server}/file.pth", "steps": None, "sha256": None, "notes": "Read me."},
            "two": {"name": "Two", "family": "PixPro", "epochs": None, "branch": "student", "licence": "not stated",
                    "address": None, "steps": "Ask the authors."}}
    path = tmp_path / "methods.yaml"
    path.write_text(yaml.safe_dump({"methods": rows}))
    monkeypatch.setattr(fetching, "METHODS", path)


def command(*words) -> int:
    return run(_parser("fetch").parse_args(["fetch", *words]))


def test_run__prints_an_unknown_sum_so_that_it_can_be_pinned(tmp_path, listed, capsys):
    assert command("one", "--output", str(tmp_path / "out")) == 0
    printed = capsys.readouterr().out
    assert "one: One, 200 epochs; licence: MIT\nnote: Read me.\n" in printed
    assert f"sha256 {SHA256}, not known before: pin it as sha256 of one in" in printed
    assert f"next: clove inspect {tmp_path / 'out' / 'file.pth'}" in printed
    assert command("one", "--output", str(tmp_path / "out")) == 0
    assert "there already:" in capsys.readouterr().out


def test_run__by_hand_prints_the_steps(tmp_path, listed, capsys):
    assert command("two", "--output", str(tmp_path / "out")) == 2
    assert "It cannot be fetched: Ask the authors.\nThen: clove inspect FILE" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_run__list_and_unknown(tmp_path, listed, capsys):
    assert command("--list") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["METHOD", "one", "two"]
    with pytest.raises(UserError, match="expected a method of --list, found on: did you mean one"):
        command("on")
    with pytest.raises(UserError, match="found none: choose one"):
        command()
    (tmp_path / "plain").touch()
    with pytest.raises(UserError, match="--output .*plain: expected a folder, found that it cannot be made"):
        command("one", "--output", str(tmp_path / "plain"))


# The project's own list

def test_methods__are_complete_and_of_known_families():
    rows = published()
    families = {family.name: family for family in FAMILIES}
    assert {"CLoVE", "PixPro", "SlotCon", "DenseCL", "ReSim", "SetSim", "VICRegL", "MoCo v2", "Supervised"} <= {
        row.name for row in rows.values()}
    for key, row in rows.items():
        assert (row.address is None) != (row.steps is None), key
        assert row.address is None or row.address.startswith("https://"), key
        assert row.family in families, key
        # Bare names do not say which network they are of.
        assert row.branch == next(iter(families[row.family].branches)) or row.family == "plain torchvision names", key
        assert row.licence, key
        for sum_ in (row.sha256, row.md5):
            assert sum_ is None or (isinstance(sum_, str) and len(sum_) >= 8 and set(sum_) <= set("0123456789abcdef"))


def test_methods__torchvision_sum_is_the_one_in_torchvisions_own_address():
    import torchvision
    row = published()["supervised_torchvision"]
    assert row.address == torchvision.models.ResNet50_Weights.IMAGENET1K_V1.url
    assert row.address.endswith(f"-{row.sha256}.pth")
