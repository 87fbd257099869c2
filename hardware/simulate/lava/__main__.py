"""``python -m hardware.simulate.lava``."""

import sys

from hardware.simulate.lava import main

sys.exit(main())
