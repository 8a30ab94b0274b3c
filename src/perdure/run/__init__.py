"""One run: assembled from a configuration, resumed, restored, recorded."""
