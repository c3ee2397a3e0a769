"""The models that can answer, one provider a file."""
