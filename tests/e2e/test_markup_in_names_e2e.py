"""Files, classes, methods and a run whose names are markup, from the folder to every report of the run."""

import re
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt
from PIL import Image

from helpers.html_pages import Parsed, assert_sound
from verisal.cli import main

CLASSES = ("<b>cat", "a|b `c` *d*")
METHOD = "<i>mine"
RUN = "<img src=x onerror=alert(2)>"


def file_name(number):
    return f"<img src=x onerror=alert({number})>.png"


def config():
    panels = {
        "class_path": "SaliencyPanels",
        "init_args": {"methods": {METHOD: {"class_path": "Gradient"}}, "max_images": None},
    }
    images = {"class_path": "ImageFolder", "init_args": {"root": "images"}}
    return {
        "model": {
            "class_path": "ClassifierTask",
            "init_args": {"widths": [4, 4, 4, 4], "stem_stride": 1, "max_shift": 0},
        },
        "data": {
            "class_path": "ImageData",
            "init_args": {
                "splits": {"images": images, "ratios": [0.5, 0.25, 0.25]},
                "image_size": 8,
                "batch_size": 8,
                "num_workers": 0,
            },
        },
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "callbacks": [panels]},
        "wandb": {"mode": "disabled"},
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("markup")
    for place, name in enumerate(CLASSES):
        (folder / "images" / name).mkdir(parents=True)
        for number in range(16):
            colour = (120 * place + number, 7 * number, 40)
            Image.new("RGB", (8, 8), colour).save(folder / "images" / name / file_name(number))
    (folder / "markup.yaml").write_text(yaml.safe_dump(config()))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["fit", "--config", "markup.yaml", "--run_dir", RUN]) == 0
    return folder / RUN


def test_they_show_as_text_in_the_html_report(run):
    page = assert_sound((run / "report.html").read_text())
    assert re.search(r"<img src=x onerror=alert\(\d+\)>\.png: labelled", page.text)
    assert any("labelled <b>cat" in one["alt"] for one in page.all("img"))
    assert "labelled a|b `c` *d*" in page.text
    titles = [words for tag, words in page.words if tag in ("title", "h1")]
    assert titles == [f"{RUN}: test"] * 2
    assert f"--run_dir '{RUN}'" in page.text


def test_they_show_as_text_in_markdown(run):
    text = (run / "report.md").read_text()
    page = Parsed(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))
    assert page.all("b") == page.all("i") == []
    sources = [one["src"] for one in page.all("img")]
    assert sources
    assert all((run / source).is_file() for source in sources)
    assert any(re.search(r"<img src=x onerror=alert\(\d+\)>\.png", one["alt"]) for one in page.all("img"))
    assert f"run: {RUN}" in page.text


def test_all_of_the_time_is_counted(run):
    text = (run / "report.md").read_text()
    times = re.findall(r"^- time, (.*): ", text, flags=re.MULTILINE)
    assert times == ["preparation", "fit", "test", "figures", "total"]
    assert Path(run / "figures").is_dir()
