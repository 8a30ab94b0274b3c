"""Files and transfers: atomic writes, locks, downloads over HTTP, object stores, redaction."""
