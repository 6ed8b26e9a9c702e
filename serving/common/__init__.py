"""What the programs of the service share: their logs, their metrics page and how they listen."""
