"""The record of a run as notebooks: written while it goes on, read back afterwards."""
