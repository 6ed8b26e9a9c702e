"""ASGI middleware of the HTTP front: headers, observation, origins and disconnects."""
