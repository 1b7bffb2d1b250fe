import errno
import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from qdqcli.errors import InputError, OutputError, UsageError
from qdqcli.output import placement, replaced
from qdqcli.output import tree as tree_module
from qdqcli.output.tree import OutputTree, partial_path
from qdqcli.tensors.checkpoint import Checkpoint, copy_tensor, open_checkpoint
from qdqcli.tensors.rename import exchange
from tests.tensors.files import model_folder, safetensors_bytes, write

GOOD = safetensors_bytes({"w": ("F32", (2,)), "v": ("I8", (3,))})


def copy_all(tree: OutputTree, checkpoints: Sequence[Checkpoint]) -> None:
    for checkpoint in checkpoints:
        for shard in checkpoint.shards:
            with shard.open() as reader:
                writer = tree.create(checkpoint, shard, reader)
                for tensor in shard.tensors:
                    copy_tensor(tensor, reader, writer)
                writer.commit()
    tree.copy_side_files()


def run(inputs: Sequence[Path], output: Path, *, overwrite: bool = False) -> None:
    checkpoints = [open_checkpoint(path) for path in inputs]
    with OutputTree(checkpoints, output, overwrite=overwrite) as tree:
        copy_all(tree, checkpoints)
        assert tree.partial.exists()
        tree.commit()


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def refuse(
    inputs: Sequence[Path], output: Path, reason: str, *, overwrite: bool = False, follow_links: bool = False
) -> None:
    """The constructor refuses and leaves everything as it was."""
    checkpoints = [open_checkpoint(path, follow_links=follow_links) for path in inputs]
    before = sorted(output.parent.rglob("*")) if output.parent.exists() else None
    with pytest.raises(UsageError, match=reason):
        OutputTree(checkpoints, output, overwrite=overwrite)
    assert before == (sorted(output.parent.rglob("*")) if output.parent.exists() else None)


def test_file_to_file(tmp_path: Path) -> None:
    run([write(tmp_path / "in.safetensors", GOOD)], tmp_path / "out.safetensors")
    assert contents(tmp_path) == {"in.safetensors": GOOD, "out.safetensors": GOOD}


def test_folder_to_folder(tmp_path: Path) -> None:
    model_folder(tmp_path / "in")
    run([tmp_path / "in"], tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "in")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_several_inputs_to_a_folder_of_entries(tmp_path: Path) -> None:
    folder, file = model_folder(tmp_path / "a" / "m"), write(tmp_path / "b" / "w.safetensors", GOOD)
    run([folder, file], tmp_path / "out")
    assert contents(tmp_path / "out" / "m") == contents(folder)
    assert (tmp_path / "out" / "w.safetensors").read_bytes() == GOOD


def test_inputs_of_one_name_are_refused(tmp_path: Path) -> None:
    files = [write(tmp_path / name / "w.safetensors", GOOD) for name in "ab"]
    refuse(files, tmp_path / "out", r"b/w\.safetensors: would have the same name in OUTPUT as .*a/w\.safetensors")


def test_links_are_copied_as_content(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "models--a--b" / "snapshots" / "rev")
    write(tmp_path / "models--a--b" / "blobs" / "1", b"words")
    (folder / "tokenizer.txt").symlink_to("../../blobs/1")
    run([folder], tmp_path / "out")
    assert not (tmp_path / "out" / "tokenizer.txt").is_symlink()
    assert (tmp_path / "out" / "tokenizer.txt").read_bytes() == b"words"


def test_an_exception_leaves_nothing(tmp_path: Path) -> None:
    checkpoints = [open_checkpoint(model_folder(tmp_path / "in"))]

    def fail() -> None:
        with OutputTree(checkpoints, tmp_path / "out") as tree:
            copy_all(tree, checkpoints)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def make_existing(path: Path, kind: str) -> None:
    if kind == "file":
        path.write_bytes(b"")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("nowhere")


@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_an_output_that_exists_is_refused(tmp_path: Path, kind: str) -> None:
    file = write(tmp_path / "in" / "w.safetensors", GOOD)
    make_existing(tmp_path / "out", kind)
    refuse([file], tmp_path / "out", "exists.*--overwrite")
    refuse([file.parent], tmp_path / "out", "exists.*--overwrite")


