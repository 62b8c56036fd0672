"""Statistics of web access logs."""
