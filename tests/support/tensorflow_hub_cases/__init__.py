"""What programs do with tensorflow_hub, with hubdist installed behind it: `*_cases.py`, one for each subject.

The behaviours are those that tensorflow_hub's own tests ask for. `tests/tf/test_tensorflow_hub.py` runs these files in
a process that has tensorflow_hub and Keras 2. Where a model is read by its path on this node, hubdist has no part in
it: so answers by handle are compared with answers by path.
"""
