"""Authentication: access tokens, TLS and the interceptor."""
