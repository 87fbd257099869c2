"""Deployment: from a `.nir` file to integer networks, their simulation, and the cores they fill.

Never imports torch, norse, tonic or `dpap_neuro`, so that it runs inside Lava's Python 3.10.
"""
