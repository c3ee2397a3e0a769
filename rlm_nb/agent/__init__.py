"""The loop of one agent, and what it says to the model."""
