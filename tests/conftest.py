"""What several test files need: rasters that commands keep go into a folder of the test run; kernels for a GPU run without one."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="session")
def cache_of_this_run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPAP_NEURO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def triton_interpreter():
    """Triton's kernels run in its interpreter, where they are imported for the first time in here."""
    pytest.importorskip(
        "triton", reason="Triton comes with PyTorch's GPU builds, or alone by `pip install triton`"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        yield
