"""What every test gets: one torch thread, W&B offline in a folder of its own, no network, fixed examples."""

import multiprocessing
import os

# Before anything imports W&B or matplotlib, and without touching the home folder.
for _name in [name for name in os.environ if name.startswith("WANDB_")]:
    del os.environ[_name]
os.environ["WANDB_MODE"] = "offline"
# Commands in processes of their own compute on as many threads as the tests, unless somebody says otherwise.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis  # noqa: E402 - see above
import pytest  # noqa: E402
import torch  # noqa: E402

from verisal.cli._memory import keep_freed_memory  # noqa: E402

keep_freed_memory()

hypothesis.settings.register_profile(
    "ci", derandomize=True, deadline=None, database=None, max_examples=50, print_blob=True
)
hypothesis.settings.load_profile("ci")

# Tests that need processes fork them from a server, which imports this once, when the first of them asks.
multiprocessing.set_forkserver_preload(["verisal.cli._app", "verisal.cli._export"])


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _wandb_apart(tmp_path_factory):
    """W&B writes its caches, logs and settings under a temporary folder, and finds no login."""
    root = tmp_path_factory.mktemp("wandb")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DIR", "CACHE_DIR", "CONFIG_DIR", "DATA_DIR", "ARTIFACT_DIR"):
            folder = root / name.lower()
            folder.mkdir()
            patch.setenv(f"WANDB_{name}", str(folder))
        patch.setenv("NETRC", str(root / "no-netrc"))
        yield


def pytest_collection_modifyitems(items):
    """Whole commands first, so that several processes end with short tests at about the same time."""
    slow = ("e2e", "ddp", "studies", "tasks", "cli")
    items.sort(key=lambda item: item.path.parent.name not in slow)


@pytest.fixture
def without_figures(monkeypatch):
    """Reports without pictures, for commands that are run for their numbers: drawing takes longest."""
    monkeypatch.setattr("verisal.callbacks.report.draw_run", lambda *given: ())
    monkeypatch.setattr("verisal.callbacks.report.panels_of", lambda *given: {})


@pytest.fixture(autouse=True)
def _same_random_numbers():
    """Every test starts from one state, whatever ran before it."""
    torch.manual_seed(0)
