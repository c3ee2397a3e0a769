"""Runs what a run has recorded a second time: in a kernel of ours, or as "Run all" in anybody's."""
