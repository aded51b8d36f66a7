"""For tests of hubdist and of code that uses it: a loopback hub, an in-memory source, a cluster."""
