"""What the machine offers to all packages: disks, locks, mounts, threads, deadlines, and calls of foreign code."""
