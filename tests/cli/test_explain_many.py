"""``verisal explain`` on many images: helpers, stopping and going on, maps alone."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from verisal.cli import _explain_command, main
from verisal.cli._explain_done import Origin, has_mark, mark_of, with_mark
from verisal.cli._explain_helpers import ALONE, helpers_for, helping
from verisal.errors import DataError
from verisal.models import load_classifier

# One image at a time, so that a few are many.
QUICK = ["--classifier=emoji_scenes_64", "--saliency=GradCAM", "--batch_size=1", "--sheet_images=2"]
NAMES = ["a.png", "b.png", "c.png"]


def paint(path, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (70, 70, 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def photos(tmp_path):
    """Folder with three pictures."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed, name in enumerate(NAMES):
        paint(folder / name, seed)
    return folder


def explain(photos, out, *words):
    return main(["explain", str(photos), *QUICK, "--output", str(out), *words])


def started(photos, out, *words):
    """The command in a process of its own, with a helper."""
    command = [sys.executable, "-m", "verisal", "explain", str(photos), *QUICK, "--output", str(out)]
    return subprocess.Popen(  # noqa: S603
        [*command, "--threads=2", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def maps(path):
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def assert_same_files(one, other):
    assert sorted(times(one)) == sorted(times(other))
    for path in one.iterdir():
        if path.suffix == ".png":
            assert path.read_bytes() == (other / path.name).read_bytes(), path.name
            continue
        mine, its = maps(path), maps(other / path.name)
        assert mine.keys() == its.keys()
        for name, values in mine.items():
            np.testing.assert_array_equal(values, its[name], err_msg=f"{path.name}: {name}")


@pytest.mark.slow
def test_helpers_write_what_one_process_writes_in_the_same_order(photos, tmp_path):
    """A file that cannot be read is between the others, and one picture is on no sheet of two."""
    (photos / "bb.png").write_bytes(b"not a picture")
    process = started(photos, tmp_path / "helped")
    said, error = process.communicate(timeout=280)
    assert process.returncode == 1, error
    assert "bb.png" in error
    assert [line.partition(":")[0] for line in said.splitlines() if ".explained.png" in line] == NAMES
    assert said.count("contact sheet: ") == 2
    assert explain(photos, tmp_path / "alone", "--threads=2") == 1
    assert_same_files(tmp_path / "helped", tmp_path / "alone")
    # Each by itself, too.
    for name in NAMES:
        assert explain(photos / name, tmp_path / "single", "--threads=2") == 0
    for name in NAMES:
        for suffix in (".npz", ".explained.png"):
            (tmp_path / "helped" / f"{name}{suffix}").rename(tmp_path / f"{name}{suffix}")
            (tmp_path / f"{name}{suffix}").rename(tmp_path / "alone" / f"{name}{suffix}")
    for sheet in (tmp_path / "alone").glob("contact_sheet_*.png"):
        sheet.unlink()
    assert_same_files(tmp_path / "alone", tmp_path / "single")


def children_of(process):
    """Numbers of the processes that a process started, and of those that they did."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            after = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(after[1])
    found = {process}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {process}


@pytest.mark.slow
def test_a_command_that_is_killed_goes_on_where_it_was(photos, tmp_path, capsys):
    for seed in range(3, 9):
        paint(photos / f"f{seed}.png", seed)
    out = tmp_path / "out"
    process = started(photos, out)
    deadline = time.monotonic() + 240
    while len(list(out.glob("[!.]*.npz"))) < 2 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    children = children_of(process.pid)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline, "helpers go on without the process that they help"
        time.sleep(0.01)
    before = {name: time for name, time in times(out).items() if name.endswith(".npz") and name[0] != "."}
    assert 2 <= len(before) < 9
    assert explain(photos, out, "--threads=2") == 0
    assert (
        f"{len(before)} of 9 images are in {out} already, and would come out the same"
        in capsys.readouterr().out
    )
    after = times(out)
    assert before.items() <= after.items()
    assert explain(photos, tmp_path / "whole", "--threads=2") == 0
    left = [name for name in after if name.endswith(".tmp")]
    for name in left:
        (out / name).unlink()
    assert_same_files(tmp_path / "whole", out)
    # All of it is done now, the sheets too.
    capsys.readouterr()
    assert explain(photos, out) == 0
    assert capsys.readouterr().out == f"9 of 9 images are in {out} already, and would come out the same\n"
    assert times(out) == {name: time for name, time in after.items() if name not in left}


@pytest.mark.slow
def test_ctrl_c_ends_the_helpers_without_a_word_of_theirs(photos, tmp_path):
    for seed in range(3, 9):
        paint(photos / f"f{seed}.png", seed)
    process = started(photos, tmp_path / "out")
    deadline = time.monotonic() + 240
    while len(list((tmp_path / "out").glob("[!.]*.npz"))) < 2 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for number in (process.pid, *children_of(process.pid)):
        os.kill(number, signal.SIGINT)
    _, error = process.communicate(timeout=240)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert "verisal: stopped by SIGINT" in error


@pytest.fixture
def done(photos, tmp_path, capsys):
    """Folder of the finished command."""
    assert explain(photos, tmp_path / "out") == 0
    capsys.readouterr()
    return tmp_path / "out"


@pytest.fixture
def done_maps(photos, tmp_path, capsys):
    """The same without figures."""
    assert explain(photos, tmp_path / "maps", "--maps-only") == 0
    capsys.readouterr()
    return tmp_path / "maps"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--query=second"], "query (3 images)"),
        (["--disturbed_query=second"], "disturbed_query (3 images)"),
        (["--saliency=Gradient"], "saliency (3 images)"),
        (["--classifier_output=sigmoid"], "output (3 images)"),
        (["--class_names=NAMES"], "class_names (3 images)"),
        (["--channel_rule=replicate"], "channels and window (3 images)"),
    ],
)
def test_other_settings_explain_again(photos, done_maps, words, why, tmp_path, capsys):
    before = times(done_maps)
    names, count = tmp_path / "names.txt", load_classifier("emoji_scenes_64").num_classes
    names.write_text("\n".join(f"class {number}" for number in range(count)))
    words = ["--maps-only", *(word.replace("NAMES", str(names)) for word in words)]
    assert explain(photos, done_maps, *words) == 0
    said = capsys.readouterr().out
    assert f"explained again, because earlier results in {done_maps} differ in {why}" in said
    assert "already" not in said
    after = times(done_maps)
    assert all(after[name] > before[name] for name in before)
    assert explain(photos, tmp_path / "fresh", *words) == 0
    assert_same_files(tmp_path / "fresh", done_maps)


def test_figures_that_show_something_else_are_drawn_again(photos, done, tmp_path, capsys):
    assert explain(photos, done, "--opacity=0.2") == 0
    assert "differ in figure (3 images)" in capsys.readouterr().out
    assert explain(photos, tmp_path / "fresh", "--opacity=0.2") == 0
    assert_same_files(tmp_path / "fresh", done)


def test_other_weights_explain_again(photos, done_maps, monkeypatch, capsys):
    loaded = _explain_command._on_device

    def changed(source, device):
        classifier = loaded(source, device)
        with torch.no_grad():
            next(classifier.parameters()).mul_(1.01)
        return classifier

    monkeypatch.setattr(_explain_command, "_on_device", changed)
    assert explain(photos, done_maps, "--maps-only") == 0
    assert "differ in classifier (3 images)" in capsys.readouterr().out


def test_another_picture_of_the_same_name_is_explained_again(photos, done, capsys):
    before = times(done)
    paint(photos / "b.png", 77)
    assert explain(photos, done) == 0
    said = capsys.readouterr().out
    assert f"2 of 3 images are in {done} already" in said
    assert "differ in image file (1 image)" in said
    after = times(done)
    changed = {name for name in before if after[name] != before[name]}
    # Its sheet is drawn again, with what the maps of the picture beside it hold.
    assert changed == {"b.png.npz", "b.png.explained.png", "contact_sheet_1.png"}
    assert explain(photos, photos.parent / "fresh") == 0
    assert_same_files(photos.parent / "fresh", done)


def test_a_new_picture_in_front_moves_the_others_on_the_sheets(photos, done, tmp_path, capsys):
    paint(photos / "0.png", 99)
    before = times(done)
    assert explain(photos, done) == 0
    assert capsys.readouterr().out.count("contact sheet: ") == 2
    assert {name for name in before if times(done)[name] == before[name]} == {
        f"{name}{suffix}" for name in NAMES for suffix in (".npz", ".explained.png")
    }
    assert explain(photos, tmp_path / "fresh") == 0
    assert_same_files(tmp_path / "fresh", done)


def damaged(content):
    return content[: len(content) // 2]


def without_origin(content):
    arrays = dict(np.load(io.BytesIO(content)))
    del arrays["origin"]
    made = io.BytesIO()
    np.savez(made, **arrays)
    return made.getvalue()


@pytest.mark.parametrize(
    "change", [damaged, without_origin, lambda content: b"", lambda content: b"PK\3\4 no archive"]
)
def test_maps_that_are_not_whole_are_made_again(photos, done_maps, change, capsys):
    path = done_maps / "b.png.npz"
    whole = maps(path)
    path.write_bytes(change(path.read_bytes()))
    assert explain(photos, done_maps, "--maps-only") == 0
    assert f"2 of 3 images are in {done_maps} already" in capsys.readouterr().out
    for name, values in maps(path).items():
        np.testing.assert_array_equal(values, whole[name])


def test_a_figure_that_is_gone_is_drawn_again(photos, done, capsys):
    (done / "c.png.explained.png").unlink()
    assert explain(photos, done) == 0
    assert "differ in figure (1 image)" in capsys.readouterr().out
    assert (done / "c.png.explained.png").is_file()


def test_maps_only(photos, done, done_maps, tmp_path, capsys):
    assert sorted(times(done_maps)) == [f"{name}.npz" for name in NAMES]
    for name in NAMES:
        mine, its = maps(done_maps / f"{name}.npz"), maps(done / f"{name}.npz")
        assert json.loads(str(mine.pop("origin")))["figure"] is None
        assert json.loads(str(its.pop("origin")))["figure"] == {"display_channels": None, "opacity": 0.7}
        for array, values in mine.items():
            np.testing.assert_array_equal(values, its[array])
    # Where there are figures as well, the maps are enough.
    assert explain(photos, done, "--maps_only") == 0
    assert "3 of 3 images" in capsys.readouterr().out
    assert explain(photos, done_maps) == 0
    assert "differ in figure (3 images)" in capsys.readouterr().out
    assert_same_files(done_maps, done)


def test_where_maps_are_is_said_and_a_config_may_ask_for_them_alone(photos, tmp_path, capsys):
    (tmp_path / "maps.yaml").write_text("maps_only: true\n")
    out = tmp_path / "out"
    assert explain(photos, out, "--config", str(tmp_path / "maps.yaml")) == 0
    said = capsys.readouterr().out
    assert [f"-> {out / name}.npz" in said for name in NAMES] == [True] * 3
    assert len(times(out)) == 3


def test_images_that_cannot_be_read_are_tried_again(photos, done_maps, capsys):
    (photos / "b.png").write_bytes(b"not a picture")
    assert explain(photos, done_maps, "--maps-only") == 1
    said = capsys.readouterr()
    assert "2 of 3 images" in said.out
    assert "not read" in said.err
    paint(photos / "b.png", 2)
    assert explain(photos, done_maps, "--maps-only") == 0
    assert "b.png.npz" in capsys.readouterr().out


def test_what_a_command_wrote_into_the_folder_is_no_image_of_the_next(photos, monkeypatch, capsys):
    monkeypatch.chdir(photos)
    for said in ("a.png: ", "3 of 3 images are in explanations already"):
        assert main(["explain", ".", *QUICK, "--maps-only"]) == 0
        assert said in capsys.readouterr().out
    assert len(list((photos / "explanations").glob("*.npz"))) == 3


def test_lines_on_all_images_count_those_of_an_earlier_command(photos, tmp_path, capsys):
    Image.new("RGB", (90, 70)).save(photos / "b.png")
    words = ["explain", str(photos), "--saliency=EdgeDetector", "--output", str(tmp_path / "out")]
    assert main([*words, "--maps-only"]) == 0
    first = capsys.readouterr().out.splitlines()
    assert main([*words, "--maps-only"]) == 0
    again = capsys.readouterr().out.splitlines()
    on_all = ("doubt", "proportions", "middle is explained")
    assert [line for line in first if any(word in line for word in on_all)] == again[1:]
    assert len(again) == 4


@pytest.mark.parametrize(
    ("images", "threads", "on_gpu", "count"),
    [
        (16, 8, False, 0),
        (17, 1, False, 0),
        (17, 2, False, 1),
        (17, 8, False, 4),
        (17, 64, False, 8),
        (17, 1, True, 0),
        (17, 8, True, 7),
        (16, 8, True, 0),
    ],
)
def test_helpers_leave_the_cores_to_the_network(images, threads, on_gpu, count):
    assert helpers_for(images, threads=threads, at_once=8, on_gpu=on_gpu) == count


def refuse(words):
    raise DataError(words)


def by_helper(helpers, *work):
    """The result of a job that nobody else has taken."""
    job = helpers.job(*work)
    while not job.done:
        time.sleep(0.01)
    return job.result()


def test_jobs_are_done_here_or_by_a_helper_and_raise_their_errors(capsys):
    assert ALONE.job(divmod, 7, 2).result() == (3, 1)
    with helping(1) as helpers:
        jobs = [helpers.job(divmod, number, 2) for number in range(9)]
        # From the end: what no helper has begun is done here.
        assert [job.result() for job in reversed(jobs)] == [
            divmod(number, 2) for number in reversed(range(9))
        ]
        assert by_helper(helpers, os.getpid) != os.getpid()
        with pytest.raises(DataError, match="no such image"):
            by_helper(helpers, refuse, "no such image")
    assert capsys.readouterr().err == ""


def test_a_helper_that_is_killed_is_done_without(capsys):
    with helping(1) as helpers:
        pid = by_helper(helpers, os.getpid)
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while helpers.number and time.monotonic() < deadline:
            assert helpers.job(divmod, 7, 2).result() == (3, 1)
        assert helpers.number == 0
        assert helpers.job(os.getpid).result() == os.getpid()
    assert capsys.readouterr().err.count("a helping process was ended from outside") == 1


def test_a_mark_is_in_a_file_that_shows_the_same(tmp_path):
    paint(tmp_path / "a.png", 1)
    content = (tmp_path / "a.png").read_bytes()
    mark = mark_of(0.7, ["a"])
    (tmp_path / "b.png").write_bytes(with_mark(content, mark))
    assert has_mark(tmp_path / "b.png", mark)
    assert not has_mark(tmp_path / "b.png", mark_of(0.7, ["b"]))
    assert not has_mark(tmp_path / "a.png", mark)
    assert not has_mark(tmp_path / "none.png", mark)
    with Image.open(tmp_path / "a.png") as one, Image.open(tmp_path / "b.png") as other:
        assert one.tobytes() == other.tobytes()
        other.load()
        assert other.text == {"verisal": mark}


def test_the_origin_is_read_as_it_was_written(tmp_path):
    origin = Origin({"saliency": {"steps": 3}}, {"bytes": 4, "modified": 5}, None, (70, 60), 0.1)
    np.savez(tmp_path / "a.npz", origin=np.array(origin.text()))
    found = Origin.of(tmp_path / "a.npz")
    assert found == origin
    assert found.text() == origin.text()
    assert found.differs(origin.made_with, origin.file) == []
    assert found.differs({"saliency": {"steps": 4}, "query": "top1"}, {"bytes": 4, "modified": 6}) == [
        "saliency",
        "query",
        "image file",
    ]
    assert Origin.of(tmp_path / "none.npz") is None
