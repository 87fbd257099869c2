"""All commands: one module per group, importing it registers them."""

from dpap_neuro.cli.shared import app

# In the order in which --help lists them.
# isort: off
from dpap_neuro.cli import learning  # noqa: F401
from dpap_neuro.cli import graphs  # noqa: F401
from dpap_neuro.cli import running  # noqa: F401
from dpap_neuro.cli import measuring  # noqa: F401
from dpap_neuro.cli import placing  # noqa: F401
from dpap_neuro.cli import reporting  # noqa: F401
from dpap_neuro.cli import data  # noqa: F401
# isort: on

__all__ = ["app"]
