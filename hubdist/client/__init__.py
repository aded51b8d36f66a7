"""What users call: `init`, `load`, `resolve`, `prefetch` and the rest. Puts all other parts together."""
