"""What needs a running Ray cluster; the only home of ray."""
