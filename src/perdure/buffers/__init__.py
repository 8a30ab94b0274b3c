"""What is kept of the past: storage, and the policies that choose what stays."""
