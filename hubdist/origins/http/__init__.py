"""Reading over HTTP and HTTPS: what arrives whole and unmixed, or fails with a reason."""
