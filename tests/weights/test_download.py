"""Downloaded weights: whole and with the right digest, or an error of one line and no file left behind."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import sys
import threading

import pytest

from workbench import cli
from workbench.settings import released
from workbench.settings.catalog import load_row
from workbench.settings.experiment import Backbone
from workbench.settings.files import read_scale
from workbench.support.errors import WorkbenchError
from workbench.weights import download as pretrained
from workbench.weights.download import check_backbone, check_published, fetch_weights

CONTENT = bytes(range(256)) * 4096
DIGEST = hashlib.sha256(CONTENT).hexdigest()
HEAD = b"HTTP/1.0 200 OK\r\nContent-Type: x\r\nContent-Length: %d\r\n\r\n" % len(CONTENT)
ANSWERS = {  # answer of a server → part of the message to the user
    "no such file": (b"HTTP/1.0 404 Not Found\r\n\r\n", "HTTP Error 404: Not Found"),
    "incomplete": (HEAD + CONTENT[:1000], "1000 bytes of 1048576"),
    "no answer": (b"", "closed connection without response"),
    "no HTTP": (b"220 mail.example.org ready\r\n", "mail.example.org"),
    "stalled": (None, "timed out"),
}


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def source(tmp_path):
    """File to download."""
    path = tmp_path / "elsewhere.pth"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def target(tmp_path):
    return tmp_path / "results" / "weights" / "some.pth"


@pytest.fixture
def serve():
    """Function that starts a server and returns its address; the server answers once, or never if the answer is None."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = threading.Event()

        def start(answer):
            def run():
                connection, _ = server.accept()
                with connection:
                    connection.recv(65536)
                    done.wait(20) if answer is None else connection.sendall(answer)

            threading.Thread(target=run, daemon=True).start()
            return f"http://127.0.0.1:{server.getsockname()[1]}"

        yield start
        done.set()


def publish(monkeypatch, url, sha256):
    """Publish a checkpoint 'some' at this address."""
    weights = released.Released(publisher="authors", rows={"x": 1.0})
    weights = weights.model_copy(update={"url": url, "sha256": sha256})  # skips the check for https
    monkeypatch.setattr(pretrained, "read_released", lambda: {"some": weights})


def refused(name, target):
    """Message of a failed download, which must be one line and leave no file."""
    with pytest.raises(WorkbenchError) as error:
        fetch_weights(name, target)
    assert "\n" not in str(error.value)
    assert not target.parent.exists() or not list(target.parent.iterdir())
    return str(error.value)


@pytest.mark.parametrize("digits", [8, 64])
def test_a_file_with_the_right_digest_is_accepted(monkeypatch, source, target, digits):
    named = source.with_name(f"some-{DIGEST[:digits]}.pth")
    source.rename(named)
    monkeypatch.setitem(pretrained.BACKBONES, "some", named.as_uri())
    fetch_weights("some", target)
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["some.pth"]


@pytest.mark.parametrize("digest", [DIGEST[:8], DIGEST, None])
def test_published_weights_are_downloaded(monkeypatch, serve, target, digest):
    publish(monkeypatch, f"{serve(HEAD + CONTENT)}/some.pth", digest)
    fetch_weights("some", target)
    assert target.read_bytes() == CONTENT


def test_a_wrong_digest_is_refused(monkeypatch, source, target):
    named = source.with_name("some-01234567.pth")
    source.rename(named)
    monkeypatch.setitem(pretrained.BACKBONES, "some", named.as_uri())
    assert refused("some", target) == (
        f"{named.as_uri()}: digest {DIGEST[:8]}, not 01234567; try again, or put the file with the listed digest at {target}"
    )
    publish(monkeypatch, named.as_uri(), "f" * 64)
    monkeypatch.delitem(pretrained.BACKBONES, "some")
    assert f"digest {DIGEST}, not {'f' * 64}" in refused("some", target)


@pytest.mark.parametrize("case", ANSWERS)
def test_a_bad_answer_is_reported(monkeypatch, serve, target, case):
    answer, fault = ANSWERS[case]
    url = f"{serve(answer)}/some.pth"
    monkeypatch.setattr(pretrained, "TIMEOUT", 0.2)
    publish(monkeypatch, url, None)
    line = refused("some", target)
    assert line.startswith(f"{url}: cannot download it (")
    assert fault in line
    assert line.endswith(f"; try again, or put this file at {target} yourself")


