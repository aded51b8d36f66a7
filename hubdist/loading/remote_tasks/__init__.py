"""Models on the tasks of a TensorFlow cluster that no Ray runs on, such as Colab's TPUs or parameter servers."""
