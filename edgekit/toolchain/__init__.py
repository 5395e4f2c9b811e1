"""The worker process: the only place where TensorFlow, Keras and the converters are imported."""
