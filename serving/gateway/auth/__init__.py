"""Authentication: access tokens and the interceptor."""
