"""What is done to a tree, one module each."""
