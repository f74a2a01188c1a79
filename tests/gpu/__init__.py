"""The tier that needs a CUDA device: `make test-gpu`; a package, so that its conftest is no second module of that name."""
