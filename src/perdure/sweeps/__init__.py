"""Many runs from one command: how the jobs of a sweep are started, watched, and told of."""