def test_overwrite_replaces_like_by_like(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "in")
    write(tmp_path / "out" / "config.json", b"old")
    write(folder / "config.json", b"new")
    run([folder], tmp_path / "out", overwrite=True)
    assert contents(tmp_path / "out") == contents(folder)
    run([write(tmp_path / "w.safetensors", GOOD)], write(tmp_path / "x", b"old"), overwrite=True)
    assert (tmp_path / "x").read_bytes() == GOOD
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out", "w.safetensors", "x"]


def test_overwrite_replaces_what_an_earlier_run_wrote(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "in")
    marker = {"tool": {"name": "qdq"}, "outputs": {"old.safetensors": {}, "sub/old.txt": {}}}
    write(tmp_path / "out" / "qdq.json", json.dumps(marker).encode())
    write(tmp_path / "out" / "old.safetensors", b"old")
    write(tmp_path / "out" / "sub" / "old.txt", b"old")
    run([folder], tmp_path / "out", overwrite=True)
    assert contents(tmp_path / "out") == contents(folder)


NO_MARKERS = [
    "",
    "[]",
    "{}",
    "null",
    '{"outputs": {"thesis.txt": {}}}',
    '{"tool": 1, "outputs": {"thesis.txt": {}}}',
    "[",
]


@pytest.mark.parametrize("text", NO_MARKERS)
def test_a_file_that_is_no_marker_allows_nothing(tmp_path: Path, text: str) -> None:
    folder = model_folder(tmp_path / "in")
    write(tmp_path / "out" / "qdq.json", text.encode())
    thesis = write(tmp_path / "out" / "thesis.txt", b"words")
    refuse([folder], tmp_path / "out", "thesis.txt: belongs to no output", overwrite=True)
    assert thesis.read_bytes() == b"words"


def test_a_marker_that_came_with_a_clone_gives_no_repository_away(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "in")
    head = write(tmp_path / "out" / "sub" / ".git" / "HEAD", b"ref: refs/heads/main")
    marker = {"tool": {"name": "qdq"}, "outputs": {"sub/.git/HEAD": {}}}
    write(tmp_path / "out" / "qdq.json", json.dumps(marker).encode())
    refuse([folder], tmp_path / "out", "sub/.git: belongs to no output", overwrite=True)
    assert head.exists()


