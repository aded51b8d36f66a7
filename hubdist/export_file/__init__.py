"""The file that `hubdist export` writes and `hubdist import` reads: models for a cluster without a network.

`layout` says what such a file is, byte by byte. `writing` writes one, and goes on with one that was begun. `reading`
reads one and checks every byte of it. `importing` puts its models into a store.
"""
