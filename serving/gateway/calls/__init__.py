"""Open calls: who may hold how many, and for how long they may neither send nor read."""
