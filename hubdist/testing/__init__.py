"""For tests of code that uses hubdist: a hub on this machine, a source in memory, and a Ray cluster.

`hubdist.testing.hub.LoopbackHub` serves models by HTTP and fails on demand. `hubdist.testing.memory.MemorySource` is an
origin of your own without files. `hubdist.testing.cluster.RayCluster` starts several Ray nodes on this machine.
"""
