"""What the machine gives this process."""

from __future__ import annotations

import os


def cores() -> int:
    """Cores this process may use; all of the machine where the system (not Linux) does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
