"""Commands that look after the checkout itself: what it needs and what it pins."""
