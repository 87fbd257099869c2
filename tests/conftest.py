"""Rasters that commands keep go into a folder of the test run, not into the user's cache."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="session")
def cache_of_this_run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPAP_NEURO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