FOREIGN = {
    "file": "notes.txt",
    "hidden file": ".env",
    "file below": "1_Pooling/notes.txt",
    "empty folder": ".git/",
    "folder under a file's name": "config.json/",
    "link": "latest -> config.json",
    "link to a folder": "data -> ..",
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_overwrite_deletes_nothing_that_is_no_output(tmp_path: Path, kind: str) -> None:
    folder = model_folder(tmp_path / "in")
    write(folder / "config.json", b"{}")
    write(folder / "1_Pooling" / "config.json", b"{}")
    out = tmp_path / "out"
    write(out / "model-00001-of-00002.safetensors", b"old")
    name, _, target = FOREIGN[kind].partition(" -> ")
    if target:
        (out / name).symlink_to(target)
    elif name.endswith("/"):
        (out / name).mkdir()
    else:
        write(out / name, b"words")
    reason = f"{re.escape(name.removesuffix('/'))}: belongs to no output of qdq, and --overwrite would delete it"
    refuse([folder], out, reason, overwrite=True)


def test_what_appears_in_the_output_meanwhile_is_not_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the exchange, and between the look and the exchange."""
    folder, out = model_folder(tmp_path / "in"), tmp_path / "out"
    write(out / "model-00001-of-00002.safetensors", b"old")
    checkpoints = [open_checkpoint(folder)]
    exchanged = []

    def exchange_late(one: Path, other: Path) -> bool:
        if not exchanged:
            write(out / "thesis.txt", b"words")
        exchanged.append((one, other))
        return exchange(one, other)

    monkeypatch.setattr(tree_module, "exchange", exchange_late)
    for _ in range(2):
        with OutputTree(checkpoints, out, overwrite=not exchanged, resume=bool(exchanged)) as tree:
            tree.may_replace = True
            copy_all(tree, checkpoints)
            with pytest.raises(UsageError, match=r"thesis.txt: belongs to no output"):
                tree.commit()
        assert contents(out) == {"model-00001-of-00002.safetensors": b"old", "thesis.txt": b"words"}
    assert len(exchanged) == 2, "there and back"


def test_what_appears_in_the_old_output_after_the_exchange_is_not_deleted(tmp_path: Path) -> None:
    """By a process whose working folder it is; neither by this run nor by the next."""
    folder, out = model_folder(tmp_path / "in"), tmp_path / "out"
    write(out / "model-00001-of-00002.safetensors", b"old")
    checkpoints = [open_checkpoint(folder)]
    tree = OutputTree(checkpoints, out, overwrite=True)
    thesis = tree.partial / "replaced" / "thesis.txt"

    def replace_late() -> None:
        with tree:
            copy_all(tree, checkpoints)
            tree.commit()
            write(thesis, b"words")

    for attempt in (replace_late, OutputTree(checkpoints, out, overwrite=True).__enter__):
        with pytest.raises(UsageError, match=r"replaced/thesis.txt: belongs to no output of qdq"):
            attempt()
        assert thesis.read_bytes() == b"words"
        assert contents(out) == contents(folder)
    thesis.rename(tmp_path / "thesis.txt")
    run([folder], out, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out", "thesis.txt"]


def test_a_mount_point_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model_folder(tmp_path / "in")
    write(folder / "sub" / "config.json", b"{}")
    kept = write(tmp_path / "out" / "sub" / "config.json", b"on another disk")
    monkeypatch.setattr(replaced, "mount_points", lambda _: [kept.parent])
    refuse([folder], tmp_path / "out", "out/sub: is a mount point, which --overwrite never replaces", overwrite=True)
    monkeypatch.setattr(placement, "mount_points", lambda found: [found])
    refuse([folder], tmp_path / "out", "out: is a mount point, whose name cannot be given", overwrite=True)


def test_a_folder_that_cannot_be_emptied_is_found_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model_folder(tmp_path / "in")
    write(folder / "sub" / "config.json", b"{}")
    locked = write(tmp_path / "out" / "sub" / "config.json", b"old").parent
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != locked)  # root may write everywhere
    with pytest.raises(OutputError, match=r"out/sub: is read-only, so --overwrite cannot remove what is in it"):
        OutputTree([open_checkpoint(folder)], tmp_path / "out", overwrite=True)


@pytest.mark.parametrize("place", ["/dev/new", "/proc/new", "/proc/self/new"])
def test_devices_and_processes_are_no_place_for_an_output(tmp_path: Path, place: str) -> None:
    """Root could replace /dev/stdout, a link, where standard output is a file."""
    file = write(tmp_path / "w.safetensors", GOOD)
    with pytest.raises(UsageError, match=r"lies in /(dev|proc), which is no disk"):
        OutputTree([open_checkpoint(file)], Path(place))


class Killed(BaseException):
    """The process ends here: nothing is tidied."""


@pytest.mark.parametrize("can_exchange", [True, False])
def test_old_and_new_are_exchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool) -> None:
    """In one step, so that OUTPUT is never absent; killed behind it, a run that resumes knows that all is done."""
    folder, out = model_folder(tmp_path / "in"), tmp_path / "out"
    write(out / "model-00001-of-00002.safetensors", b"old")
    checkpoints = [open_checkpoint(folder)]

    def exchange_and_die(one: Path, other: Path) -> bool:
        if not can_exchange:
            return False
        exchange(one, other)
        raise Killed

    monkeypatch.setattr(tree_module, "exchange", exchange_and_die)
    tree = OutputTree(checkpoints, out, overwrite=True)
    tree.__enter__()
    copy_all(tree, checkpoints)
    finished = [(c, shard, tree.identity_of(c, shard)) for c in checkpoints for shard in c.shards]
    with suppress(Killed):
        tree.commit()
    tree.suspend()
    assert contents(out) == contents(folder)
    with OutputTree(checkpoints, out, overwrite=True, resume=True) as tree:
        assert tree.recognise_commit(finished)
    assert contents(out) == contents(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_names_that_this_disk_takes_for_one_are_found_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vfat, exFAT, CIFS: simulated."""
    folder = tmp_path / "in"
    for name in ("A.safetensors", "a.safetensors"):
        write(folder / name, GOOD)
    checkpoints = [open_checkpoint(folder)]
    run([folder], tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 2, "this disk tells them apart"
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: exists(path.with_name(path.name.lower())))
    with (
        pytest.raises(UsageError, match=r"a.safetensors: differs from A.safetensors in upper and lower case alone"),
        OutputTree(checkpoints, tmp_path / "other"),
    ):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_nothing_strange_is_put_in_place(tmp_path: Path) -> None:
    checkpoints = [open_checkpoint(model_folder(tmp_path / "in"))]
    with OutputTree(checkpoints, tmp_path / "out") as tree:
        copy_all(tree, checkpoints)
        write(tree.result / "more.txt", b"words")
        with pytest.raises(OutputError, match=r"more.txt: is no part of the output"):
            tree.commit()
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_overwrite_replaces_a_link_and_not_what_it_leads_to(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "in")
    kept = write(tmp_path / "elsewhere" / "kept.txt", b"kept")
    (tmp_path / "out").symlink_to("elsewhere")
    run([folder], tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out").is_symlink()
    assert kept.read_bytes() == b"kept"


def test_overwrite_never_changes_the_kind(tmp_path: Path) -> None:
    file = write(tmp_path / "in" / "w.safetensors", GOOD)
    write(tmp_path / "f", b"")
    write(tmp_path / "d" / "x", b"")
    refuse([file], tmp_path / "d", "is a folder, the output is a file", overwrite=True)
    refuse([file.parent], tmp_path / "f", "is a file, the output is a folder", overwrite=True)
    refuse([file], Path("/dev/null"), "neither a file nor a folder", overwrite=True)


SPELLINGS = ["same", "dotted", "relative", "symlink", "hard link", "through a linked folder", "in the folder", "parent"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_output_that_is_the_input_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str, overwrite: bool
) -> None:
    file = write(tmp_path / "d" / "w.safetensors", GOOD)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("d/w.safetensors")
    os.link(file, tmp_path / "hard")
    (tmp_path / "linked").symlink_to("d")
    inputs, output = {
        "same": ([file], file),
        "dotted": ([file], tmp_path / "d" / ".." / "d" / "w.safetensors"),
        "relative": ([file], Path("d/w.safetensors")),
        "symlink": ([file], tmp_path / "link"),
        "hard link": ([file], tmp_path / "hard"),
        "through a linked folder": ([file], tmp_path / "linked" / "w.safetensors"),
        "in the folder": ([file.parent], file),
        "parent": ([file], tmp_path),
    }[spelling]
    refuse(inputs, output, "is or holds the input|lies in the input", overwrite=overwrite)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "place", ["m", "m/new", "linked/new", "m/1_Pooling/new", ".", "hub/blobs", "to_m/new", "points_in"]
)
def test_an_output_in_or_around_an_input_folder_is_refused(tmp_path: Path, place: str, overwrite: bool) -> None:
    folder = model_folder(tmp_path / "m")
    (tmp_path / "linked").symlink_to("m")
    (tmp_path / "to_m").symlink_to("linked")
    (tmp_path / "points_in").symlink_to("m/not_yet")
    blob = write(tmp_path / "hub" / "blobs" / "1", b"words")
    (folder / "tokenizer.txt").symlink_to(blob)
    refuse([folder], tmp_path / place, "input", overwrite=overwrite, follow_links=True)


def test_a_partial_folder_that_is_the_input_is_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "out.qdq-partial")
    refuse([folder], tmp_path / "out", "is or holds the input")


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("place", ["m", "m/new", ".", "m/model-00001-of-00002.safetensors", "w.safetensors"])
def test_a_protected_input_is_safe_though_nothing_of_it_is_written(tmp_path: Path, place: str, overwrite: bool) -> None:
    checkpoints = [open_checkpoint(write(tmp_path / "w.safetensors", GOOD))]
    protected = [open_checkpoint(model_folder(tmp_path / "m"))]
    before = contents(tmp_path)
    with pytest.raises(UsageError, match=r"is or holds the input|lies in the input"):
        OutputTree(checkpoints, tmp_path / place, protected=protected, overwrite=overwrite)
    assert contents(tmp_path) == before


