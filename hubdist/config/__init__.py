"""The settings: one frozen `Config`, and where its values come from."""
