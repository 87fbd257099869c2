"""`python -m dpap_neuro.cli`, and `torchrun -m dpap_neuro.cli train ...`."""

from dpap_neuro.cli import main

main()
