"""The classes that a tenant may add to and segment by."""
