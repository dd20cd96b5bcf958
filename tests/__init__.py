"""The tests; a package, as torch-fidelity installs another one of this name."""
