"""The node agent: the actor that works on one node while something is delivered to it or from it."""
