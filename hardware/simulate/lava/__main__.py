"""``python -m hardware.simulate.lava``."""

import sys

from hardware.simulate.lava.elsewhere import main

sys.exit(main())
