"""What the machine gives: disks, locks, mounts, threads, deadlines, and calls of foreign code."""
