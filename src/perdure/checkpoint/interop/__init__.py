"""Files of other programs, weights from anywhere, Catalyst-style helpers."""
