"""Images of 2048 x 2048 pixels: memory stays that of one pass, measured in a process of its own."""

import subprocess
import sys

import pytest

SCRIPT = """
import re, torch
from pathlib import Path
from verisal.functional.baselines import Constant
from verisal.models import Classifier
from verisal.saliency import RISE, GradCAM, Gradient, Occlusion


torch.set_num_threads(1)
torch.manual_seed(0)
network = torch.nn.Sequential(
    torch.nn.Conv2d(3, 8, 5, stride=4), torch.nn.ReLU(), torch.nn.Conv2d(8, 16, 3, stride=4), torch.nn.ReLU(),
    torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(16, 4),
)
classifier = Classifier(network, ["2"], normalization="none", class_names=tuple("abcd"))
# More than memory has room for at once, were they not taken one by one.
images = torch.rand(2, 3, 2048, 2048)
for method in (
    Gradient(),
    GradCAM(),
    Occlusion(window=1024, stride=512, baseline=Constant()),
    RISE(cells=4, masks=6, baseline=Constant()),
):
    found = method(classifier, images, 1)
    assert found.saliency.shape == (2, 1, 2048, 2048)
    assert found.attribution.isfinite().all() and found.attribution.any()
    # Not ru_maxrss, in which a process that is started by a large one has that one's peak.
    peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
    print(type(method).__name__, int(peak[1]) // 1024)
"""


@pytest.mark.slow
def test_2048_pixels_in_two_gigabytes():
    done = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    peaks = dict(line.split() for line in done.stdout.splitlines())
    assert list(peaks) == ["Gradient", "GradCAM", "Occlusion", "RISE"]
    assert int(peaks["RISE"]) < 2048, peaks
