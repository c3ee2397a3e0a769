"""How a busy kernel asks its controller."""
