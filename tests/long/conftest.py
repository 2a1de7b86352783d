"""What the long tests share with the end-to-end tests."""

from tests.e2e.conftest import data_dir

__all__ = ["data_dir"]
