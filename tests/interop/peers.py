"""The frameworks that networks are exchanged with, and their versions: a new version is one line to try.

`python tests/interop/peers.py` prints a line for each: its name, then what pip is to install for it. NIR and NIRTorch are those of
the main environment: Sinabs pins nir 1.0.4, which runs beside nothing else, and reads and runs with the newer one.
"""

from __future__ import annotations

PEERS: dict[str, tuple[str, ...]] = {
    "norse": (),
    "snntorch": ("snntorch==1.0.0",),
    "spikingjelly": ("spikingjelly==2.0.0",),
    "sinabs": ("sinabs==3.1.3",),
    "rockpool": ("rockpool==3.1.0",),
}
# Run by hand where something changes, since JAX is large: what was found is kept beside this file, as NAME.json.
BY_HAND: dict[str, tuple[str, ...]] = {"spyx": ("spyx==1.0.0",)}

if __name__ == "__main__":
    for name, packages in PEERS.items():
        print(name, *packages)
