"""Memory that is freed and asked for again."""

import resource
import subprocess
import sys
import textwrap

import pytest

_PASSES = """
    import resource, sys
    import torch
    from verisal.cli._memory import keep_freed_memory

    torch.set_num_threads(1)
    kept = keep_freed_memory() if sys.argv[1] == "kept" else False
    layers = torch.nn.Sequential(*(torch.nn.Conv2d(8, 8, 3, padding=1) for _ in range(4)))
    images = torch.rand(16, 8, 128, 128)
    layers(images)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        layers(images)
    print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
    """Whether memory is kept, and pages that the kernel had to give in five passes."""
    command = [sys.executable, "-c", textwrap.dedent(_PASSES), how]
    said = subprocess.run(  # noqa: S603 - our own script
        command, capture_output=True, text=True, check=True
    ).stdout.split()
    return bool(int(said[0])), int(said[1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the memory of other systems is left alone")
def test_passes_ask_the_kernel_for_no_new_pages():
    kept, few = faults("kept")
    if not kept:
        pytest.skip("this C library does not say how it keeps memory")
    _, many = faults("as it is")
    assert few < many / 10
    assert resource.getpagesize() * many > 100 * 2**20