def test_a_missing_connection_is_reported(monkeypatch, target):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    url = f"http://127.0.0.1:{port}/some.pth"
    publish(monkeypatch, url, None)
    assert re.fullmatch(
        rf"{url}: cannot download it \(.*refused\); .* put this file at {target} yourself", refused("some", target)
    )


def test_an_old_file_stays_if_the_download_fails(monkeypatch, serve, target):
    target.parent.mkdir(parents=True)
    target.write_bytes(b"old")
    publish(monkeypatch, f"{serve(HEAD + CONTENT[:9])}/some.pth", None)
    with pytest.raises(WorkbenchError):
        fetch_weights("some", target)
    assert [path.read_bytes() for path in target.parent.iterdir()] == [b"old"]


def test_names_without_an_address_are_reported(target, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["workbench", "weights", "vfnetx", str(target)])
    with pytest.raises(SystemExit) as status:
        cli.main()
    assert str(status.value) == (
        "workbench: vfnetx: the address of these weights is unknown; download them from their publishers (authors) to "
        f"{target}, or add the address to experiments/*/released.yaml"
    )
    assert "unknown weights 'resnet51'; did you mean 'resnet50'?" in refused("resnet51", target)
    assert "'vfnet_r50_1x'" in refused("vfnet_r50_x1", target)


def test_every_pretrained_backbone_has_an_address():
    backbones = read_scale("coco").backbones
    assert {name for name, backbone in backbones.items() if backbone.get("pretrained")} == set(pretrained.BACKBONES)
    for url in pretrained.BACKBONES.values():
        assert re.fullmatch(r"https://\S+-[0-9a-f]{8}\.pth", url)


# Digests of files that the user names.


@pytest.fixture
def backbone_file(tmp_path, monkeypatch):
    """File with weights of a backbone, whose digest is listed."""
    file = tmp_path / "mine.pth"
    file.write_bytes(CONTENT)
    monkeypatch.setitem(pretrained.BACKBONES, "resnet50", f"https://example.org/resnet50-{DIGEST[:8]}.pth")
    return file


def test_a_backbone_s_file_is_named_with_its_digest(backbone_file):
    assert check_backbone(backbone_file, Backbone(name="resnet50")) == {"file": "mine.pth", "sha256": DIGEST}


@pytest.mark.parametrize("content", [b"", CONTENT[:-1], CONTENT + b"x", bytes(len(CONTENT))])
def test_a_backbone_s_file_with_another_digest_is_refused(backbone_file, content):
    backbone_file.write_bytes(content)
    with pytest.raises(WorkbenchError, match=rf"mine.pth: SHA-256 .*, but {DIGEST[:8]} is listed for resnet50; run: w"):
        check_backbone(backbone_file, Backbone(name="resnet50"))


def test_a_missing_file_of_a_backbone_is_reported(tmp_path):
    with pytest.raises(WorkbenchError, match=r"gone.pth: weights of resnet50 cannot be read .* run: workbench weights"):
        check_backbone(tmp_path / "gone.pth", Backbone(name="resnet50"))


@pytest.mark.parametrize("kind", ["pipe", "folder", "link to itself"])
def test_no_file_of_a_backbone_is_reported_without_waiting(tmp_path, kind):
    path = tmp_path / "mine.pth"
    {"pipe": lambda: os.mkfifo(path), "folder": path.mkdir, "link to itself": lambda: path.symlink_to(path)}[kind]()
    signal.alarm(5)  # the default action ends the tests, as opening a pipe would never return
    try:
        with pytest.raises(WorkbenchError, match=r"mine.pth: weights of resnet50 cannot be read \(.*\); run: workben"):
            check_backbone(path, Backbone(name="resnet50"))
    finally:
        signal.alarm(0)


@pytest.mark.parametrize(
    "backbone",
    [{"name": "resnet18"}, {"name": "resnet50", "stem": 8}, {"name": "resnet50", "channels": (8, 8, 8, 8)},
     {"name": "resnet50", "layers": (1, 1, 1, 1)}],
)  # fmt: skip
def test_a_digest_is_recorded_where_none_is_listed(backbone_file, backbone):
    backbone_file.write_bytes(b"other")
    assert check_backbone(backbone_file, Backbone(**backbone))["sha256"] == hashlib.sha256(b"other").hexdigest()


