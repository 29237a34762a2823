"""Readers that go away, streams that are closed: a command does its work, and its exit code says how."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from verisal.checkpoint import load_checkpoint
from verisal.cli import main
from verisal.cli._process import lasting_output

CONFIG = """
model: {class_path: helpers.toy.ToyTask}
data: {class_path: helpers.toy.ToyData}
trainer: {max_epochs: 3, accelerator: cpu}
wandb: {mode: disabled}
"""


@pytest.fixture
def fit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("toy.yaml").write_text(CONFIG)
    return ["fit", "--config", "toy.yaml", "--run_dir", "run"]


def text_to(number):
    return os.fdopen(number, "w", encoding="utf-8")


class OneLine(io.StringIO):
    """Its reader takes a line and goes."""

    def write(self, text):
        if "\n" in self.getvalue():
            raise BrokenPipeError(32, "Broken pipe")
        return super().write(text)


def unread():
    reading, writing = os.pipe()
    os.close(reading)
    return text_to(writing)


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize(
    "make", [OneLine, unread, closed, lambda: None], ids=["head", "pipe", "closed", "none"]
)
@pytest.mark.parametrize("both", [False, True], ids=["stdout", "both"])
def test_a_training_goes_on_without_its_readers(fit, monkeypatch, make, both):
    streams = [make(), make()]
    monkeypatch.setattr(sys, "stdout", streams[0])
    if both:
        monkeypatch.setattr(sys, "stderr", streams[1])
    assert main(fit) == 0
    assert sys.stdout is streams[0]
    assert load_checkpoint("run/checkpoints/last.ckpt")["epoch"] == 3
    assert Path("run/report.json").is_file()
    if make is OneLine:
        assert streams[0].getvalue().count("\n") == 1
    if make is unread:
        streams[0].write("what is in the buffer when Python ends")
        streams[0].close()
        streams[1].close()


def test_a_refusal_has_its_exit_code_without_readers(fit, monkeypatch):
    with unread() as out, unread() as err:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        assert main([*fit, "--trainer.max_epoch=3"]) == 2
        assert main(["data", "check", "nowhere"]) == 1
        assert main(["fit", "--help"]) == 0


def test_a_full_disk_loses_the_words_and_says_so(monkeypatch, capsys):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with lasting_output():
            print("a", flush=True)
            print("b", flush=True)
    assert capsys.readouterr().err == "verisal: output is lost from here on: No space left on device\n"


def test_what_an_encoding_cannot_say_is_escaped(monkeypatch):
    content = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, encoding="ascii", write_through=True))
    with lasting_output():
        print("café \udcff")
    assert content.getvalue() == b"caf\\xe9 \\udcff\n"


def test_a_file_never_gets_the_number_of_a_closed_stream():
    code = (
        "import os, sys, verisal.__main__ as entry; entry._open_standard_streams();"
        "sys.exit(os.open('/dev/null', os.O_RDONLY) < 3)"
    )
    shell = f'exec "{sys.executable}" -c "{code}" <&- >&- 2>&-'
    assert subprocess.run(["/bin/sh", "-c", shell], timeout=280, check=False).returncode == 0  # noqa: S603
