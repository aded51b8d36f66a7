"""The state of a loaded model: what it was when it was published, and what has changed since.

`parts` names the objects of a model. `attributes`, `variables`, `graph_variables` and `tables` each remember one kind
of state at the load and compare it later. `eager` and `graph` put them together for a whole model, in eager mode and
in a `tf.Graph`. `changes` holds the differences as plain values, which can be pickled.
"""
