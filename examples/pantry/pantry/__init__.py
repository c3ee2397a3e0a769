"""Scale recipes and write the shopping list for them."""

__version__ = "0.3.0"