def test_parent_folder_must_exist(tmp_path: Path) -> None:
    file = write(tmp_path / "w.safetensors", GOOD)
    refuse([file], tmp_path / "no" / "out.safetensors", r"there is no folder .*/no; create it")
    refuse([file], file / "out.safetensors", "there is no folder")


@pytest.mark.parametrize("output", ["/", ".", "..", "x/.."])
def test_output_needs_a_name(tmp_path: Path, output: str) -> None:
    file = write(tmp_path / "w.safetensors", GOOD)
    with pytest.raises(UsageError):
        OutputTree([open_checkpoint(file)], Path(output), overwrite=True)


def test_too_little_space_is_found_before_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement.shutil, "disk_usage", lambda _: SimpleNamespace(total=1000, free=100))
    checkpoint = open_checkpoint(model_folder(tmp_path / "in"))
    needed = sum(len(data) for data in contents(tmp_path / "in").values())
    with pytest.raises(OutputError, match=f"out: needs {needed} bytes but the disk has 100 bytes free"):
        OutputTree([checkpoint], tmp_path / "out")


def test_two_runs_do_not_build_one_output(tmp_path: Path) -> None:
    checkpoints = [open_checkpoint(model_folder(tmp_path / "in"))]
    with OutputTree(checkpoints, tmp_path / "out") as first:
        copy_all(first, checkpoints)
        second = OutputTree(checkpoints, tmp_path / "out")
        with pytest.raises(UsageError, match="another run is writing"):
            second.__enter__()
        first.commit()
    assert contents(tmp_path / "out") == contents(tmp_path / "in")


