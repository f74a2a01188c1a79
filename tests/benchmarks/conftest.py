"""Benchmarks use all cores; the tests, several of which run at once, one each."""

import os

os.environ.pop("OMP_NUM_THREADS", None)
