"""Many processes: the process group, the sharded step, all-reduce, batch norm, FSDP."""
