"""Three-way merging into files that have gone on meanwhile, for agents in their kernels and for the user's checkout."""
