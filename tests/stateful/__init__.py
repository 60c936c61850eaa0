"""Random administrators, package tools and a daemon that is killed now and then, on a real tree, against a model."""