def test_an_output_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    checkpoints = [open_checkpoint(write(tmp_path / "w.safetensors", GOOD))]
    with OutputTree(checkpoints, tmp_path / "out") as tree:
        copy_all(tree, checkpoints)
        (tmp_path / "out").write_bytes(b"theirs")
        with pytest.raises(UsageError, match="exists"):
            tree.commit()
    assert contents(tmp_path) == {"w.safetensors": GOOD, "out": b"theirs"}


def test_a_stale_partial_folder_is_removed(tmp_path: Path) -> None:
    model_folder(tmp_path / "in")
    write(tmp_path / "out.qdq-partial" / "lock", b"")
    write(tmp_path / "out.qdq-partial" / "result" / "stale.txt", b"")
    run([tmp_path / "in"], tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "in")
    assert not (tmp_path / "out.qdq-partial").exists()


def test_a_disk_that_is_mounted_in_a_stale_partial_folder_keeps_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_folder(tmp_path / "in")
    write(tmp_path / "out.qdq-partial" / "lock", b"")
    kept = write(tmp_path / "out.qdq-partial" / "result" / "disk" / "thesis.txt", b"words")
    monkeypatch.setattr(tree_module, "mount_points", lambda _: [kept.parent])
    with pytest.raises(OutputError, match=r"result/disk: is a mount point in a folder that is to be removed"):
        run([tmp_path / "in"], tmp_path / "out")
    assert kept.read_bytes() == b"words"


def test_a_disk_that_is_mounted_as_the_partial_folder_is_found_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be renamed from it to OUTPUT; it may be empty, as an earlier run's folder is not."""
    checkpoints = [open_checkpoint(model_folder(tmp_path / "in"))]
    partial = tmp_path / "out.qdq-partial"
    partial.mkdir()
    monkeypatch.setattr(tree_module, "mount_points", lambda found: [found] if found == partial else [])
    tree = OutputTree(checkpoints, tmp_path / "out")
    with pytest.raises(OutputError, match=r"out\.qdq-partial: is a mount point in a folder that is to be removed"):
        tree.__enter__()
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    checkpoints = [open_checkpoint(model_folder(tmp_path / "in"))]
    thesis = write(tmp_path / "out.qdq-partial" / "thesis.txt", b"words")
    with pytest.raises(UsageError, match="in the way"), OutputTree(checkpoints, tmp_path / "out"):
        pass
    assert thesis.read_bytes() == b"words"


