"""Facts that ranks share before torch is imported: environment, rendezvous, shards."""
