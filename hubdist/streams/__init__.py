"""Bytes from node to node over plain TCP: units of a delivery, pushed from parent to child once verified."""
