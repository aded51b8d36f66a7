"""What keeps stores and the shared cache in order: lists, verifies, repairs, removes, and tells what has to stay."""