def test_a_suspended_run_is_resumed(tmp_path: Path) -> None:
    checkpoints = [open_checkpoint(model_folder(tmp_path / "in"))]
    (shard, _) = checkpoints[0].shards
    tree = OutputTree(checkpoints, tmp_path / "out")
    tree.__enter__()
    with shard.open() as reader:
        writer = tree.create(checkpoints[0], shard, reader)
        for tensor in shard.tensors:
            copy_tensor(tensor, reader, writer)
        writer.commit()
        tree.create(checkpoints[0], shard, reader)  # not finished: a temporary
        waiting = tree.create(checkpoints[0], shard, reader).sync()
    tree.journal_path.write_text("line\n")
    tree.suspend()
    assert not (tmp_path / "out").exists()
    with OutputTree(checkpoints, tmp_path / "out", resume=True) as tree:
        assert len(list(tree.partial.rglob("*.tmp"))) == 2
        assert waiting is not None
        assert tree.has_unfinished(checkpoints[0], shard, waiting)
        assert not tree.has_unfinished(checkpoints[0], shard, waiting._replace(size=waiting.size + 1))
        assert not tree.has_unfinished(checkpoints[0], shard, waiting._replace(name=".qdq-other.tmp"))
        finished = tree.shard_path(checkpoints[0], shard)
        tree.sweep(but=[finished, finished.with_name(waiting.name)])
        assert [path.name for path in tree.partial.rglob("*.tmp")] == [waiting.name]
        assert tree.shard_path(checkpoints[0], shard).read_bytes() == shard.path.read_bytes()
        assert tree.journal_path.read_text() == "line\n"
        tree.sweep()
        copy_all(tree, checkpoints)
        tree.commit()
    assert contents(tmp_path / "out") == contents(tmp_path / "in")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_an_earlier_output_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = [open_checkpoint(model_folder(tmp_path / "in"))]
    write(tmp_path / "out.qdq-partial" / "lock", b"")
    write(tmp_path / "out.qdq-partial" / "result" / "config.json", b"{}")

    def fail(_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with OutputTree(checkpoints, tmp_path / "out", resume=True) as tree:
        monkeypatch.setattr(os, "scandir", fail)
        with pytest.raises(OutputError, match=r"out\.qdq-partial/result: Input/output error; the disk"):
            tree.sweep()
        monkeypatch.undo()


def test_a_run_that_fails_leaves_nothing_unless_it_is_kept(tmp_path: Path) -> None:
    checkpoints = [open_checkpoint(model_folder(tmp_path / "in"))]
    for is_kept in (False, True):
        with suppress(OutputError), OutputTree(checkpoints, tmp_path / "out") as tree:
            copy_all(tree, checkpoints)
            if is_kept:
                tree.is_kept = True
            raise OutputError("the disk is full")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in"] + ["out.qdq-partial"] * is_kept


def test_a_run_that_resumes_takes_an_output_like_its_own_as_done(tmp_path: Path) -> None:
    checkpoints = [open_checkpoint(model_folder(tmp_path / "in"))]
    run([tmp_path / "in"], tmp_path / "out")
    before = (tmp_path / "out").stat().st_ino
    with OutputTree(checkpoints, tmp_path / "out", resume=True) as tree:
        copy_all(tree, checkpoints)
        tree.commit()
    assert (tmp_path / "out").stat().st_ino == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


@pytest.mark.parametrize("change", ["another byte", "one file less", "one file more"])
def test_a_run_that_resumes_does_not_replace_an_output_that_differs(tmp_path: Path, change: str) -> None:
    checkpoints = [open_checkpoint(model_folder(tmp_path / "in"))]
    run([tmp_path / "in"], tmp_path / "out")
    victim = next(path for path in (tmp_path / "out").rglob("*") if path.is_file())
    if change == "another byte":
        victim.write_bytes(victim.read_bytes()[:-1] + b"\xa5")
    elif change == "one file less":
        victim.unlink()
    else:
        write(tmp_path / "out" / "more.txt", b"words")
    before = contents(tmp_path / "out")
    with OutputTree(checkpoints, tmp_path / "out", resume=True) as tree:
        copy_all(tree, checkpoints)
        with pytest.raises(UsageError, match="OUTPUT exists and is not what this run gives"):
            tree.commit()
    assert contents(tmp_path / "out") == before


def test_a_run_killed_between_its_two_renames_loses_nothing(tmp_path: Path) -> None:
    checkpoints = [open_checkpoint(model_folder(tmp_path / "in"))]
    write(tmp_path / "out.qdq-partial" / "lock", b"")
    write(tmp_path / "out.qdq-partial" / "replaced" / "old.txt", b"old")
    with pytest.raises(UsageError, match="put back"), OutputTree(checkpoints, tmp_path / "out"):
        pass
    assert contents(tmp_path / "out") == {"old.txt": b"old"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_long_names_leave_no_room_for_a_suffix(tmp_path: Path) -> None:
    file = write(tmp_path / "w.safetensors", GOOD)
    output = tmp_path / ("n" * 250)
    assert len(partial_path(output).name) < 100
    run([file], output)
    assert output.read_bytes() == GOOD


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\n.safetensors")
    run([write(tmp_path / "in" / name, GOOD).parent], tmp_path / os.fsdecode(b"out\xfe"))
    assert (tmp_path / os.fsdecode(b"out\xfe") / name).read_bytes() == GOOD


def test_a_side_file_that_cannot_be_copied_is_found_before_work(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "in")
    os.mkfifo(folder / "odd.txt")
    with pytest.raises(InputError, match=r"odd\.txt: is "):
        OutputTree([open_checkpoint(folder)], tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_no_inputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no input"):
        OutputTree([], tmp_path / "out")