@pytest.mark.parametrize("digest", [DIGEST, DIGEST[:8], None])
def test_published_weights_need_the_listed_digest(tmp_path, monkeypatch, digest):
    weights = released.Released(publisher="authors", rows={"t3_full_vfl": 1.0}, sha256=digest)
    monkeypatch.setattr(pretrained, "read_released", lambda: {"some": weights})
    file = tmp_path / "mine.pth"
    file.write_bytes(CONTENT)
    coco = load_row("table3", "t3_full_vfl", "coco").experiment
    with_data = coco.model_copy(update={"data": coco.data.model_copy(update={"digest": "0" * 32})})
    facts = {"file": "mine.pth", "sha256": DIGEST}
    of_digest = {"weights": "some", "publisher": "authors"} if digest else {}
    for experiment in (coco, with_data):
        assert check_published(file, experiment) == facts | of_digest
    assert check_published(file, load_row("table3", "t3_raw_vfl", "coco").experiment) == facts
    file.write_bytes(b"other")
    assert check_published(file, load_row("table3", "t3_full_vfl").experiment)["file"] == "mine.pth"
    if digest is None:
        assert check_published(file, coco)["file"] == "mine.pth"
        return
    for experiment in (coco, with_data):
        with pytest.raises(WorkbenchError, match=rf"mine.pth: SHA-256 .*, but {digest} is listed for some; run: workb"):
            check_published(file, experiment)


@pytest.fixture
def two_publishers(monkeypatch):
    """Weights of the authors without a digest, and MMDetection's with one, both of one row; and weights of another."""
    listed = {
        "authors_fl": released.Released(publisher="authors", rows={"t5_atss_fl": 39.3}),
        "authors_vfl": released.Released(publisher="authors", rows={"t5_atss_vfl": 40.2}),
        "theirs": released.Released(publisher="mmdetection", rows={"t5_atss_fl": 39.4}, sha256=DIGEST[:8]),
    }
    monkeypatch.setattr(pretrained, "read_released", lambda: listed)
    return load_row("table5", "t5_atss_fl", "coco").experiment


@pytest.mark.parametrize(
    ("name", "content", "weights", "publisher"),
    [
        ("authors_fl", b"any", "authors_fl", "authors"),
        ("theirs", CONTENT, "theirs", "mmdetection"),
        ("downloaded", CONTENT, "theirs", "mmdetection"),
        ("downloaded", b"any", None, None),
    ],
)
def test_the_publisher_is_known_by_the_name_or_the_digest(tmp_path, two_publishers, name, content, weights, publisher):
    file = tmp_path / f"{name}.pth"
    file.write_bytes(content)
    facts = check_published(file, two_publishers)
    assert facts["sha256"] == hashlib.sha256(content).hexdigest()
    assert (facts.get("weights"), facts.get("publisher")) == (weights, publisher)


def test_a_listed_digest_is_checked_if_the_file_has_the_name_of_the_weights(tmp_path, two_publishers):
    file = tmp_path / "theirs.pth"
    file.write_bytes(b"other")
    with pytest.raises(WorkbenchError, match=rf"theirs.pth: SHA-256 .*, but {DIGEST[:8]} is listed for theirs; run: w"):
        check_published(file, two_publishers)


def test_weights_with_the_name_of_another_row_are_refused(tmp_path, two_publishers):
    """The focal and the varifocal loss have the same tensors, so that no other check finds an exchange."""
    file = tmp_path / "authors_vfl.pth"
    file.write_bytes(CONTENT)
    with pytest.raises(WorkbenchError) as error:
        check_published(file, two_publishers)
    assert str(error.value) == (
        f"{file}: this is the name of the weights of t5_atss_vfl, not of this run (authors_fl or theirs); import the "
        "file with --run t5_atss_vfl, or rename it"
    )


def test_weights_of_an_older_geometry_are_refused(tmp_path):
    message = (
        "weights of the geometry of MMDetection 1, which the detectors here do not have yet, so that their AP would be "
        "lower without an error; use weights of MMDetection 2 or 3"
    )
    target = tmp_path / "weights" / "gfl_r101_dcn_2x.pth"
    assert refused("gfl_r101_dcn_2x", target) == f"gfl_r101_dcn_2x: {message}"
    target.parent.mkdir()
    target.write_bytes(CONTENT)
    with pytest.raises(WorkbenchError) as error:
        check_published(target, load_row("gfl_table3", "gfl3_qfl_dfl", "coco").experiment)
    assert str(error.value) == f"{target}: {message}"
