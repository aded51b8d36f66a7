"""A node's disk: published snapshots, the stages in which they are made, who uses them, and how they are evicted."""
