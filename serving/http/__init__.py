"""HTTP front of the gateway: the API as JSON, health, and the routes of the page and of tools."""
