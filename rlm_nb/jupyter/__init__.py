"""What a person types in a notebook, and what he sees there: the magics, and the kernel whose cells are tasks."""
