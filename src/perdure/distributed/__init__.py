"""Distributed training: process group, sharded step, all-reduce of gradients, batch norm, FSDP."""
