"""Replay buffers: storage of exemplars, and the policies that choose which are kept."""
