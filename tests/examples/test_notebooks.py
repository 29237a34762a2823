"""The notebook of the tutorials runs from its first cell to its last, and prints what its words promise."""

import os
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

nbclient = pytest.importorskip("nbclient", reason="needs the extra dev")
nbformat = pytest.importorskip("nbformat", reason="needs the extra dev")
pytest.importorskip("ipykernel", reason="needs the extra dev")

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs/tutorials/explain_compare_alarm.ipynb"


@pytest.mark.timeout(900)
# A kernel that ends may leave a socket to the collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_notebook_explains_compares_and_raises_an_alarm(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 1
    text = "".join(output.get("text", "") for output in outputs)
    assert "espresso" in text
    found = {
        name: float(value) for name, value in re.findall(r"^(\w+) +\{.*'RelevanceGap': '(\S+)'\}", text, re.M)
    }
    assert found["EvidenceMasks"] > 0.5 > 0.1 > abs(found["RandomMap"])
    alarms = dict(re.findall(r"^(clean|attacked): right .* alarms ([\d.]+)$", text, re.M))
    assert float(alarms["attacked"]) > 0.6 > 0.3 > float(alarms["clean"])
