"""What `hubdist doctor` and `hubdist env` find out of machines, stores, ports, origins and clocks, and judge.

Each module has one subject: it measures on a node, and judges what nodes have measured. `examination` puts them in
order. A process on each node measures (`probe`); `cluster.node_probes` starts those of a Ray cluster.
"""
