"""Stands before the package of this name on the path of unit tests, which must not import it."""

raise AssertionError("a unit test imported tensorflow; tests that need it belong to tests/cluster or tests/tf")
