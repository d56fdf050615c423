"""Front ends: what stands between a socket or a framework and the HTTP handler."""
