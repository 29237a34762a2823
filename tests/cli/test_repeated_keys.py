"""A key that stands twice in a config is refused, whichever command reads the file."""

import pytest

from verisal.cli import main
from verisal.cli._options import refuse_repeated_keys
from verisal.errors import ConfigError

TEXT = """# of a run
data:
  init_args:
    batch_size: 16
    splits: &splits {ratios: [0, 1, 0], seed: 1}
    again: *splits
    batch_size: 32
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TEXT, "the key 'batch_size' stands twice, in lines 4 and 7; keep one"),
        ("a: 1\nb: [{c: 1}, {c: 1, d: 2, c: 3}]\n", "the key 'c' stands twice, in lines 2 and 2; keep one"),
        ('{"seed": 1,\n "seed": 2}', "the key 'seed' stands twice, in lines 1 and 2; keep one"),
    ],
)
@pytest.mark.parametrize("form", ["--config {}", "--config={}", "--data={}"])
def test_file_key_and_lines_are_named(tmp_path, text, words, form):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        refuse_repeated_keys(form.format(path).split())
    assert str(error.value) == f"{path}: {words}"


@pytest.mark.parametrize("command", ["fit", "explain"])
def test_every_command_refuses_it_before_any_work(tmp_path, command, capsys):
    path = tmp_path / "config.yaml"
    path.write_text("seed_everything: 1\nseed_everything: 2\n")
    assert main([command, "--config", str(path)]) == 2
    assert f"{path}: the key 'seed_everything' stands twice" in capsys.readouterr().err


def test_other_faults_are_left_to_the_reader(tmp_path):
    loop = tmp_path / "loop.yaml"
    loop.write_text("a: &a\n  b: *a\nc: {<<: {d: 1}, d: 2}\n")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1, 2")
    others = ["fit", "--config", str(loop), str(broken), str(tmp_path / "none.yaml"), "--x=1"]
    refuse_repeated_keys(others)
    twice = tmp_path / "twice.yaml"
    twice.write_text("a: 1\na: 2\n")
    with pytest.raises(ConfigError, match="the key 'a' stands twice, in lines 1 and 2"):
        refuse_repeated_keys([*others, str(twice)])
