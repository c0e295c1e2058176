"""Benchmarks: one script per published figure; README.md lists them."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # must precede TensorFlow's import
