"""Checkpoints in object stores, on web servers and in the Hub's cache: as if they were here."""

import http.server
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

import qdqcli
from qdqcli.tensors import remote
from qdqcli.tensors.aws_profile import S3Account
from qdqcli.tensors.remote_path import output_path
from qdqcli.tensors.unfinished import signed
from tests.cli.object_server import BUCKET, ObjectServer, RangeHandler, Request
from tests.cli.process import PATIENCE, environment
from tests.cli.test_output import contents
from tests.conftest import TINY, Outcome, Qdq
from tests.run.checkpoints import header_of, sample, write_safetensors
from tests.run.test_distribute import Fake, run

pytest.importorskip("obstore", reason="the extra remote is not installed")


@pytest.fixture(scope="session")
def running() -> Iterator[ObjectServer]:
    pytest.importorskip("moto.server", reason="moto[server] is not installed")
    server = ObjectServer().start()
    yield server
    server.stop()


@pytest.fixture
def server(running: ObjectServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ObjectServer:
    """An empty bucket, which the environment leads to."""
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws-credentials"))
    running.reset()
    _forget()
    return running


def _forget() -> None:
    """Forget what this process knows of stores and objects."""
    remote._known.clear()
    remote._remote.cache_clear()
    remote._store_of.cache_clear()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is gone is given up soon."""
    monkeypatch.setattr(remote, "RETRY_S", 0.5)


def ranges(server: ObjectServer, path: str) -> list[tuple[int, int]]:
    return [request.range for request in server.requests if request.path == path and request.range is not None]


def results(outcome: Outcome, place: object) -> str:
    """A report, without what names the input or differs from run to run."""
    assert outcome.code == 0, outcome.err
    report = outcome.report
    report.pop("run", None)
    return json.dumps(report).replace(str(place), "INPUT")


CANDIDATES = ("--candidates", "int4-tensor,int8-tensor")


# Reading


@pytest.mark.parametrize(
    "command",
    [
        ["stats", "--scheme", "int4-g2", "--include", "*mlp*", "--per-channel"],
        ["inspect", "--data"],
        ["sweep", "--scheme", "int8-tensor", "--scheme", "int4-tensor"],
        ["diagnose", "--num-bits", "4"],
    ],
    ids=lambda command: command[0],
)
def test_a_report_on_a_bucket_is_that_on_a_folder(
    qdq: Qdq, server: ObjectServer, model: Path, command: list[str]
) -> None:
    url = server.put(model, "some/model")
    name, *options = command
    there = qdq(name, url, *options, "--format", "json")
    assert results(there, url) == results(qdq(name, model, *options, "--format", "json"), model)


def test_a_plan_and_a_comparison_read_a_bucket(qdq: Qdq, server: ObjectServer, model: Path, tmp_path: Path) -> None:
    url = server.put(model, "model")
    for place, name in ((url, "there"), (model, "here")):
        assert qdq("plan", place, "-o", tmp_path / f"{name}.toml", "--avg-bits", "9", *CANDIDATES).code == 0
    recipes = [(tmp_path / f"{name}.toml").read_text() for name in ("there", "here")]
    assert recipes[0].replace(url, "X").replace("there.toml", "here.toml") == recipes[1].replace(str(model), "X")
    report = qdq("compare", url, model, "--format", "json").report
    assert all(row["stats"].get("exact") for row in report["tensors"] if row["status"] == "quantized")


def test_a_gate_reads_a_bucket(qdq: Qdq, server: ObjectServer, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "b.toml").write_text("[limits]\nmin_sqnr_db = 90\n")
    outcome = qdq("check", server.put(tiny, "w.safetensors"), "--budget", tmp_path / "b.toml")
    assert outcome.code == 1


def test_a_project_names_a_bucket(
    qdq: Qdq, server: ObjectServer, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.put(tiny, "w.safetensors")
    (tmp_path / "qdq.toml").write_text(f'model = "{url}"\n')
    monkeypatch.chdir(tmp_path)
    assert qdq("stats", "--format", "json").report["inputs"] == [url]


def test_stats_reads_the_header_once_and_only_the_tensors_that_it_measures(
    qdq: Qdq, server: ObjectServer, tmp_path: Path
) -> None:
    tensors = {"a": sample((512, 256)), "left": np.zeros((1024, 1024), np.float32), "b": sample((512, 256), seed=1)}
    path = write_safetensors(tmp_path / "w.safetensors", tensors)
    url = server.put(path, "w.safetensors")
    assert qdq("stats", url, "--exclude", "left").code == 0
    head, *data = ranges(server, "w.safetensors")
    assert head == (0, remote.HEAD_BYTES - 1)
    start = len(header_of(path))
    sizes = [array.nbytes for array in tensors.values()]
    assert sorted(data) == [(start, start + sizes[0] - 1), (start + sum(sizes[:2]), start + sum(sizes) - 1)]
    assert all(request.is_guarded for request in server.requests if request.range in data)


@pytest.mark.parametrize("memory", ["1KiB", "64MiB"])
def test_what_is_read_ahead_fits_the_memory_and_gives_the_same(
    qdq: Qdq, server: ObjectServer, tmp_path: Path, memory: str
) -> None:
    """Pieces smaller than a tensor, two passes over each, and hardly room for two pieces."""
    path = write_safetensors(tmp_path / "w.safetensors", {f"w{i}": sample((700, 500), seed=i) for i in range(3)})
    url = server.put(path, "w.safetensors")
    options = ("--num-bits", "4", "--format", "json", "--max-memory", memory)
    assert results(qdq("stats", url, *options), url) == results(qdq("stats", path, *options), path)


def test_an_object_that_is_replaced_while_it_is_read_is_named(qdq: Qdq, server: ObjectServer, tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "w.safetensors", {"w": sample((300, 400))})
    other = write_safetensors(tmp_path / "other.safetensors", {"w": sample((300, 400), seed=1)})
    url = server.put(path, "w.safetensors")

    def replace(request: Request) -> None:
        if request.range is not None and request.range[0]:
            server.put(other, "w.safetensors")

    server.answer = replace
    outcome = qdq("stats", url)
    assert outcome.code == 3
    assert f"{url}: was replaced while being read" in outcome.error


def test_a_server_that_is_gone_for_a_while_is_waited_for(qdq: Qdq, server: ObjectServer, tiny: Path) -> None:
    url = server.put(tiny, "w.safetensors")
    failures = iter([503, 500, 503])
    server.answer = lambda _: next(failures, None)
    assert qdq("stats", url).code == 0
    assert next(failures, None) is None


@pytest.mark.usefixtures("impatient")
def test_a_server_that_is_gone_for_good_is_an_error_of_the_input(qdq: Qdq, server: ObjectServer, tiny: Path) -> None:
    url = server.put(tiny, "w.safetensors")
    server.answer = lambda _: 503
    outcome = qdq("stats", url)
    assert outcome.code == 3
    assert f"{url}: the server answers 503, tried for 0.5 s" in outcome.error


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("s3://bucket/none.safetensors", "there is no such object"),
        ("s3://bucket/none", "there is no such object"),
        ("s3://bucket/*.safetensors", "there is no such object, and a URL is not a pattern"),
        ("s3://bucket/../w.safetensors", "'..' leads nowhere in a store"),
        ("s3://none/w.safetensors", "there is no such bucket"),
        ("s3://", "names no bucket"),
        ("ftp://host/w.safetensors", "URLs of this kind are not read"),
        ("https://host/", "names no file"),
    ],
)
def test_what_is_not_there_is_named(qdq: Qdq, server: ObjectServer, name: str, what: str) -> None:  # noqa: ARG001
    outcome = qdq("stats", name)
    assert outcome.code == 3
    assert f"{name}: {what}" in outcome.error


def test_the_name_of_an_object_leads_nowhere_else(qdq: Qdq, server: ObjectServer, tiny: Path) -> None:
    server.put(tiny, "m/w.safetensors")
    server.put(tiny, "m/a//b.safetensors")
    outcome = qdq("stats", f"s3://{BUCKET}/m")
    assert outcome.code == 3
    assert "is not named like a file" in outcome.error


def test_without_the_extra_the_message_names_it(qdq: Qdq, monkeypatch: pytest.MonkeyPatch) -> None:
    _forget()
    monkeypatch.setitem(sys.modules, "obstore", None)
    outcome = qdq("stats", "s3://bucket/w.safetensors")
    assert outcome.code == 5
    assert "pip install 'qdqcli[remote]'" in outcome.error


# Credentials


def test_a_profile_gives_the_keys(
    qdq: Qdq, server: ObjectServer, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.put(tiny, "w.safetensors")
    for name in server.environment:
        monkeypatch.delenv(name)
    (tmp_path / "aws-credentials").write_text("[lab]\naws_access_key_id = K\naws_secret_access_key = S\n")
    (tmp_path / "aws-config").write_text(f"[profile lab]\nregion = us-east-1\nendpoint_url = {server.url}\n")
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert qdq("stats", url).code == 0
    _forget()
    monkeypatch.setenv("AWS_PROFILE", "none")
    outcome = qdq("stats", url)
    assert outcome.code == 5
    assert "there is no profile 'none'" in outcome.error


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("AWS_ENDPOINT_URL", "host:9000", "not the URL of a server"),
        ("AWS_ACCESS_KEY_ID", "K\n", "contains white space"),
    ],
)
def test_a_malformed_variable_is_named(
    qdq: Qdq, server: ObjectServer, monkeypatch: pytest.MonkeyPatch, name: str, value: str, what: str
) -> None:
    monkeypatch.setenv(name, value)
    outcome = qdq("stats", f"s3://{BUCKET}/w.safetensors")
    assert server.requests == []
    assert outcome.code == 5
    assert outcome.error.startswith(f"error: {name}: ")
    assert what in outcome.error


@pytest.mark.usefixtures("impatient")
def test_no_message_shows_a_key(qdq: Qdq, server: ObjectServer, tiny: Path) -> None:
    url = server.put(tiny, "w.safetensors")
    for status, what in ((400, "answers 400"), (403, "refuses access"), (500, "answers 500")):
        server.answer = lambda _, status=status: status
        outcome = qdq("stats", url, "--verbose")
        assert outcome.code == 3
        assert what in outcome.error
        assert "AKIAOFATEST" not in outcome.err
        assert server.url not in outcome.err


# Web servers


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    root = tmp_path / "www"
    root.mkdir()
    monkeypatch.setattr(RangeHandler, "root", root, raising=False)
    monkeypatch.setattr(RangeHandler, "asked", [])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), RangeHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _forget()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_file_of_a_web_server_is_measured_as_here(qdq: Qdq, web: str, tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "www" / "a b.safetensors", TINY)
    url = f"{web}/a%20b.safetensors"
    path.rename(path.with_name("a%20b.safetensors"))
    there = results(qdq("stats", url, "--format", "json"), url)
    here = path.with_name("a%20b.safetensors")
    assert there == results(qdq("stats", here, "--format", "json"), here)
    assert RangeHandler.asked.count("GET /a%20b.safetensors") == 2


@pytest.mark.usefixtures("impatient")
def test_a_server_without_encryption_is_told_from_one_that_is_gone(qdq: Qdq, web: str) -> None:
    outcome = qdq("stats", web.replace("http:", "https:") + "/w.safetensors")
    assert outcome.code == 3
    assert "the server does not encrypt" in outcome.error


def test_the_query_of_a_signed_url_is_never_shown(
    qdq: Qdq, web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RangeHandler, "key", "SECRET")
    write_safetensors(tmp_path / "www" / "w.safetensors", {"w": sample((8, 8))})
    arguments = ("stats", f"{web}/w.safetensors?key=SECRET", "--verbose", "--format", "json")
    outcome = qdq(*arguments, "--report", tmp_path / "r.html")
    assert outcome.code == 0
    recipe = tmp_path / "plan.toml"
    assert qdq("plan", arguments[1], "-o", recipe, "--avg-bits", "9", *CANDIDATES).code == 0
    assert outcome.report["inputs"] == [f"{web}/w.safetensors"]
    monkeypatch.setattr(RangeHandler, "key", "another")
    _forget()
    failed = qdq(*arguments)
    assert failed.code == 3
    shown = outcome.out + outcome.err + failed.err + (tmp_path / "r.html").read_text() + recipe.read_text()
    assert "SECRET" not in shown


@pytest.mark.parametrize(
    "options",
    [("--num-bits", "URL"), ("--recipe", "URL"), ("--report", "URL"), ("--URL",), ("--format", "URL"), ("--debug",)],
    ids=lambda options: options[0],
)
def test_a_signature_in_the_wrong_place_is_never_shown(qdq: Qdq, options: tuple[str, ...]) -> None:
    url = "http://user:SECRET@127.0.0.1:9/w.safetensors?X-Amz-Signature=SECRET%2F+a"
    outcome = qdq("stats", *(option.replace("URL", url) for option in options), "ftp" + url.removeprefix("http"))
    assert outcome.code in (2, 3)
    assert "SECRET" not in outcome.err


def test_a_signed_url_stays_in_its_process(qdq: Qdq, web: str, tmp_path: Path) -> None:
    write_safetensors(tmp_path / "www" / "w.safetensors", {"w": sample((8, 8))})
    outcome = qdq("run", f"{web}/w.safetensors?key=K", "-o", tmp_path / "out.safetensors", "--part", "1/1")
    assert outcome.code == 2
    assert "the signature of a URL is not passed on" in outcome.error


# The cache of the Hub


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A snapshot as huggingface_hub lays it out: links to blobs."""
    repository = tmp_path / "hub" / "models--org--name"
    snapshot = repository / "snapshots" / "c0ffee"
    for folder in (snapshot, repository / "blobs", repository / "refs"):
        folder.mkdir(parents=True)
    write_safetensors(repository / "blobs" / "b1", TINY)
    (snapshot / "model.safetensors").symlink_to("../../blobs/b1")
    (repository / "refs" / "main").write_text("c0ffee")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return snapshot


@pytest.mark.parametrize(
    "name", ["org/name", "org/name/", "org/name@main", "org/name@c0ffee", "org/name/model.safetensors"]
)
def test_the_cache_of_the_hub_serves_its_urls(qdq: Qdq, cached: Path, name: str) -> None:
    outcome = qdq("stats", f"hf://{name}", "--format", "json")
    place = cached / "model.safetensors" if name.endswith("safetensors") else cached
    assert results(outcome, place) == results(qdq("stats", place, "--format", "json"), place)


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize(
    ("name", "code", "what"),
    [
        ("org/other", 5, "hf download org/other"),
        ("org/name@v2", 5, "hf download org/name --revision v2"),
        ("../name", 3, "is no name of a model"),
    ],
)
def test_what_the_cache_has_not_is_said(qdq: Qdq, name: str, code: int, what: str) -> None:
    outcome = qdq("stats", f"hf://{name}")
    assert outcome.code == code
    assert what in outcome.error


# Writing


def run_here(qdq: Qdq, source: Path, target: Path, *options: str) -> tuple[Outcome, dict[str, bytes]]:
    """The report of a local run, and the files that it wrote."""
    outcome = qdq("run", source, "-o", target, *options, "--format", "json")
    assert outcome.code == 0, outcome.err
    files = [path for path in sorted(target.rglob("*")) if path.is_file()] or [target]
    return outcome, {path.relative_to(target.parent).as_posix(): path.read_bytes() for path in files}


def test_a_folder_in_a_bucket_gets_the_bytes_and_the_report_of_one_here(
    qdq: Qdq, server: ObjectServer, model: Path, tmp_path: Path
) -> None:
    local, files = run_here(qdq, model, tmp_path / "out", "--verify")
    there = qdq("run", model, "-o", f"s3://{BUCKET}/out", "--verify", "--format", "json")
    assert there.code == 0, there.err
    assert server.objects() == files
    assert results(there, "-") == results(local, "-")
    assert server.unfinished() == []
    order = [request.path for request in server.requests if request.method == "PUT" and request.path in files]
    assert [name.rpartition("/")[2] for name in order[-2:]] == ["model.safetensors.index.json", "qdq.json"]
    again = qdq("run", model, "-o", f"s3://{BUCKET}/out", "--resume")
    assert "is finished already, nothing is written" in again.err
    refused = qdq("run", model, "-o", f"s3://{BUCKET}/out")
    assert refused.code == 2
    assert "exists" in refused.error
    other = qdq("run", model, "-o", f"s3://{BUCKET}/out", "--resume", "--num-bits", "4")
    assert other.code == 2
    assert "num_bits was 8 and is 4" in other.error
    assert server.objects() == files


def test_a_resumed_run_leaves_what_no_run_was_interrupted_on(qdq: Qdq, server: ObjectServer, model: Path) -> None:
    url = server.put(model, "mine")
    before = server.objects()
    outcome = qdq("run", model, "-o", url, "--resume")
    assert outcome.code == 2
    assert "is not what this run gives" in outcome.error
    assert server.objects() == before


@pytest.mark.parametrize("source", ["tiny.safetensors", "x.npz", "x.npy"])
def test_a_single_file_goes_from_a_bucket_to_a_bucket(
    qdq: Qdq, server: ObjectServer, tiny: Path, tmp_path: Path, source: str
) -> None:
    np.savez_compressed(tmp_path / "x.npz", a=sample((30, 40)), b=np.arange(3))
    np.save(tmp_path / "x.npy", sample((30, 40)))
    name = f"out{Path(source).suffix}"
    _, files = run_here(qdq, tiny.with_name(source), tmp_path / name)
    url = server.put(tiny.with_name(source), f"in/{source}")
    assert qdq("run", url, "-o", f"s3://{BUCKET}/{name}", "--verify", "--provenance").code == 0
    objects = server.objects()
    assert objects[name] == files[name]
    assert set(objects) == {name, f"in/{source}", f"{name}.qdq.json"}
    outcome = qdq("run", url, "-o", url)
    assert outcome.code == 2
    assert "is, holds or lies in the input" in outcome.error


def test_an_output_in_a_bucket_is_replaced_only_where_it_is_a_run_s(
    qdq: Qdq, server: ObjectServer, model: Path, tmp_path: Path
) -> None:
    url = f"s3://{BUCKET}/out"
    assert qdq("run", model, "-o", url).code == 0
    (model / "config.json").unlink()
    assert qdq("run", model, "-o", url, "--num-bits", "4", "--overwrite").code == 0
    _, files = run_here(qdq, model, tmp_path / "out", "--num-bits", "4")
    assert server.objects() == files
    server.put(tmp_path / "out" / "qdq.json", "out/mine.txt")
    outcome = qdq("run", model, "-o", url, "--overwrite")
    assert outcome.code == 2
    assert "mine.txt: belongs to no output" in outcome.error
    assert set(server.objects()) == {*files, "out/mine.txt"}


def test_an_output_is_not_both_a_file_and_a_folder(qdq: Qdq, server: ObjectServer, model: Path, tiny: Path) -> None:
    file, folder = server.put(tiny, "one"), server.put(model, "many")
    before = server.objects()
    for input_, output, is_what in ((model, file, "is a file"), (tiny, folder, "is a folder")):
        outcome = qdq("run", input_, "-o", output, "--overwrite")
        assert outcome.code == 2
        assert f"{output}: {is_what}, the output is a" in outcome.error
    assert server.objects() == before


def test_an_output_in_no_bucket_is_said(qdq: Qdq, server: ObjectServer, model: Path, tiny: Path) -> None:  # noqa: ARG001
    for input_ in (model, tiny):
        outcome = qdq("run", input_, "-o", "s3://none/out")
        assert outcome.code == 4
        assert "s3://none/out: there is no such bucket" in outcome.error


def test_a_report_is_a_local_file(qdq: Qdq, tiny: Path) -> None:
    outcome = qdq("stats", tiny, "--report", f"s3://{BUCKET}/r.json")
    assert outcome.code == 2
    assert "--report writes no URL" in outcome.error


@pytest.mark.parametrize("name", ["https://host/out.safetensors", "hf://org/name", "s3://bucket"])
def test_what_cannot_be_written_is_said(qdq: Qdq, tiny: Path, name: str) -> None:
    outcome = qdq("run", tiny, "-o", name)
    assert outcome.code == 2
    assert "cannot be written" in outcome.error or "names only a bucket" in outcome.error


def test_a_lock_of_another_machine_holds_until_it_is_broken(qdq: Qdq, server: ObjectServer, model: Path) -> None:
    url = f"s3://{BUCKET}/out"
    holder = {"host": "elsewhere", "space": "x", "pid": 7, "started": "1", "since": "noon"}
    server.ask("PUT", f"/{BUCKET}/out.qdq-partial/lock", json.dumps(holder).encode())
    outcome = qdq("run", model, "-o", url)
    assert outcome.code == 2
    assert "process 7 of elsewhere" in outcome.error
    assert qdq("run", model, "-o", url, "--break-lock").code == 0
    assert not any("partial" in name for name in server.objects())


def test_a_server_that_is_gone_while_it_is_written_is_waited_for_and_then_an_error_of_the_output(
    qdq: Qdq, server: ObjectServer, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, files = run_here(qdq, model, tmp_path / "out")
    url = f"s3://{BUCKET}/out"
    second = "out/model-00002-of-00002.safetensors"
    failures = iter([503, 500])
    server.answer = lambda request: next(failures, None) if request.path == second else None
    assert qdq("run", model, "-o", f"s3://{BUCKET}/out").code == 0
    assert server.objects() == files
    server.reset()
    _forget()
    monkeypatch.setattr(remote, "RETRY_S", 0.5)
    server.answer = lambda request: 503 if request.path == second and request.method == "PUT" else None
    outcome = qdq("run", model, "-o", url)
    assert outcome.code == 4
    assert f"s3://{BUCKET}/{second}: the server answers 503" in outcome.error
    assert "--resume goes on from here" in outcome.error
    names = [name for name in server.objects() if not name.startswith("out.qdq-partial/")]
    assert names == ["out/model-00001-of-00002.safetensors"]
    server.answer = lambda _: None
    server.requests.clear()
    assert qdq("run", model, "-o", url, "--resume").code == 0
    assert server.objects() == files
    assert not any(r.path == names[0] and r.method == "PUT" for r in server.requests)


def test_an_input_that_is_replaced_while_it_is_quantized_leaves_nothing(
    qdq: Qdq, server: ObjectServer, tmp_path: Path
) -> None:
    path = write_safetensors(tmp_path / "w.safetensors", {"w": sample((300, 400))})
    other = write_safetensors(tmp_path / "other.safetensors", {"w": sample((300, 400), seed=1)})
    url = server.put(path, "w.safetensors")

    def replace(request: Request) -> None:
        if request.path == "w.safetensors" and request.range is not None and request.range[0]:
            server.put(other, "w.safetensors")

    server.answer = replace
    outcome = qdq("run", url, "-o", f"s3://{BUCKET}/out.safetensors")
    assert outcome.code == 3
    assert f"{url}: was replaced while being read" in outcome.error
    assert set(server.objects()) == {"w.safetensors"}


LARGE = 6 << 20
"""Bytes of a tensor that is sent in two parts, which S3 wants no smaller than 5 MiB."""
KILLED = """
import sys
from qdqcli.tensors import remote
from qdqcli.tensors.aws_profile import S3Account
from qdqcli.tensors.unfinished import signed
remote.PART_BYTES = 5 << 20
from qdqcli.cli.main import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Two shards, each in two parts, an index and a side file."""
    folder = tmp_path / "large"
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for i, name in enumerate(shards):
        write_safetensors(folder / name, {f"w{i}": sample((LARGE // 4096, 1024), seed=i)})
    index = {"weight_map": {f"w{i}": name for i, name in enumerate(shards)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text("{}")
    return folder


def kill_at(server: ObjectServer, source: Path, is_time: Callable[[Request], bool]) -> int:
    """Run in a process that is killed when a request comes; returns its status."""
    command = [sys.executable, "-c", KILLED, "run", str(source), "-o", f"s3://{BUCKET}/out", "--resume"]
    process = subprocess.Popen(
        command, env=environment(**server.environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )

    def kill(request: Request) -> int | None:
        if not is_time(request):
            return None
        process.kill()
        return 500

    server.answer = kill
    _, stderr = process.communicate(timeout=PATIENCE)
    server.answer = lambda _: None
    assert process.returncode in (0, -9), stderr
    return process.returncode


def is_loadable(objects: Mapping[str, bytes]) -> bool:
    return "out/model.safetensors.index.json" in objects


def test_a_run_killed_in_the_middle_of_an_upload_leaves_nothing_that_is_seen_and_is_resumed(
    qdq: Qdq, server: ObjectServer, large: Path, tmp_path: Path
) -> None:
    _, files = run_here(qdq, large, tmp_path / "out")
    second = "out/model-00002-of-00002.safetensors"
    assert kill_at(server, large, lambda r: r.path == second and "partNumber=2" in r.query) == -9
    objects = server.objects()
    assert second not in objects
    assert not is_loadable(objects)
    assert server.unfinished() == [second]
    server.requests.clear()
    assert qdq("run", large, "-o", f"s3://{BUCKET}/out", "--resume").code == 0
    assert server.objects() == files
    assert server.unfinished() == []
    assert not any("00001-of" in r.path and r.method == "PUT" for r in server.requests)


@pytest.mark.faults
def test_a_run_killed_at_any_request_that_writes_is_resumed(
    qdq: Qdq, server: ObjectServer, large: Path, tmp_path: Path, every_fault: bool
) -> None:
    _, files = run_here(qdq, large, tmp_path / "out")
    number = 0
    while True:
        server.reset()
        _forget()
        count = iter(range(1000))
        at = number
        if kill_at(server, large, lambda r, at=at, count=count: r.method != "GET" and next(count) == at) == 0:
            break
        objects = server.objects()
        assert not is_loadable(objects) or files.items() - {("out/qdq.json", files["out/qdq.json"])} <= objects.items()
        outcome = qdq("run", large, "-o", f"s3://{BUCKET}/out", "--resume")
        assert outcome.code == 0, (number, outcome.err)
        assert server.objects() == files, number
        assert server.unfinished() == [], number
        number += 1 if every_fault else 5
    assert number > 15


def test_a_signature_is_that_of_the_example_in_the_documentation() -> None:
    """docs.aws.amazon.com, "Examples: Signature Calculations in AWS Signature Version 4", GET Bucket Lifecycle."""
    account = S3Account(
        key="AKIAIOSFODNN7EXAMPLE",
        secret="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        token="",
        region="us-east-1",
        endpoint="https://examplebucket.s3.amazonaws.com",
    )
    headers = signed(
        account, "GET", "examplebucket.s3.amazonaws.com", "/", "lifecycle=", datetime(2013, 5, 24, tzinfo=UTC)
    )
    assert headers["Authorization"].endswith("fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543")


@pytest.mark.faults
@pytest.mark.parametrize("command", ["stats", "run"])
def test_a_server_that_is_gone_from_any_request_on_is_an_error_of_its_side(
    qdq: Qdq, server: ObjectServer, model: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "RETRY_S", 0.1)
    path = next(model.glob("*00001*"))
    number = 0
    while True:
        server.reset()
        _forget()
        source, options = (server.put(path, path.name), []) if command == "stats" else (model, ["--verify"])
        count = iter(range(1000))
        server.answer = lambda _, at=number, count=count: 503 if next(count) >= at else None
        outcome = qdq(command, source, *options, *(["-o", f"s3://{BUCKET}/out"] if command == "run" else []))
        if outcome.code == 0:
            break
        assert outcome.code == (3 if command == "stats" else 4), (number, outcome.err)
        assert re.search("answers 503|does not answer", outcome.error), outcome.error
        assert not is_loadable(server.objects()) or number > 20
        number += 1
    assert number > (2 if command == "stats" else 20)


# Parts


def test_parts_of_an_output_in_a_bucket_are_a_run_in_one_piece(
    qdq: Qdq, server: ObjectServer, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, files = run_here(qdq, model, tmp_path / "out", "--verify")
    there = f"s3://{BUCKET}/out"
    source = server.put(model, f"in/{model.name}")
    monkeypatch.setattr(Path, "cwd", lambda: tmp_path / "none")  # a folder of another machine
    for part in ("2/3", "1/3", "2/3"):
        outcome = qdq("run", source, "-o", there, "--part", part)
        assert (outcome.code, outcome.out) == (0, ""), outcome.err
        assert outcome.err.endswith(f"when all parts are done: qdq finish {there}\n")
    assert not is_loadable(server.objects())
    assert qdq("run", source, "-o", there, "--part", "1/1", "--num-bits", "4").error.endswith("settings")
    assert qdq("run", source, "-o", there, "--part", "3/3").code == 0
    finished = qdq("finish", there, "--verify", "--format", "json")
    assert results(finished, source) == results(local, model)
    assert {name: data for name, data in server.objects().items() if name.startswith("out")} == files
    assert "it was finished before" in qdq("finish", there).error
    assert "parts do not replace" in qdq("run", source, "-o", there, "--overwrite", "--part", "1/3").error


@pytest.mark.parametrize("seed", range(2))
def test_an_engine_writes_to_a_bucket_as_here(server: ObjectServer, model: Path, tmp_path: Path, seed: int) -> None:
    expected = qdqcli.run(model, tmp_path / "out", num_bits=4)
    files = {f"out/{name}": data for name, data in contents(tmp_path / "out").items()}
    report = run(model, output_path(f"s3://{BUCKET}/out"), Fake(seed), num_bits=4)
    assert report.to_json() == expected.to_json()
    assert server.objects() == files
    assert server.unfinished() == []


def test_a_shard_that_another_process_replaces_is_noticed_before_the_end(
    qdq: Qdq, server: ObjectServer, model: Path, tmp_path: Path
) -> None:
    """A worker that outlived another run completes its upload late."""
    _, files = run_here(qdq, model, tmp_path / "out")
    shard = next(name for name in files if name.endswith("00001-of-00002.safetensors"))

    def replace(request: Request) -> None:
        if request.path == "out/config.json" and request.method == "PUT":
            server.ask("PUT", f"/{BUCKET}/{shard}", files[shard][::-1])

    server.answer = replace
    outcome = qdq("run", model, "-o", f"s3://{BUCKET}/out")
    assert outcome.code == 4
    assert f"{shard}: was replaced by another process; --resume makes it again" in outcome.error
    assert not is_loadable(server.objects())
    server.answer = lambda _: None
    assert qdq("run", model, "-o", f"s3://{BUCKET}/out", "--resume").code == 0
    assert server.objects() == files
