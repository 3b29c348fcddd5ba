"""The planted bases and runs of the training tests."""

from tests.train.conftest import bench

__all__ = ["bench"]
