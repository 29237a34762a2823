"""What every test gets: one torch thread, W&B offline in a folder of its own, no network, fixed examples."""

import multiprocessing
import os

# Before anything imports W&B or matplotlib, and without touching the home folder.
for _name in [name for name in os.environ if name.startswith("WANDB_")]:
    del os.environ[_name]
os.environ["WANDB_MODE"] = "offline"

import hypothesis  # noqa: E402 - see above
import pytest  # noqa: E402
import torch  # noqa: E402

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


@pytest.fixture(autouse=True)
def _same_random_numbers():
    """Every test starts from one state, whatever ran before it."""
    torch.manual_seed(0)
